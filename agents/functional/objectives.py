"""Advantage estimators and losses: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from textgym.agents.settings import Normalisation
from textgym.types import BoolArray, Float32Array, FloatArray, IntArray


class Advantages(NamedTuple):
    """``[N, T]`` each, 0 where no token stands: how much better than expected, and what the critic should say."""

    advantages: Float32Array
    returns: Float32Array


# --- one number per token ----------------------------------------------------------------------------------


def gae(
    rewards: Float32Array, values: Float32Array, valid: BoolArray, lam: float, truncated: BoolArray | None = None
) -> Advantages:
    """Generalised advantage estimation with γ = 1: A_t = Σ_l λ^l δ_{t+l}, δ_t = r_t + V(s_{t+1}) − V(s_t).

    Schulman 2015 (arXiv 1506.02438), eq. 16. Beyond the last valid token the value is 0, as the horizon is a
    termination; only where an outside wrapper truncated, V of the state after it stands in.

    Args:
        rewards: ``[N, T]``.
        values: ``[N, T+1]`` of the states before each token, and after the last.
        valid: ``[N, T]``.
        lam: λ in [0, 1]; 1 gives return minus value.
        truncated: ``[N]`` or None for nowhere.
    """
    n, horizon = rewards.shape
    last = valid.sum(1) - 1
    columns = np.arange(horizon)
    ends = columns == last[:, None]
    cut = np.zeros(n, bool) if truncated is None else truncated
    following = np.where(ends & ~cut[:, None], 0.0, values[:, 1:])
    deltas = np.where(valid, rewards + following - values[:, :-1], 0.0)
    advantages = np.zeros((n, horizon), np.float64)
    running = np.zeros(n)
    for t in reversed(range(horizon)):
        # Columns after the end carry zeros, so nothing flows back from them.
        running = deltas[:, t] + lam * running
        advantages[:, t] = running
    returns = np.where(valid, advantages + values[:, :-1], 0.0)
    return Advantages(advantages.astype(np.float32), returns.astype(np.float32))


def monte_carlo(
    rewards: Float32Array, values: Float32Array, valid: BoolArray, truncated: BoolArray | None = None
) -> Advantages:
    """Return minus value: A_t = Σ_{u ≥ t} r_u − V(s_t). Williams 1992; Mnih 2016 (arXiv 1602.01783), whole episodes.

    Args:
        rewards: ``[N, T]``.
        values: ``[N, T+1]`` of the states before each token, and after the last; zeros give the return itself.
        valid: ``[N, T]``.
        truncated: ``[N]`` where an outside wrapper cut the episode short: V of its last state stands in for the rest.
    """
    paid = np.where(valid, rewards, 0.0).astype(np.float64)
    if truncated is not None:
        rows = np.flatnonzero(truncated)
        lengths = valid[rows].sum(1)
        paid[rows, lengths - 1] += values[rows, lengths]
    returns = np.where(valid, paid[:, ::-1].cumsum(1)[:, ::-1], 0.0)
    advantages = np.where(valid, returns - values[:, :-1], 0.0)
    return Advantages(advantages.astype(np.float32), returns.astype(np.float32))


# --- one number per response -------------------------------------------------------------------------------


def leave_one_out(returns: FloatArray, k: int) -> FloatArray:
    """RLOO: A_i = R_i − 1/(k−1) Σ_{j≠i} R_j over the k responses to a prompt.

    Kool 2019; Ahmadian 2024 (arXiv 2402.14740), eq. 8. It is k/(k−1) times the return minus the group's mean.

    Args:
        returns: ``[N]``, groups of ``k`` consecutive.
        k: at least 2.
    """
    groups = returns.reshape(-1, k)
    others = (groups.sum(1, keepdims=True) - groups) / (k - 1)
    advantages: FloatArray = (groups - others).ravel()
    return advantages


def group_relative(returns: FloatArray, k: int, scale: bool = True) -> FloatArray:
    """GRPO: A_i = (R_i − mean(R)) / std(R) over the k responses to a prompt.

    Shao 2024 (arXiv 2402.03300), section 4.1. Without the standard deviation: Liu 2025, "Dr. GRPO" (arXiv
    2503.20783), since dividing by it weighs the prompts on which all responses score nearly alike the most.

    Args:
        returns: ``[N]``, groups of ``k`` consecutive.
        k: at least 2; all N together make centred REINFORCE.
        scale: whether to divide by the standard deviation.
    """
    groups = returns.reshape(-1, k)
    centred = groups - groups.mean(1, keepdims=True)
    # Not smaller: what rounding leaves of equal returns must not count as a difference.
    scaled = centred / (groups.std(1, keepdims=True) + 1e-4) if scale else centred
    advantages: FloatArray = scaled.ravel()
    return advantages


def greedy_baseline(returns: FloatArray, greedy_scores: FloatArray) -> FloatArray:
    """ReMax: A_i = R_i − R(greedy response to the same prompt). Li 2023 (arXiv 2310.10505), eq. 7.

    Args:
        returns: ``[N]``, groups of N/G consecutive.
        greedy_scores: ``[G]`` of the greedy response to each group's prompt.
    """
    advantages: FloatArray = returns - np.repeat(greedy_scores, len(returns) // len(greedy_scores))
    return advantages


def best_of_groups(returns: FloatArray, k: int) -> IntArray:
    """``[N/k]`` rows of the best response to each prompt; of equals the first."""
    rows: IntArray = returns.reshape(-1, k).argmax(1) + np.arange(0, len(returns), k)
    return rows


def spread(advantages: FloatArray, valid: BoolArray) -> Advantages:
    """Every token of a response gets the response's advantage: ``[N]`` to ``[N, T]``."""
    tokens = np.where(valid, advantages[:, None], 0.0).astype(np.float32)
    return Advantages(tokens, np.zeros_like(tokens))


# --- over a batch ------------------------------------------------------------------------------------------


ROUNDING = 1e-6
"""Numbers that differ by less are equal: log-probabilities of the rollout and of a batched pass round differently."""


def whiten(x: Float32Array, valid: BoolArray) -> Float32Array:
    """Zero mean and unit variance over the valid tokens of the batch; 0 elsewhere, and where all are equal.

    Ziegler 2019 (arXiv 1909.08593); with returns instead of advantages it is the baseline of REINFORCE++, Hu 2025
    (arXiv 2501.03262).
    """
    inside = x[valid].astype(np.float64)
    spread = inside.std()
    if spread < ROUNDING:  # or noise would be blown up to a signal
        return np.zeros_like(x, np.float32)
    whitened: Float32Array = np.where(valid, (x - inside.mean()) / (spread + 1e-8), 0.0).astype(np.float32)
    return whitened


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
