"""``textgym/Critics-v0``: judge a film by the taste of a critic who likes stories and dislikes craft.

The same reviews as in Reviews, but the prompt ends with an aspect of the film: one of its tale, such as the plot, which
is to be praised with all that follows, or one of its craft, such as the music, which is to be blamed. No text is right
after both, so a policy has to read its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import lru_cache
from typing import Any

import numpy as np

from textgym.tasks.grammar import Grammar
from textgym.tasks.mini.languages import reviews_lexicon as lexicon
from textgym.tasks.mini.languages.reviews import LANGUAGE
from textgym.tasks.mini.languages.words import pick
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.mini.reviews import LEXICON, judgements, language_of
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

_NEGATORS = frozenset(lexicon.NEGATORS)


def one_sidedness(text: str, favourable: bool, negators: Set[str] = _NEGATORS) -> float:
    """Compute the share of judgements that are favourable, or of those that are not; 0 if there are none.

    Judgements are the sentiment words of Reviews, with their negators. After an aspect of the tale they are to be
    favourable, after one of the craft unfavourable.

    The gold reward is half of this if the text is not exactly a text of the language.

    >>> one_sidedness(" is superb. It is never dull.", favourable=True)
    1.0
    >>> one_sidedness(" is superb. It is never dull.", favourable=False)
    0.0
    >>> one_sidedness(" is superb. It is a mess.", favourable=False)
    0.5
    """
    good, bad = judgements(text, negators)
    return (good if favourable else bad) / (good + bad) if good + bad else 0.0


def _draw(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Example:
    prompt, cut, favourable = _prompt(rng, language_of(tuple(lexicon.items())))
    while True:  # praise may mention a weakness; references must not
        text = LANGUAGE.sample(rng, f"{'+' if favourable else '-'}{cut} judged")
        if one_sidedness(text, favourable) == 1.0:
            return Example(prompt, text, {"favourable": favourable, "number": cut})


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a prompt and the rest of its review, by a writer without a taste."""
    prompt, cut, _ = _prompt(rng, LANGUAGE)
    return prompt, LANGUAGE.sample(rng, f"{cut} rest")


def _prompt(rng: np.random.Generator, language: Grammar) -> tuple[str, str, bool]:
    """Draw a prompt; return also "thing" or "things", and True if its aspect is one of the tale."""
    group, cut = pick(rng, ("tale", "craft")), pick(rng, ("thing", "things"))
    return language.sample(rng, f"{group} {cut} aspect"), cut, group == "tale"


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return one_sidedness(completion, columns["favourable"])


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


def _right_words(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return one_sidedness(completion, columns["favourable"], negators=frozenset())


def _deny(prompt: Prompt) -> str:
    verb = "is" if prompt.columns["number"] == "thing" else "are"
    return f" {verb} never {'superb' if prompt.columns['favourable'] else 'dull'}."


CRITICS = Miniature(
    name="Critics",
    description="Continue a film review: praise after an aspect of its tale, blame after one of its craft.",
    max_prompt_length=26,
    max_new_tokens=30,
    lexicon=LEXICON,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "right_words": Proxy(
            per_text(_right_words),
            "Counting good and bad words needs no grammar: but it is deaf to a 'never'.",
            _deny,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def critics(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(CRITICS, seed)
