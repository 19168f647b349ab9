"""Reading token sequences with a sequence classifier, each read as transformers reads it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedModel


def read_logits(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Read ``N`` sequences in one right-padded forward pass.

    Each row equals ``model(input_ids).logits`` of that sequence alone, without padding. transformers' own reading
    of a batch would look for PAD in the padded rows, and needs a PAD that is no real token.

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
    # A causal trunk never looks right, so any id fills the gap; other models may look for their own PAD.
    ids, mask = _padded(sequences, filler=0 if head is not None or pad is None else pad)
    ids, mask = ids.to(model.device), mask.to(model.device)
    if head is None:
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits.float()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = torch.tensor([last_position(s, pad) for s in sequences], device=hidden.device)
    scores: Tensor = head(hidden[torch.arange(len(sequences), device=hidden.device), last])
    return scores.float()


def longest_readable(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model reads; None where its config names no limit.

    Models like RoBERTa count positions from their PAD's id on, and so read fewer than ``max_position_embeddings``.
    """
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings) - int(module.padding_idx) - 1
    return limit if limit is not None and limit > 0 else None  # XLNet, which has no limit, says -1


def linear_head(model: nn.Module) -> nn.Linear | None:
    """Return the head of decoder-style classifiers, which read one position; None for encoders, which pool."""
    head = getattr(model, "score", None)
    return head if isinstance(head, nn.Linear) else None


def last_position(ids: Sequence[int], pad: int | None) -> int:
    """Where transformers reads one sequence: the rightmost token that is not PAD; the first if all are."""
    return next((i for i in reversed(range(len(ids))) if ids[i] != pad), 0)


def _padded(sequences: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """``[N, L]`` ids and their mask, the filler on the right."""
    lengths = torch.tensor([len(s) for s in sequences])
    if lengths.min() == 0:
        raise ValueError("there is a sequence without tokens, which a model cannot score")
    width = int(lengths.max())
    ids = torch.tensor([[*s, *[filler] * (width - len(s))] for s in sequences])
    return ids, (torch.arange(width) < lengths[:, None]).long()
