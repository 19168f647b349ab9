"""Definition of a mini task, from which a :class:`textgym.tasks.task.Task` is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

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
Lexicon: TypeAlias = Mapping[str, tuple[str, ...]]
"""Kind of word -> the words of this kind that prompts may use."""

BASE_MODEL = Path(__file__).parent / "assets" / "base"
SPLITS = {"train": 9_000, "validation": 500, "test": 1_000}
INSTANCE_SPLITS = {"train": 4_000, "validation": 256, "test": 512}
"""Smaller, as an instance has fewer words, and is drawn anew in every process."""
INSTANCES = 8
"""Tasks of one maker that are kept in memory."""
KEPT = 0.6
"""Share of each kind of word that an instance may use."""


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


class Draw(Protocol):
    """Draw an example whose prompt uses the words of a lexicon, by default of the whole one."""

    def __call__(self, rng: np.random.Generator, lexicon: Lexicon = ...) -> Example: ...


@dataclass(frozen=True, eq=False)
class Miniature:
    """Mini task: a language, what is asked in it, and the score of answers.

    Attributes:
        name: the name in its id.
        description: one sentence: the task of the policy.
        max_prompt_length: ``P``, in tokens.
        max_new_tokens: ``T``, in tokens, the end token included.
        lexicon: the content words of prompts, by kind.
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
    lexicon: Lexicon
    draw: Draw
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


def build(mini: Miniature, seed: int | None = None) -> Task:
    """Build the task, or the instance that a seed draws; its prompts are the same in every process.

    An instance has prompts of its own. They use a random part of the content words, so that instances differ in what
    they speak of.
    """
    tokenizer = shared_tokenizer()
    if seed is None:
        splits = draw_splits(partial(_row, mini, mini.lexicon), tokenizer, np.random.default_rng(0))
    else:
        rng = np.random.default_rng([seed, *mini.name.encode()])  # two tasks of one seed choose their words apart
        draw = partial(_row, mini, drawn_lexicon(mini.lexicon, rng))
        splits = draw_splits(draw, tokenizer, rng, INSTANCE_SPLITS)
    return Task(
        name=mini.name,
        description=mini.description,
        tokenizer=tokenizer,
        splits=splits,
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


def drawn_lexicon(lexicon: Lexicon, rng: np.random.Generator) -> Lexicon:
    """Return a random part of each kind of word, in the order of the whole.

    Prompts are drawn from it, not drawn from the whole and rejected: a story of fourteen content words would be
    accepted once in a thousand times.
    """
    return {
        kind: tuple(words[i] for i in sorted(rng.permutation(len(words))[: round(KEPT * len(words))]))
        for kind, words in lexicon.items()
    }


def _row(mini: Miniature, lexicon: Lexicon, rng: np.random.Generator) -> Row:
    example = mini.draw(rng, lexicon)
    return example.prompt, {**example.columns, "reference": example.reference}


def draw_splits(
    draw: Callable[[np.random.Generator], Row],
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    sizes: Mapping[str, int] = SPLITS,
) -> dict[str, tuple[Prompt, ...]]:
    """Draw distinct prompts and assign them to the splits in the order drawn."""
    rows: dict[str, Mapping[str, Any]] = {}
    # Drawn until there are enough distinct prompts, so that no prompt is in two splits.
    while len(rows) < sum(sizes.values()):
        text, columns = draw(rng)
        rows.setdefault(text, columns)
    encoded = tokenizer(list(rows), add_special_tokens=False)["input_ids"]
    prompts = iter(
        Prompt(text, text, tuple(ids), columns) for (text, columns), ids in zip(rows.items(), encoded, strict=True)
    )
    return {split: tuple(next(prompts) for _ in range(size)) for split, size in sizes.items()}
