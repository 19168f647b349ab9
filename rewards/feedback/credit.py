"""Credit for scalar feedback: which tokens an event can mean, given when they appeared."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from textgym.rewards.feedback.delays import Delay
from textgym.types import FloatArray


def credit_weights(shown: ArrayLike, events: ArrayLike, delay: Delay) -> FloatArray:
    """Compute how much of each event belongs to each token.

    Token t is the newest from ``shown[t]`` until ``shown[t+1]``, the last one for ever. An event at time e means the
    token that was the newest at e − d, for a delay d that is random:

        w_et ∝ P(shown[t] ≤ e − d < shown[t+1])

    Knox and Stone 2009 (K-CAP); Warnell 2018 (arXiv 1709.10163), section 4.

    >>> from textgym.rewards.feedback.delays import Uniform
    >>> credit_weights([0.0, 1.0, 2.0], [2.0], Uniform(0.0, 2.0)).round(3).tolist()
    [[0.5, 0.5, 0.0]]

    Args:
        shown: ``[T]`` seconds at which tokens appeared, never decreasing.
        events: ``[E]`` seconds of the feedback, on the same clock.
        delay: distribution of the delay.

    Returns:
        ``[E, T]``; the sum of a row is 1, or 0 where the delay excludes every token.

    Raises:
        ValueError: times are not finite, of another shape, or run backwards.
    """
    appeared, times = times_of("shown", shown), np.asarray(events, np.float64)
    if times.ndim != 1 or not np.isfinite(times).all():
        raise ValueError(f"events has the shape {times.shape}; expected one finite time for each event, [E]")
    waited = times[:, None] - appeared  # from each token's appearance to the event
    until = np.concatenate([waited[:, 1:], np.full((len(times), 1), -np.inf)], axis=1)
    # A delay of exactly shown[t+1]'s wait belongs to token t+1, which stood from then on; no delay is negative.
    chance = delay.at_most(waited) - delay.at_most(until)
    total = chance.sum(1, keepdims=True)
    weights: FloatArray = np.divide(chance, total, out=np.zeros_like(chance), where=total > 0)
    return weights


def credited(weights: FloatArray, values: ArrayLike) -> FloatArray:
    """Spread feedback over tokens: f_t = Σ_e w_et·h_e, given ``[E, T]`` weights and ``[E]`` values h; ``[T]``."""
    spread: FloatArray = np.asarray(values, np.float64) @ weights
    return spread


def times_of(name: str, times: ArrayLike) -> FloatArray:
    """Return ``[T]`` times.

    Raises:
        ValueError: there are none, one is not finite, or they run backwards.
    """
    found = np.asarray(times, np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError(f"{name} has the shape {found.shape}; expected at least one finite time, in seconds")
    back = np.flatnonzero(np.diff(found) < 0)
    if len(back):
        i = int(back[0])
        raise ValueError(
            f"{name} runs backwards: {found[i]:g} s is followed by {found[i + 1]:g} s (entries {i + 1} and {i + 2}); "
            "expected times that never decrease"
        )
    return found
