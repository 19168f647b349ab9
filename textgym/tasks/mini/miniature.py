"""Definition of a mini task, from which a :class:`textgym.tasks.task.Task` is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

Score: TypeAlias = Callable[[str, str, Mapping[str, Any]], float]
"""The score of ``(prompt, completion, columns)``, in [0, 1]."""
Accepts: TypeAlias = Callable[[str, str], bool]
"""True if ``(prompt, completion)`` is exactly a text of the language."""
Row: TypeAlias = tuple[str, Mapping[str, Any]]
"""The text of a prompt, and its columns."""

BASE_MODEL = Path(__file__).parent / "assets" / "base"
SPLITS = {"train": 9_000, "validation": 500, "test": 1_000}


@dataclass(frozen=True)
class Example:
    """Prompt with the other fields of its data row.

    Attributes:
        prompt: its text.
        reference: a good completion; it begins with the space after the prompt.
        columns: the facts that gold and proxies read, as JSON values.
    """

    prompt: str
    reference: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Miniature:
    """Mini task: a language, what is asked in it, and the score of answers.

    Attributes:
        name: the name in its id.
        description: one sentence: the task of the policy.
        max_prompt_length: ``P``, in tokens.
        max_new_tokens: ``T``, in tokens, the end token included.
        draw: draws an example; equal prompts are very rare.
        corpus: draws a pair (prompt, continuation) of the text that the base model imitates: in the language, but with
            little regard for what the prompt asks.
        score: the gold score.
        accepts: recognises natural texts.
        proxies: rewards that can be hacked by name, each with its hack.
    """

    name: str
    description: str
    max_prompt_length: int
    max_new_tokens: int
    draw: Callable[[np.random.Generator], Example]
    corpus: Callable[[np.random.Generator], tuple[str, str]]
    score: Score
    accepts: Accepts
    proxies: Mapping[str, Proxy]


@dataclass(frozen=True)
class HalvedUnlessNatural:
    """Score of :func:`halved_unless_natural`; an object, not a closure, so that environments can be pickled."""

    score: Score
    accepts: Accepts

    @property
    def __name__(self) -> str:
        """Name of the inner score, which defines the task."""
        return self.score.__name__

    def __call__(self, prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
        whole = self.score(prompt, completion, columns)
        return whole if self.accepts(prompt, completion) else whole / 2


@dataclass(frozen=True)
class Grammatical:
    """Metric of a language: 1 for each of its texts, 0 for others."""

    accepts: Accepts

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [float(self.accepts(*pair)) for pair in zip(prompts, completions, strict=True)]


def halved_unless_natural(score: Score, accepts: Accepts) -> Score:
    """Halve ``score`` for texts that are not exactly a text of the language.

    Scores that look for words also accept lists and denials; with this rule, only natural texts reach 1. A mistake
    costs no more than half, so that there is still something to learn from.
    """
    return HalvedUnlessNatural(score, accepts)


def build(mini: Miniature) -> Task:
    """Build the task; its prompts are the same in every process."""
    tokenizer = shared_tokenizer()
    return Task(
        name=mini.name,
        description=mini.description,
        tokenizer=tokenizer,
        splits=draw_splits(partial(_row, mini), tokenizer, np.random.default_rng(0)),
        gold=per_text(mini.score),
        end_token_ids=(int(tokenizer.eos_token_id),),
        max_prompt_length=mini.max_prompt_length,
        max_new_tokens=mini.max_new_tokens,
        metrics={"grammatical": Grammatical(mini.accepts)},
        base_model=BASE_MODEL,
        proxies=mini.proxies,
    )


@lru_cache(maxsize=1)
def shared_tokenizer() -> PreTrainedTokenizerBase:
    """Load the tokenizer of all mini tasks, once; do not change it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(BASE_MODEL, trust_remote_code=False)
    return tokenizer


def _row(mini: Miniature, rng: np.random.Generator) -> Row:
    example = mini.draw(rng)
    return example.prompt, {**example.columns, "reference": example.reference}


def draw_splits(
    draw: Callable[[np.random.Generator], Row], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator
) -> dict[str, tuple[Prompt, ...]]:
    """Draw distinct prompts and assign them to the splits in the order drawn."""
    rows: dict[str, Mapping[str, Any]] = {}
    # Drawn until there are enough distinct prompts, so that no prompt is in two splits.
    while len(rows) < sum(SPLITS.values()):
        text, columns = draw(rng)
        rows.setdefault(text, columns)
    encoded = tokenizer(list(rows), add_special_tokens=False)["input_ids"]
    prompts = iter(
        Prompt(text, text, tuple(ids), columns) for (text, columns), ids in zip(rows.items(), encoded, strict=True)
    )
    return {split: tuple(next(prompts) for _ in range(size)) for split, size in SPLITS.items()}
