"""Delays between a token's appearance and a person's feedback on it, in seconds: uniform, gamma or fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammainc

from textgym.numbers import check, finite
from textgym.types import FloatArray


class Delay(Protocol):
    """Distribution of a delay in seconds, never negative."""

    def at_most(self, seconds: ArrayLike) -> FloatArray:
        """Return the probability that the delay is at most ``seconds``, of any shape; 0 for negative ones."""
        ...

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Draw ``[count]`` delays."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Delay between two bounds, all equally likely.

    Source: Warnell 2018, Deep TAMER (arXiv 1709.10163): 0.2 to 4 s.
    """

    low: float = 0.2
    """Shortest delay, in seconds."""
    high: float = 4.0
    """Longest delay, in seconds."""

    def __post_init__(self) -> None:
        check(self, finite, "low", low=0)
        check(self, finite, "high", above=self.low)

    def at_most(self, seconds: ArrayLike) -> FloatArray:
        """Return the probability that the delay is at most ``seconds``."""
        share: FloatArray = np.clip((np.asarray(seconds, np.float64) - self.low) / (self.high - self.low), 0.0, 1.0)
        return share

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Draw ``[count]`` delays."""
        return generator.uniform(self.low, self.high, count)


@dataclass(frozen=True)
class Gamma:
    """Gamma-distributed delay, as people's reaction times are; its mean is ``shape · scale``.

    Source: Knox and Stone 2009, Interactively shaping agents via human reinforcement (K-CAP), who spread credit by a
    gamma distribution.
    """

    shape: float = 2.0
    """Shape k."""
    scale: float = 0.28
    """Scale θ, in seconds."""

    def __post_init__(self) -> None:
        check(self, finite, "shape", "scale", above=0)

    def at_most(self, seconds: ArrayLike) -> FloatArray:
        """Return the probability that the delay is at most ``seconds``."""
        waited = np.maximum(np.asarray(seconds, np.float64), 0.0) / self.scale
        return np.asarray(gammainc(self.shape, waited), np.float64)

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Draw ``[count]`` delays."""
        return generator.gamma(self.shape, self.scale, count)


@dataclass(frozen=True)
class Fixed:
    """The same delay each time; 0 credits the newest token, as if people answered at once."""

    seconds: float = 0.0
    """The delay."""

    def __post_init__(self) -> None:
        check(self, finite, "seconds", low=0)

    def at_most(self, seconds: ArrayLike) -> FloatArray:
        """Return the probability that the delay is at most ``seconds``: 0 or 1."""
        # Times such as 3 · 0.1 are not exact; a nanosecond is below what anyone measures.
        reached: FloatArray = (np.asarray(seconds, np.float64) >= self.seconds - 1e-9).astype(np.float64)
        return reached

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return ``[count]`` equal delays; nothing is drawn."""
        return np.full(count, self.seconds)
