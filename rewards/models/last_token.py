"""Scores of token sequences at their last token, each equal to the score that transformers gives to it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedModel


def read_logits(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Score ``N`` sequences in one right-padded forward pass.

    Each row equals ``model(input_ids).logits`` of that sequence alone, without padding. transformers' own batched
    scoring searches the padded rows for PAD, so it needs a PAD that is no real token.

    Args:
        model: an ``AutoModelForSequenceClassification``.
        sequences: ``N`` lists of token ids, none empty.

    Returns:
        ``[N, labels]`` float32, differentiable.

    Raises:
        ValueError: a sequence is empty.
    """
    head = linear_head(model)
    pad = model.config.get_text_config().pad_token_id
    # Tokens of a causal trunk never attend to the right, so any id may fill the padding. Encoders mask it, but some
    # also derive positions from their own PAD id (RoBERTa).
    ids, mask = _padded(sequences, filler=0 if head is not None or pad is None else pad)
    ids, mask = ids.to(model.device), mask.to(model.device)
    if head is None:
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits.float()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = torch.tensor([last_position(s, pad) for s in sequences], device=hidden.device)
    scores: Tensor = head(hidden[torch.arange(len(sequences), device=hidden.device), last])
    return scores.float()


def read_every_score(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Score every position of ``N`` sequences: each prefix as if it ended there.

    Args:
        model: a decoder-style ``AutoModelForSequenceClassification`` with one output.
        sequences: ``N`` lists of token ids, none empty.

    Returns:
        ``N`` float32 tensors, one score for each token, differentiable.

    Raises:
        ValueError: a sequence is empty, or the model pools its sequence into one score, as encoders do.
    """
    head = linear_head(model)
    if head is None:
        raise ValueError(
            f"{type(model).__name__} pools a text into one score; expected a decoder with a linear head named score, "
            "which can be read at every token"
        )
    scores: Tensor = head(read_states(model, sequences))[..., 0].float()
    return [own[: len(ids)] for own, ids in zip(scores, sequences, strict=True)]


def read_states(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return the hidden states ``[N, L, d]`` that a decoder's head reads; meaningless behind a sequence's end."""
    ids, mask = (x.to(model.device) for x in _padded(sequences, filler=0))
    states: Tensor = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return states


def longest_readable(model: PreTrainedModel) -> int | None:
    """Return the greatest number of tokens that a model accepts; None if its config names no limit.

    Models like RoBERTa count positions from their PAD's id on, so they accept fewer than ``max_position_embeddings``.
    """
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings) - int(module.padding_idx) - 1
    return limit if limit is not None and limit > 0 else None  # XLNet, which has no limit, writes -1


def linear_head(model: nn.Module) -> nn.Linear | None:
    """Return the head of a decoder-style classifier, which scores one position; None for encoders, which pool."""
    head = getattr(model, "score", None)
    return head if isinstance(head, nn.Linear) else None


def last_position(ids: Sequence[int], pad: int | None) -> int:
    """Return the position that transformers scores in a sequence: the last token that is not PAD, or 0 if all are."""
    return next((i for i in reversed(range(len(ids))) if ids[i] != pad), 0)


def _padded(sequences: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Return ``[N, L]`` ids, filled up on the right, and their mask."""
    lengths = torch.tensor([len(s) for s in sequences])
    if lengths.min() == 0:
        raise ValueError("a sequence has no tokens, so a model cannot score it; pass at least one token")
    width = int(lengths.max())
    ids = torch.tensor([[*s, *[filler] * (width - len(s))] for s in sequences])
    return ids, (torch.arange(width) < lengths[:, None]).long()
