"""NLPO's action mask: the tokens that a slowly following copy of the policy finds plausible."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from textgym.lm.loading import frozen_copy
from textgym.lm.sampling import Sampling, nucleus, restrict

MASK_MODEL = "mask_model"
"""The name under which a checkpoint keeps the mask's model."""


class NucleusMask:
    """A frozen copy of a model, whose nucleus, most probable tokens and the end tokens are what may be sampled.

    Args:
        model: is copied.
        top_mask: the mass of the nucleus, in (0, 1].
        min_tokens_to_keep: the most probable tokens that are always kept.
    """

    def __init__(self, model: PreTrainedModel, top_mask: float, min_tokens_to_keep: int) -> None:
        self.model = frozen_copy(model)
        self.top_mask = top_mask
        self.min_tokens_to_keep = min_tokens_to_keep

    @torch.no_grad()
    def refresh(self, model: PreTrainedModel) -> None:
        """Make the copy equal to the model as it is now; caches notice."""
        self.model.load_state_dict(model.state_dict())

    def admits(
        self,
        logits: Tensor,
        sampling: Sampling,
        n_actions: int,
        end_ids: Sequence[int],
        elapsed: Tensor,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """``[n, V]`` bool: which tokens may be sampled, given the copy's ``logits [n, V']``.

        Temperature, minimum length and the task's own mask hold for the copy as for the policy. The other arguments
        are those of :func:`textgym.lm.sampling.restrict`.
        """
        judged = restrict(logits, sampling.shared, n_actions, end_ids, elapsed, allowed)
        kept = nucleus(judged, self.top_mask)
        best = judged.topk(min(self.min_tokens_to_keep, n_actions)).indices
        kept = kept.scatter(1, best, True)
        kept[:, list(end_ids)] = True
        return kept & torch.isfinite(judged)
