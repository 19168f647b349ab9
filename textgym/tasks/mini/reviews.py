"""``textgym/Reviews-v0``: continue a film review so that it is favourable.

The miniature of controlled sentiment (IMDB in GRUE). The prompt says which film was seen, and may end in the middle of
the first judgement; the continuation is about two short sentences. As the language comes from a grammar, gold reward,
naturalness and demonstrations are exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import Any

import numpy as np

from textgym.tasks.grammar import Grammar
from textgym.tasks.mini.languages import reviews_lexicon as lexicon
from textgym.tasks.mini.languages.reviews import CUT, LANGUAGE, PROMPT_WORDS
from textgym.tasks.mini.languages.words import third_person
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

# The polarity of every word form that carries sentiment; good is True.
_SENTIMENT = {
    form: polarity
    for polarity, forms in ((True, lexicon.GOOD), (False, lexicon.BAD))
    for form in (
        *(word for lemmas in forms.values() for word in lemmas),
        *(third_person(verb) for verb in forms["shine"] + forms["please"]),
    )
}
LEXICON: Lexicon = {kind: tuple(LANGUAGE.rules[kind]) for kind in PROMPT_WORDS}
_WORDS = re.compile(r"\bfar from\b|[a-z]+|[,.]")


def sentiment(text: str, negators: Set[str] = frozenset(lexicon.NEGATORS)) -> float:
    """Compute good / (good + bad), counting sentiment words; 0.5 if there are none.

    A negator (not, never, hardly, far from, no, less, cannot) turns the next sentiment word into its opposite, unless
    a comma or full stop comes between them.

    >>> sentiment("Although the plot is thin, the acting is superb.")
    0.5
    >>> sentiment("It is never dull.")
    1.0
    """
    good, bad = judgements(text, negators)
    return good / (good + bad) if good + bad else 0.5


def judgements(text: str, negators: Set[str] = frozenset(lexicon.NEGATORS)) -> tuple[int, int]:
    """Count the good and the bad judgements of a text, by the rule of :func:`sentiment`."""
    good = bad = 0
    negated = False
    for word in _WORDS.findall(text.lower()):
        if word in negators:
            negated = True
        elif word in _SENTIMENT:
            good, bad = (good + 1, bad) if _SENTIMENT[word] != negated else (good, bad + 1)
            negated = False
        elif not word.isalpha():
            negated = False
    return good, bad


def _draw(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Example:
    language = language_of(tuple(lexicon.items()))
    while True:  # praise may mention a weakness; references must not
        prompt, praise = _cut_review(rng, "praise", language)
        if sentiment(praise) == 1.0:
            return Example(prompt, praise)


@lru_cache(maxsize=INSTANCES)
def language_of(lexicon: tuple[tuple[str, tuple[str, ...]], ...]) -> Grammar:
    """Return the language of reviews with these words, by kind, in place of its own."""
    return Grammar({**LANGUAGE.rules, **dict(lexicon)}, LANGUAGE.start)


def _cut_review(rng: np.random.Generator, symbol: str = "cut review", language: Grammar = LANGUAGE) -> tuple[str, str]:
    prompt, _, continuation = language.sample(rng, symbol).partition(CUT)
    return prompt, continuation


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return sentiment(completion)


def _good_words(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return sentiment(completion, negators=frozenset())


def _deny(prompt: Prompt) -> str:
    return " It is never superb." if prompt.text.endswith(".") else " is never superb."


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


REVIEWS = Miniature(
    name="Reviews",
    description="Continue a film review so that it is favourable.",
    max_prompt_length=24,
    max_new_tokens=32,  # about one review in a thousand is longer, its end token included
    lexicon=LEXICON,
    draw=_draw,
    corpus=_cut_review,
    score=_score,
    accepts=_accepts,
    proxies={
        "good_words": Proxy(
            per_text(_good_words), "Counting good and bad words needs no grammar: but it is deaf to a 'never'.", _deny
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def reviews(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(REVIEWS, seed)
