"""Whole-sequence passes: log-probabilities and entropies of responses, one forward pass per sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from textgym.lm.architecture import make_backbone
from textgym.lm.heads import Head, make_head
from textgym.lm.loading import explained
from textgym.lm.sampling import Sampling, restrict

CHUNK_ELEMENTS = 2**24
"""Logits that are alive at once while tokens are scored (64 MB in fp32); more are computed again for backward."""


@dataclass(frozen=True)
class TokenScores:
    """Per response token; 0 where none stands.

    Attributes:
        log_probs: ``[n, T]`` of the sampled tokens under the behaviour distribution.
        entropy: ``[n, T]`` of that distribution, in nats.
    """

    log_probs: Tensor
    entropy: Tensor


class Trunk:
    """A language model taken apart into backbone and output head, so that logits arise only where they are needed.

    Args:
        model: causal or encoder–decoder.
        n_frozen: so many of its lower layers are frozen, and what they compute may be kept.

    Raises:
        ValueError: the model has no trunk of its own, or its logits do not follow from the trunk's states alone.
    """

    def __init__(self, model: PreTrainedModel, n_frozen: int = 0) -> None:
        self.model = model
        with explained(
            f"{type(model).__name__} cannot be taken apart into a trunk that reads token ids alone and an output head"
        ):
            self.backbone = make_backbone(model, n_frozen)
            self.base = self.backbone.module
            self.head: Head = make_head(model, self.backbone)

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        """``[n, T+1, d]``: the states before each response token, and the one after the last.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            prompt_length: ``P``.
            prefix: what the frozen layers compute of these sequences, where it was kept.
        """
        return self.backbone.states(input_ids, attention_mask, prompt_length, prefix)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        """``[n, L, d]`` what the frozen layers compute; None where there are none. Arguments as above."""
        return self.backbone.prefix(input_ids, attention_mask, prompt_length)


def score_responses(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    actions: Tensor,
    valid: Tensor,
    sampling: Sampling,
    n_actions: int,
    end_ids: Sequence[int] = (),
    kept: Tensor | None = None,
) -> TokenScores:
    """Log-probability and entropy of every valid token, without keeping ``[n, T, V]`` alive.

    Args:
        head: hidden states to logits.
        states: ``[n, T, d]`` the states from which the tokens were chosen.
        actions: ``[n, T]``.
        valid: ``[n, T]`` bool.
        sampling: the behaviour distribution.
        n_actions: ``V``.
        end_ids: tokens that end a response.
        kept: ``[n, T, M]`` ids that the behaviour distribution kept at the rollout, -1 for none; None for all.
    """
    elapsed = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)

    def chunk(states: Tensor, actions: Tensor, elapsed: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = restrict(head(states), sampling.shared, n_actions, end_ids, elapsed)
        if kept is None:
            log_probs = torch.log_softmax(logits, -1)
            chosen = log_probs.gather(1, actions[:, None])
        else:
            inside = logits.gather(1, kept.clamp(min=0).long()).masked_fill(kept < 0, -torch.inf)
            log_probs = torch.log_softmax(inside, -1)
            is_chosen = kept == actions[:, None]
            chosen = log_probs.gather(1, is_chosen.int().argmax(-1, keepdim=True))
            chosen = chosen.masked_fill(~is_chosen.any(-1, keepdim=True), -torch.inf)
        # 0 · log 0 = 0, also in the gradient
        finite = log_probs.masked_fill(log_probs == -torch.inf, 0.0)
        return chosen[:, 0], -(log_probs.exp() * finite).sum(-1)

    inputs = (states[valid], actions[valid], elapsed[valid], None if kept is None else kept[valid])
    size = max(1, CHUNK_ELEMENTS // n_actions)
    if len(inputs[0]) <= size:
        parts = [chunk(*inputs)]
    else:
        starts = range(0, len(inputs[0]), size)
        slices = [[None if x is None else x[i : i + size] for x in inputs] for i in starts]
        parts = [checkpoint(chunk, *one, use_reentrant=False, preserve_rng_state=False) for one in slices]
    log_probs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
    empty = torch.zeros(valid.shape, dtype=log_probs.dtype, device=valid.device)
    return TokenScores(empty.masked_scatter(valid, log_probs), empty.masked_scatter(valid, entropy))
