"""Comparisons: two completions of a prompt, of which one was preferred, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from transformers import PreTrainedTokenizerBase

from textgym.agents.demonstrations import Demonstration, demonstrate_one
from textgym.prompts import BadRowError, encode_prompts, leaving_out
from textgym.tokenization import warn_of_special_strings
from textgym.types import Ranking, SpecialTokens


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
    special_tokens: SpecialTokens = "text",
    skipped: list[str] | None = None,
) -> tuple[Comparison, ...]:
    """Rankings as all their pairs of different rank; each completion is encoded once.

    Args:
        rankings: K completions each.
        tokenizer: of the model that is to learn.
        end_token_id: ends each completion, but those of conversations whose chat template ends turns by another token.
        max_length: tokens that the model can read, or None.
        source: what an error calls the data.
        special_tokens: as in :func:`textgym.prompts.encode_prompts`.
        skipped: collects what is wrong with rankings that cannot be learned from, which are then left out; without it
            they are errors.

    Raises:
        ValueError: no rankings, or one that teaches nothing or cannot be learned from. Rows are counted from 1.
    """
    rows = [{"prompt": ranking.prompt} for ranking in rankings]
    prompts = encode_prompts(rows, tokenizer, max_length=10**9, source=source, special_tokens=special_tokens)
    if special_tokens == "text":
        warn_of_special_strings(tokenizer, [r.completions for r in rankings], f"{source}, completions")
    found: list[Comparison] = []
    for number, (ranking, prompt) in enumerate(zip(rankings, prompts, strict=True), start=1):
        where = f"{source}, row {number}"
        with leaving_out(skipped):
            shown = [
                demonstrate_one(prompt, text, tokenizer, end_token_id, max_length, where, special_tokens)
                for text in ranking.completions
            ]
            found += _pairs(shown, ranking.ranks, where)
    if not found:
        raise ValueError(f"{source}: no row is left to learn from. {skipped[0] if skipped else ''}")
    return tuple(found)


def _pairs(shown: Sequence[Demonstration], ranks: Sequence[int], where: str) -> list[Comparison]:
    """All pairs of different rank, the better one first."""
    ordered = permutations(zip(shown, ranks, strict=True), 2)
    pairs = [Comparison(first, second) for (first, better), (second, worse) in ordered if better < worse]
    if not pairs:
        raise BadRowError(f"{where}: all ranks are tied, which teaches nothing; leave it out")
    if any(pair.chosen.response_ids == pair.rejected.response_ids for pair in pairs):
        raise BadRowError(f"{where}: chosen and rejected have the same tokens; leave one of them out")
    return pairs
