"""Preferences as tokens: comparisons of two completions of a prompt, and judgements of single completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from textgym.agents.offline.data import Demonstration, fitted_prompt, reply_ids
from textgym.prompts import content_key, encode_prompt
from textgym.rewards.labels.preferences import Judgement, Preference, completions_of
from textgym.rewards.labels.rankings import split_rankings
from textgym.rows import BadRowError, Place, Screening, in_file_order, placed
from textgym.tokenization import warn_of_special_strings, words_of
from textgym.types import Messages, Ranking, SpecialTokens

Given = TypeVar("Given", bound=Preference)


@dataclass(frozen=True)
class Comparison:
    """Two completions of one prompt, of which a labeller preferred one."""

    chosen: Demonstration
    rejected: Demonstration

    @property
    def prompt(self) -> str | Messages:
        """The prompt of both: a text or a conversation."""
        return self.chosen.prompt.content

    @property
    def texts(self) -> tuple[Demonstration, ...]:
        """Both completions, the chosen one first."""
        return self.chosen, self.rejected

    @property
    def record(self) -> dict[str, Any]:
        """The prompt's text and the token ids of both completions."""
        ids = {"chosen_ids": self.chosen.response_ids, "rejected_ids": self.rejected.response_ids}
        return {"prompt": self.chosen.prompt.text, **ids}


