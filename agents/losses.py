"""Losses: pure functions of tensors, ``[n, T]`` each, averaged over the valid tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid tokens of the batch."""
    return x[valid].mean()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Per-token PPO loss −min(ρA, clip(ρ, 1−ε, 1+ε)A). Schulman 2017 (arXiv 1707.06347), eq. 7.

    Args:
        ratio: ρ = π(a|s) / π_old(a|s).
        advantages: A.
        clip: ε.

    Returns:
        ``[n, T]``.
    """
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Per-token ½·max((V−R)², (V_clip−R)²), V_clip within ε of the old value (Schulman's PPO code; Huang 2022).

    Args:
        values: V.
        old_values: V at the rollout.
        returns: R.
        clip: ε, in units of the value.

    Returns:
        ``[n, T]``.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
