"""Measured values with 95 % intervals, each with what its interval is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textgym.intervals import SampleMean, clustered, half_width, share_interval
from textgym.types import FloatArray, IntArray

GROUPS = 20
"""Groups of prompts that :func:`jackknifed` leaves out one by one; fewer where there are fewer prompts."""
OVER_PROMPTS = "mean over prompts"
SHARE = "share of responses, over prompts"
JACKKNIFE = "of all texts together; jackknife over groups of prompts"


@dataclass(frozen=True)
class Measured:
    """A measure of a policy.

    Attributes:
        value: the measure; None where it is not defined, such as a correlation with a constant.
        low, high: ends of the 95 % interval, over the draw of prompts and samples together; None without one.
        n: number of prompts behind it; of samples, where all are of one prompt.
        about: what the value is, and what its interval is over.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    about: str

    @property
    def row(self) -> dict[str, Any]:
        """The measure as an object of JSON."""
        return asdict(self)


def _measured(value: float, bounds: tuple[float, float] | None, prompts: int, about: str) -> Measured:
    if not math.isfinite(value):
        return Measured(None, None, None, prompts, about)
    low, high = bounds if bounds is not None and all(map(math.isfinite, bounds)) else (None, None)
    return Measured(float(value), low, high, prompts, about)


def mean_over_prompts(values: ArrayLike, prompts: Sequence[Hashable], about: str = OVER_PROMPTS) -> Measured:
    """Return a mean of ``[n]`` values with Student's interval over prompts; values that are NaN do not apply."""
    array = np.asarray(values, np.float64)
    there = np.isfinite(array)
    own = [prompt for prompt, applies in zip(prompts, there, strict=True) if applies]
    if not own:
        return Measured(None, None, None, 0, about)
    found = clustered(array[there], own)
    half = half_width(found.error, found.prompts)
    bounds = None if half is None else (found.mean - half, found.mean + half)
    return _measured(found.mean, bounds, found.prompts, about)


def share_over_prompts(hits: ArrayLike, prompts: Sequence[Hashable], about: str = SHARE) -> Measured:
    """Return a share with its interval by Clopper and Pearson, of as many values as are independent.

    Args:
        hits: ``[n]`` values in [0, 1]: 1 for a hit, ½ for a tie.
        prompts: ``[n]`` the prompt of each.
        about: what the share is.
    """
    array = np.asarray(hits, np.float64)
    return _measured(float(array.mean()), share_interval(array, prompts), len(set(prompts)), about)


def ratio_over_prompts(
    sums: ArrayLike, counts: ArrayLike, prompts: Sequence[Hashable], about: str, exponential: bool = False
) -> Measured:
    """Return Σ sums / Σ counts with Student's interval over prompts, by the delta method; or its exponential.

    Source: Cochran 1977, Sampling Techniques, section 6.4.

    Args:
        sums: ``[n]`` numerators, such as losses of texts.
        counts: ``[n]`` denominators, such as their numbers of tokens; all 0 gives no value.
        prompts: ``[n]`` the prompt of each.
        about: what the ratio is.
        exponential: return the exponential of ratio and bounds, such as a perplexity.
    """
    above, below = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    which, n = np.array([numbers[prompt] for prompt in prompts]), len(numbers)
    if not below.sum():
        return Measured(None, None, None, n, about)
    ratio = float(above.sum() / below.sum())
    residuals = np.bincount(which, above - ratio * below, n)
    error = math.sqrt((residuals**2).sum() * n / (n - 1)) / below.sum() if n > 1 else math.nan
    half = half_width(error, n)
    bounds = None if half is None else (ratio - half, ratio + half)
    if exponential:
        ratio, bounds = _exp(ratio), None if bounds is None else (_exp(bounds[0]), _exp(bounds[1]))
    return _measured(ratio, bounds, n, about)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def jackknifed(
    statistic: Callable[[IntArray], float],
    prompts: Sequence[Hashable],
    about: str = JACKKNIFE,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Measured:
    """Return a statistic of a set of rows with the interval of the grouped jackknife, which is cut at its limits.

    Args:
        statistic: see :func:`jackknife`.
        prompts: see :func:`jackknife`.
        about: what the statistic is.
        limits: the least and the greatest value that it can have.
    """
    found = jackknife(statistic, prompts)
    half = found.half
    bounds = None if half is None else (max(found.mean - half, limits[0]), min(found.mean + half, limits[1]))
    return _measured(found.mean, bounds, len(set(prompts)), about)


def jackknife(statistic: Callable[[IntArray], float], prompts: Sequence[Hashable], groups: int = GROUPS) -> SampleMean:
    """Compute a statistic of a set of rows and its standard error; ``n`` is the number of groups behind the error.

    Prompts are dealt out to groups; leaving out each group in turn gives the error, with which the bias of the measure
    by the number of texts does not interfere. A bootstrap would repeat texts, which distinct-n and self-BLEU notice.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 11.7.

    Args:
        statistic: of row indices; NaN if it is not defined of them.
        prompts: ``[n]`` the prompt of each row.
        groups: number of groups, at most; with fewer prompts each is a group.
    """
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    which = np.array([numbers[prompt] for prompt in prompts], np.int64)
    rows, number = np.arange(len(which)), min(groups, len(numbers))
    value = statistic(rows)
    if number < 2 or not math.isfinite(value):
        return SampleMean(value)
    without: FloatArray = np.array([statistic(rows[which % number != group]) for group in range(number)])
    error = math.sqrt((number - 1) / number * ((without - without.mean()) ** 2).sum())
    return SampleMean(value, error, number)


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Compute Pearson's correlation of ``[n]`` and ``[n]``; NaN if one of them does not vary."""
    x, y = (np.asarray(values, np.float64) for values in (a, b))
    if not (len(x) and np.ptp(x) and np.ptp(y)):  # differences of a constant from its mean are rounding
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0 else math.nan
