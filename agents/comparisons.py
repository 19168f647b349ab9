"""Comparisons: two completions of a prompt, of which one was preferred, as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from transformers import PreTrainedTokenizerBase

from textgym.agents.demonstrations import Demonstration, fitted_prompt, reply_ids
from textgym.prompts import encode_prompt
from textgym.rows import BadRowError, Place, Screening, in_file_order, placed
from textgym.tokenization import warn_of_special_strings, words_of
from textgym.types import Messages, Ranking, SpecialTokens


@dataclass(frozen=True)
class Comparison:
    """Two completions of one prompt, of which a labeller preferred one."""

    chosen: Demonstration
    rejected: Demonstration

    @property
    def prompt(self) -> str | Messages:
        """The prompt of both: a text or a conversation."""
        return self.chosen.prompt.content


def encode_comparisons(
    rankings: Sequence[Ranking] | Mapping[Place, Ranking],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "comparisons",
    special_tokens: SpecialTokens = "text",
    screening: Screening | None = None,
) -> tuple[Comparison, ...]:
    """Encode rankings as all their pairs of different rank; each completion is encoded once.

    Args:
        rankings: K completions each; or rankings by their places in a file.
        tokenizer: of the model that is to learn.
        end_token_id: ends each completion, but those of conversations whose chat template ends turns by another token.
        max_length: tokens that the model can read, or None. Where a prompt and its longest completion have more, see
            :func:`textgym.agents.demonstrations.fitted_prompt`: all completions follow the same tokens.
        source: what an error calls the data.
        special_tokens: as in :func:`textgym.prompts.encode_prompts`.
        screening: accounts for rankings that cannot be learned from; without it they are errors.

    Raises:
        ValueError: no rankings, or one that teaches nothing or cannot be learned from. Rows are counted from 1.
    """
    screening = screening or Screening()
    given = placed(rankings, source)
    if not given:
        raise ValueError(f"{source} is empty; expected at least one ranking")
    found: dict[Place, list[Comparison]] = {}
    for place, ranking in given.items():
        with screening.row(place):
            prompt = encode_prompt({"prompt": ranking.prompt}, tokenizer, special_tokens)
            replies = [reply_ids(prompt, text, tokenizer, end_token_id, special_tokens) for text in ranking.completions]
            _check_learnable(replies, ranking.ranks)
            prompt = fitted_prompt(prompt, max(map(len, replies)), max_length, tokenizer, screening)
            found[place] = _pairs([Demonstration(prompt, reply) for reply in replies], ranking.ranks)
    if special_tokens == "text":
        kept = {place: given[place] for place in found}
        asked = {place: words_of(ranking.prompt) for place, ranking in kept.items()}
        warn_of_special_strings(tokenizer, in_file_order(asked), source)
        said = {place: ranking.completions for place, ranking in kept.items()}
        warn_of_special_strings(tokenizer, in_file_order(said), f"{source}, completions")
    screening.require_some(found, source)
    return tuple(pair for pairs in found.values() for pair in pairs)


def _check_learnable(replies: Sequence[tuple[int, ...]], ranks: Sequence[int]) -> None:
    ranked = list(zip(replies, ranks, strict=True))
    untied = [(one, other) for (one, rank), (other, its) in combinations(ranked, 2) if rank != its]
    if not untied:
        raise BadRowError("all ranks are tied, which teaches nothing; leave it out")
    if any(one == other for one, other in untied):
        raise BadRowError("chosen and rejected have the same tokens; leave one of them out")


def _pairs(shown: Sequence[Demonstration], ranks: Sequence[int]) -> list[Comparison]:
    """All pairs of different rank, the better one first."""
    ordered = permutations(zip(shown, ranks, strict=True), 2)
    return [Comparison(first, second) for (first, better), (second, worse) in ordered if better < worse]