@dataclass(frozen=True)
class LabelledCompletion:
    """A completion that a labeller called desirable or undesirable."""

    shown: Demonstration
    desirable: bool

    @property
    def prompt(self) -> str | Messages:
        """Its prompt: a text or a conversation."""
        return self.shown.prompt.content

    @property
    def texts(self) -> tuple[Demonstration, ...]:
        """The completion alone."""
        return (self.shown,)

    @property
    def record(self) -> dict[str, Any]:
        """The prompt's text, the completion's token ids, and the label."""
        ids = {"completion_ids": self.shown.response_ids}
        return {"prompt": self.shown.prompt.text, **ids, "label": self.desirable}


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
        tokenizer: the tokenizer of the model to train.
        end_token_id: ends each completion, except in conversations whose chat template ends turns with another token.
        max_length: the model's context in tokens, or None. If a prompt and its longest completion exceed it, see
            :func:`textgym.agents.offline.data.fitted_prompt`: all completions follow the same prompt tokens.
        source: name of the data in errors.
        special_tokens: as in :func:`textgym.prompts.encode_prompts`.
        screening: policy for unusable rankings, and its counts; without it they raise.

    Raises:
        ValueError: no rankings, or an unusable one, such as one without two different ranks. Rows are counted from 1.
    """
    given = placed(rankings, source)

    def check(ranking: Ranking, replies: Sequence[tuple[int, ...]]) -> None:
        _check_learnable(replies, ranking.ranks)

    shown = _encoded(given, tokenizer, end_token_id, max_length, source, special_tokens, screening, check)
    return tuple(pair for place, own in shown.items() for pair in _pairs(own, given[place].ranks))


def encode_judgements(
    judgements: Sequence[Judgement] | Mapping[Place, Judgement],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "judgements",
    special_tokens: SpecialTokens = "text",
    screening: Screening | None = None,
) -> tuple[LabelledCompletion, ...]:
    """Encode completions that were called good or bad; arguments and errors as :func:`encode_comparisons`."""
    given = placed(judgements, source)
    shown = _encoded(given, tokenizer, end_token_id, max_length, source, special_tokens, screening)
    return tuple(LabelledCompletion(own[0], given[place].good) for place, own in shown.items())


def unpaired(comparisons: Sequence[Comparison]) -> tuple[LabelledCompletion, ...]:
    """Return each comparison as a desirable and an undesirable completion, ``[2n]``."""
    return tuple(
        LabelledCompletion(shown, desirable)
        for pair in comparisons
        for shown, desirable in ((pair.chosen, True), (pair.rejected, False))
    )


def require_both_labels(labelled: Sequence[LabelledCompletion], source: str) -> None:
    """Check that some completions are desirable and some are undesirable.

    Raises:
        ValueError: all have one label. Their likelihood would move away from the reference in one direction, and
            nothing could be said of how well the model tells them apart.
    """
    labels = {one.desirable for one in labelled}
    if len(labels) == 1:
        label, fix = ("true", "; to imitate good completions, use textgym sft") if labels == {True} else ("false", "")
        raise ValueError(
            f"{source}: all {len(labelled)} completions are labelled {label}; expected some of each label, as KTO "
            f"learns what tells them apart{fix}"
        )


def split_labelled(
    labelled: Sequence[LabelledCompletion], heldout: float, generator: torch.Generator
) -> tuple[list[LabelledCompletion], list[LabelledCompletion]]:
    """Hold out about a share of the prompts that have an undesirable completion, and of those that have none.

    A rare label is then held out, too. All completions of a prompt stay together; if one kind has a single prompt, that
    is learned.

    Raises:
        ValueError: a part lacks one of the labels.
    """
    criticised = {content_key(one.prompt) for one in labelled if not one.desirable}
    kept, out = [], []
    for side in (True, False):
        rows = [one for one in labelled if (content_key(one.prompt) in criticised) is side]
        several = len({content_key(one.prompt) for one in rows}) > 1
        learned, aside = split_rankings(rows, heldout, generator) if several else (rows, [])
        kept += learned
        out += aside
    for part, rows in (("the part to learn from", kept), ("the held-out part", out)):
        good = sum(one.desirable for one in rows)
        if good in (0, len(rows)):
            raise ValueError(
                f"validation: prompts are held out whole, and {part} has {good} labelled true and "
                f"{len(rows) - good} labelled false; expected both: pass held-out completions as a file of their own"
            )
    return kept, out


def _encoded(
    given: Mapping[Place, Given],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None,
    source: str,
    special_tokens: SpecialTokens,
    screening: Screening | None,
    check: Callable[[Given, Sequence[tuple[int, ...]]], None] = lambda _, __: None,
) -> dict[Place, list[Demonstration]]:
    """Encode each preference's completions, after one prompt; ``check`` raises for tokens that teach nothing."""
    screening = screening or Screening()
    if not given:
        raise ValueError(f"{source} is empty; expected at least one row")
    shown: dict[Place, list[Demonstration]] = {}
    for place, preference in given.items():
        with screening.row(place):
            prompt = encode_prompt({"prompt": preference.prompt}, tokenizer, special_tokens)
            texts = completions_of(preference)
            replies = [reply_ids(prompt, text, tokenizer, end_token_id, special_tokens) for text in texts]
            check(preference, replies)
            prompt = fitted_prompt(prompt, max(map(len, replies)), max_length, tokenizer, screening)
            shown[place] = [Demonstration(prompt, reply) for reply in replies]
    if special_tokens == "text":
        asked = {place: words_of(given[place].prompt) for place in shown}
        warn_of_special_strings(tokenizer, in_file_order(asked), source)
        said = {place: completions_of(given[place]) for place in shown}
        warn_of_special_strings(tokenizer, in_file_order(said), f"{source}, completions")
    screening.require_some(shown, source)
    return shown


def _check_learnable(replies: Sequence[tuple[int, ...]], ranks: Sequence[int]) -> None:
    ranked = list(zip(replies, ranks, strict=True))
    untied = [(one, other) for (one, rank), (other, its) in combinations(ranked, 2) if rank != its]
    if not untied:
        raise BadRowError("all ranks are tied, which teaches nothing; leave it out")
    if any(one == other for one, other in untied):
        raise BadRowError("chosen and rejected have the same tokens; leave one of them out")


def _pairs(shown: Sequence[Demonstration], ranks: Sequence[int]) -> list[Comparison]:
    """Return all pairs of different rank, the better one first."""
    ordered = permutations(zip(shown, ranks, strict=True), 2)
    return [Comparison(first, second) for (first, better), (second, worse) in ordered if better < worse]
