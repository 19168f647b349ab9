"""Losses: pure functions of tensors, ``[n, T]`` each, and the ways to make one number of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from textgym.agents.settings import Normalisation

# --- ratios --------------------------------------------------------------------------------------------------


def token_ratio(log_ratio: Tensor) -> Tensor:
    """ρ_t = π(a_t|s_t) / π_old(a_t|s_t). Schulman 2017 (arXiv 1707.06347).

    Args:
        log_ratio: ``[n, T]`` log π − log π_old, 0 where no token stands.
    """
    return log_ratio.exp()


def sequence_ratio(log_ratio: Tensor, valid: Tensor) -> Tensor:
    """GSPO: s = (π(y|x) / π_old(y|x))^(1/|y|), one for all tokens of a response. Zheng 2025 (arXiv 2507.18071), eq. 7.

    Args:
        log_ratio: ``[n, T]`` log π − log π_old, 0 where no token stands.
        valid: ``[n, T]``.

    Returns:
        ``[n, T]``, equal along T.
    """
    mean = log_ratio.sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    return mean.exp().expand_as(log_ratio)


# --- losses of each token ------------------------------------------------------------------------------------


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """PPO: −min(ρA, clip(ρ, 1−ε, 1+ε')A). Schulman 2017 (arXiv 1707.06347), eq. 7.

    A higher ε' leaves room for unlikely tokens: Yu 2025, "DAPO" (arXiv 2503.14476), eq. 10.

    Args:
        ratio: ρ, ``[n, T]``.
        advantages: A, ``[n, T]``.
        clip: ε.
        clip_high: ε'; None for ε.
    """
    limited = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return -torch.minimum(ratio * advantages, limited * advantages)


def policy_gradient(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """−A·log π(a|s): its gradient is REINFORCE's. Williams 1992; with A = 1 the negative log-likelihood.

    Args:
        log_probs: ``[n, T]``.
        advantages: A, ``[n, T]``.
    """
    return -advantages * log_probs


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Per-token ½·max((V−R)², (V_clip−R)²), V_clip within ε of the old value (Schulman's PPO code; Huang 2022).

    Args:
        values: V, ``[n, T]``.
        old_values: V at the rollout.
        returns: R.
        clip: ε, in units of the value.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


# --- one number ----------------------------------------------------------------------------------------------

Normalise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``normalise(x [n, T], valid [n, T])``: a minibatch's loss from its tokens'."""


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid tokens of the batch: all tokens weigh the same (DAPO, arXiv 2503.14476)."""
    return x[valid].mean()


def sequence_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the responses of each one's mean: all responses weigh the same (GRPO, arXiv 2402.03300)."""
    return (x.masked_fill(~valid, 0.0).sum(1) / valid.sum(1)).mean()


def constant_mean(x: Tensor, valid: Tensor, tokens: int) -> Tensor:
    """Sum over each response's tokens divided by a constant, mean over responses (Dr. GRPO, arXiv 2503.20783).

    The gradient is that of the responses' expected return, whatever their lengths.
    """
    return x.masked_fill(~valid, 0.0).sum(1).mean() / tokens


def weight(kind: Normalisation, valid: Tensor) -> int:
    """What a batch weighs in the mean over several, ``valid [n, T]``: its tokens where these are averaged, or n."""
    return int(valid.sum()) if kind == "token" else len(valid)


def make_normalise(kind: Normalisation, horizon: int) -> Normalise:
    """Return the function of a name; ``"constant"`` divides by the horizon T."""
    kinds: dict[Normalisation, Normalise] = {
        "token": masked_mean,
        "sequence": sequence_mean,
        "constant": partial(constant_mean, tokens=horizon),
    }
    return kinds[kind]
