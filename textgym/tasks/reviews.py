"""``textgym/Reviews-v0``: continue a film review so that it is favourable.

The miniature of controlled sentiment (IMDB in GRUE). The prompt says which film was seen, and may break off in
the midst of the first judgement; the continuation is about two short sentences. As the language comes from a
grammar, gold reward, naturalness and demonstrations are exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textgym.tasks import reviews_lexicon as lexicon
from textgym.tasks.reviews_language import CUT, LANGUAGE, third_person
from textgym.tasks.task import Task
from textgym.types import Prompt

MAX_PROMPT_LENGTH = 24
MAX_NEW_TOKENS = 32  # about one review in a thousand is longer, its end token included
SPLITS = {"train": 9_000, "validation": 500, "test": 1_000}
BASE_MODEL = Path(__file__).parent / "assets" / "base"

# The polarity of every word form that carries sentiment; good is True.
_SENTIMENT = {
    form: polarity
    for polarity, words in ((True, lexicon.GOOD), (False, lexicon.BAD))
    for form in (
        *(word for lemmas in words.values() for word in lemmas),
        *(third_person(verb) for verb in words["shine"] + words["please"]),
    )
}
_WORDS = re.compile(r"\bfar from\b|[a-z]+|[,.]")


def corpus(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """``n`` reviews as pairs (prompt, continuation); their concatenation is the review."""
    return [_cut_review(rng, "cut review") for _ in range(n)]


def gold(
    prompts: list[Any],  # noqa: ARG001 - the signature is TRL's
    completions: list[str],
    *,
    completion_ids: list[list[int]],  # noqa: ARG001
    **columns: list[Any],  # noqa: ARG001
) -> list[float]:
    """The ``sentiment`` of each completion, in [0, 1]; prompts have none."""
    return [sentiment(completion) for completion in completions]


def sentiment(text: str) -> float:
    """good / (good + bad), counting sentiment words; 0.5 where there are none.

    A negator (not, never, hardly, far from, no, less, cannot) turns the next sentiment word into its
    opposite, as long as no comma or full stop stands between them.

    >>> sentiment("Although the plot is thin, the acting is superb.")
    0.5
    >>> sentiment("It is never dull.")
    1.0
    """
    good = bad = 0
    negated = False
    for word in _WORDS.findall(text.lower()):
        if word in lexicon.NEGATORS:
            negated = True
        elif word in _SENTIMENT:
            good, bad = (good + 1, bad) if _SENTIMENT[word] != negated else (good, bad + 1)
            negated = False
        elif not word.isalpha():
            negated = False
    return good / (good + bad) if good + bad else 0.5


def grammatical(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """1.0 where prompt + completion is a review of the language, to the letter; else 0.0."""
    return [
        float(LANGUAGE.accepts(prompt + completion)) for prompt, completion in zip(prompts, completions, strict=True)
    ]


@lru_cache(maxsize=1)
def reviews() -> Task:
    """The task, built once; its prompts are the same in every process."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(BASE_MODEL)
    return Task(
        name="Reviews",
        description="Continue a film review so that it is favourable.",
        tokenizer=tokenizer,
        splits=_splits(tokenizer, np.random.default_rng(0)),
        gold=gold,
        end_token_ids=(int(tokenizer.eos_token_id),),
        max_prompt_length=MAX_PROMPT_LENGTH,
        max_new_tokens=MAX_NEW_TOKENS,
        metrics={"grammatical": grammatical},
        base_model=BASE_MODEL,
    )


def _splits(tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator) -> dict[str, tuple[Prompt, ...]]:
    """Distinct prompts, each with a favourable reference, dealt out to the splits in the order drawn."""
    references: dict[str, str] = {}
    while len(references) < sum(SPLITS.values()):
        prompt, praise = _cut_review(rng, "praise")
        if sentiment(praise) == 1.0:
            references.setdefault(prompt, praise)
    encoded = tokenizer(list(references), add_special_tokens=False)["input_ids"]
    prompts = iter(
        Prompt(text, text, tuple(ids), {"reference": praise})
        for (text, praise), ids in zip(references.items(), encoded, strict=True)
    )
    return {split: tuple(next(prompts) for _ in range(size)) for split, size in SPLITS.items()}


def _cut_review(rng: np.random.Generator, symbol: str) -> tuple[str, str]:
    prompt, _, continuation = LANGUAGE.sample(rng, symbol).partition(CUT)
    return prompt, continuation
