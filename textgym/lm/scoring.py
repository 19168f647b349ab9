"""Whole-sequence passes: log-probabilities and entropies of responses, one forward pass per sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from textgym.lm.architecture import make_backbone
from textgym.lm.loading import embedding_rows
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
        ValueError: the model does more than apply a linear head to its backbone (soft-capped or scaled logits), or
            names none.
    """

    def __init__(self, model: PreTrainedModel, n_frozen: int = 0) -> None:
        self.model = model
        self.backbone = make_backbone(model, n_frozen)
        self.base = self.backbone.module
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise ValueError(f"{type(model).__name__} names no trunk (base_model) below an output head; expected both")
        scale = self._scale(head)
        self.head: Callable[[Tensor], Tensor] = head if scale == 1 else lambda states: head(scale * states)

    @torch.no_grad()
    def _scale(self, head: nn.Module) -> float:
        """Follows one pass: the head must read what the backbone gives, which T5 scales, and give the logits."""
        head_read: list[Tensor] = []
        head_gave: list[Tensor] = []

        def amplify(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # A fresh model's logits are small, where a cap would change nothing.
            head_read.append(inputs[0])
            head_gave.append(1e3 * output)
            return head_gave[-1]

        ids = torch.arange(4, device=self.model.device)[None] % embedding_rows(self.model)
        inputs = self.backbone.inputs(ids)
        hook = head.register_forward_hook(amplify)
        try:
            logits = self.model(**inputs).logits
        finally:
            hook.remove()
        states = self.backbone.last_states(inputs)
        for scale in (1.0, states.shape[-1] ** -0.5):
            if _equal(head_read, scale * states) and _equal(head_gave, logits):
                return scale
        raise ValueError(
            f"{type(self.model).__name__} does more than apply its output head to its trunk (soft-capping or "
            "scaling), which training does not support; switch it off in the model's config"
        )

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


def _equal(passed: list[Tensor], expected: Tensor) -> bool:
    return len(passed) == 1 and passed[0].shape == expected.shape and torch.allclose(passed[0], expected, rtol=1e-4)


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
