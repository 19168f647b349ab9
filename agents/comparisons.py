"""Comparisons: two completions of a prompt, of which one was preferred, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from transformers import PreTrainedTokenizerBase

from textgym.agents.demonstrations import Demonstration, demonstrate_one
from textgym.prompts import encode_prompts
from textgym.types import Ranking


@dataclass(frozen=True)
class Comparison:
    """Two completions of one prompt, of which a labeller preferred one."""

    chosen: Demonstration
    rejected: Demonstration


def encode_comparisons(
    rankings: Sequence[Ranking],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "comparisons",
) -> tuple[Comparison, ...]:
    """Rankings as all their pairs of different rank; each completion is encoded once.

    Args:
        rankings: K completions each.
        tokenizer: of the model that is to learn.
        end_token_id: ends each completion.
        max_length: tokens that the model can read, or None.
        source: what an error calls the data.

    Raises:
        ValueError: no rankings, or one that teaches nothing or cannot be learned from. Rows are counted from 1.
    """
    prompts = encode_prompts([{"prompt": r.prompt} for r in rankings], tokenizer, max_length=10**9, source=source)
    found: list[Comparison] = []
    for number, (ranking, prompt) in enumerate(zip(rankings, prompts, strict=True), start=1):
        where = f"{source}, row {number}"
        shown = [demonstrate_one(prompt, t, tokenizer, end_token_id, max_length, where) for t in ranking.completions]
        ordered = permutations(zip(shown, ranking.ranks, strict=True), 2)
        pairs = [Comparison(first, second) for (first, better), (second, worse) in ordered if better < worse]
        if not pairs:
            raise ValueError(f"{where}: all ranks are tied, which teaches nothing; leave it out")
        for pair in pairs:
            if pair.chosen.response_ids == pair.rejected.response_ids:
                raise ValueError(f"{where}: chosen and rejected have the same tokens; leave one of them out")
        found += pairs
    return tuple(found)
