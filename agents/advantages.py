"""Advantage estimators: pure functions of arrays. γ = 1 throughout: a text's score is not discounted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textgym.types import BoolArray, Float32Array


class Advantages(NamedTuple):
    """``[N, T]`` each, 0 where no token stands: how much better than expected, and what the critic should say."""

    advantages: Float32Array
    returns: Float32Array


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


def whiten(x: Float32Array, valid: BoolArray) -> Float32Array:
    """Zero mean and unit variance over the valid tokens; 0 elsewhere (Ziegler 2019)."""
    inside = x[valid].astype(np.float64)
    centred = (x - inside.mean()) / (inside.std() + 1e-8)
    whitened: Float32Array = np.where(valid, centred, 0.0).astype(np.float32)
    return whitened
