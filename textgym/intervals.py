"""Confidence intervals at 95 %, by one rule for runs, comparisons, benchmarks and the exact optimum.

- A mean has Student's interval, at the degrees of freedom that its independent values leave. The normal quantile is
  its limit, and is used only where the number of values is unknown.
- A share has Clopper and Pearson's interval; where pairs of one prompt are alike, of as many independent pairs as would
  have the error that is seen.

Statistics of whole suites, which are neither, are bootstrapped in :mod:`textgym.benchmarks.analysis.statistics`; their
intervals are stretched to Student's quantile as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, stdtrit

from textgym.types import FloatArray

LEVEL = 0.95
UPPER = (1 + LEVEL) / 2


def quantile(degrees_of_freedom: float) -> float:
    """Return half of Student's interval in standard errors; with infinitely many degrees of freedom, the normal's."""
    return float(stdtrit(min(degrees_of_freedom, 1e9), UPPER))


def half_width(error: float | None, n: float | None) -> float | None:
    """Return half of a mean's 95 % interval.

    Args:
        error: its standard error; None where that is not known.
        n: independent values that it comes from; None if unknown, for the normal quantile.

    Returns:
        None without an error, and for a single value, whose error is unknown.
    """
    if error is None or not math.isfinite(error) or (n is not None and n < 2):
        return None
    return quantile(math.inf if n is None else n - 1) * error


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; both ends are NaN where it has none."""

    value: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class SampleMean:
    """A mean and its standard error.

    Attributes:
        mean: mean of the sample.
        sem: its standard error; None where that is not known.
        n: independent values behind it; None if unknown, for the normal quantile.
    """

    mean: float
    sem: float | None = None
    n: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of Student's 95 % interval; None without an error, and of a single value."""
        return half_width(self.sem, self.n)

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


@dataclass(frozen=True)
class Clustered:
    """Mean of values that are clustered by prompt.

    Attributes:
        mean: mean over all values.
        error: its standard error over prompts; NaN for a single prompt.
        values: number of values.
        prompts: number of prompts.
    """

    mean: float
    error: float
    values: int
    prompts: int


def clustered(values: ArrayLike, prompts: Sequence[Hashable]) -> Clustered:
    """Compute the mean of ``[n]`` values with a standard error that allows for correlation within a prompt.

    The error is that of a ratio of sums over prompts (Cochran 1977, *Sampling Techniques*, section 9A.2).

    Args:
        values: ``[n]``, at least one.
        prompts: ``[n]`` the prompt of each value.
    """
    array = np.asarray(values, np.float64)
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    which, count = np.array([numbers[prompt] for prompt in prompts]), len(numbers)
    mean = float(array.mean())
    # Summing the residuals of a prompt before squaring keeps their covariance.
    residuals = np.bincount(which, array - mean, count)
    error = math.sqrt((residuals**2).sum() * count / (count - 1)) / len(array) if count > 1 else math.nan
    return Clustered(mean, error, len(array), count)


def share_interval(wins: ArrayLike, prompts: Sequence[Hashable]) -> tuple[float, float] | None:
    """Compute the 95 % interval of a share of pairs that are clustered by prompt.

    This is the Clopper–Pearson interval of the effective number of pairs: the number of independent pairs that would
    have the standard error observed over prompts (Korn & Graubard, Survey Methodology 24 (1998), pp. 193–201). If all
    pairs agree, no error can be observed, and each prompt counts as one pair.

    Args:
        wins: ``[n]`` 1 for a pair that counts, 0 for one that does not, ½ for a tie.
        prompts: ``[n]`` the prompt of each pair.

    Returns:
        Both ends; None without pairs or with a single prompt.
    """
    if not len(prompts):
        return None
    found = clustered(wins, prompts)
    if found.prompts < 2:
        return None
    spread = found.mean * (1 - found.mean)
    if found.error > 0 and spread > 0:
        # The ratio of quantiles corrects for estimating the error from few prompts.
        student = (quantile(found.values - 1) / quantile(found.prompts - 1)) ** 2
        effective = min(spread / found.error**2 * student, float(found.values))
    else:
        effective = float(found.values if spread else found.prompts)
    return clopper_pearson(found.mean, effective)


def clopper_pearson(share: float, n: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a binomial share of ``n`` trials; ``n`` may be fractional."""
    won = share * n
    low = float(betaincinv(won, n - won + 1, 1 - UPPER)) if won > 0 else 0.0
    high = float(betaincinv(won + 1, n - won, UPPER)) if n - won > 0 else 1.0
    return low, high


def mean_interval(values: ArrayLike, prompts: Sequence[Hashable]) -> tuple[float, float] | None:
    """Return Student's 95 % interval of :func:`clustered`; None of a single prompt."""
    found = clustered(values, prompts)
    half = half_width(found.error, found.prompts)
    return None if half is None else (found.mean - half, found.mean + half)


def wins(margins: ArrayLike) -> FloatArray:
    """Return 1 for a positive margin, 0 for a negative one and ½ for none, ``[n]``."""
    won: FloatArray = (np.sign(np.asarray(margins, np.float64)) + 1) / 2
    return won
