"""Curves over several seeds, one-sided tests of their means, and the wording of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from textgym.benchmarks.analysis.statistics import FEWEST_SEEDS, TAIL, mean_estimate
from textgym.intervals import Estimate
from textgym.reports.charts.suites import PlotLine
from textgym.reports.formatting import number
from textgym.types import FloatArray

BLOCKS = 20
"""Parts of equal length of a learning curve: any single iteration is noisy, the mean of a part is steady."""


def surely_above(values: Sequence[float] | FloatArray, floor: float = 0.0) -> bool:
    """Return True if the whole interval of the mean is above ``floor``; never for too few seeds."""
    return len(values) >= FEWEST_SEEDS and mean_estimate(values).low > floor


def surely_positive(groups: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the groups whose mean is significantly above 0, with Holm's correction, the most significant first.

    Student's one-sided tests, at the level of :func:`surely_above`, with the correction of Holm ("A Simple Sequentially
    Rejective Multiple Test Procedure", 1979): naming any group wrongly is no more probable than with a single one.
    """
    doubts = {name: _doubt(values) for name, values in groups.items()}
    sure: list[str] = []
    for name in sorted(doubts, key=doubts.__getitem__):
        # Holm: the k-th smallest p-value is compared with α / (m − k + 1), and the first failure ends the search.
        if doubts[name] >= TAIL / (len(doubts) - len(sure)):
            break
        sure.append(name)
    return sure


def _doubt(values: Sequence[float]) -> float:
    """Return the one-sided p-value of the mean under a true mean of 0; 1 for too few seeds."""
    if len(values) < FEWEST_SEEDS:
        return 1.0
    mean, error = float(np.mean(values)), float(stats.sem(values))
    # Without spread Student's statistic is undefined; the sign of the mean decides.
    if error == 0:
        return 0.0 if mean > 0 else 1.0
    return float(stats.t.sf(mean / error, len(values) - 1))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Return ``a`` less ``b``, of the seeds that both have, in order."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def clearly_or_not(higher: Mapping[int, float], lower: Mapping[int, float]) -> str:
    """Return "clearly" if one number per seed is significantly higher than another, else "not clearly"."""
    return "clearly" if surely_above(paired(higher, lower)) else "not clearly"


def with_bounds(value: Estimate | float, places: int = 3, sign: bool = False) -> str:
    """Return a number for a sentence, with its interval where it has one."""
    if not isinstance(value, Estimate):
        return number(value, places, sign)
    middle, low, high = (number(one, places, sign) for one in (value.value, value.low, value.high))
    return f"{middle} ({low} … {high})"


def mean_line(x: FloatArray, y: FloatArray) -> PlotLine:
    """Return the mean curve of ``[n_seeds, m]`` points, with the interval of ``y`` if there are enough seeds."""
    if len(y) < FEWEST_SEEDS:
        return PlotLine(x.mean(0), y.mean(0))
    spans = [mean_estimate(column) for column in y.T]
    return PlotLine(x.mean(0), y.mean(0), np.array([s.low for s in spans]), np.array([s.high for s in spans]))


def block_means(curves: Sequence[Sequence[float]]) -> FloatArray:
    """Average consecutive parts of each curve, as equal in length as possible.

    A budget of tokens is spent in more iterations where responses are short, so curves may differ in length.

    Args:
        curves: ``n`` of at least one point each.

    Returns:
        ``[n, BLOCKS]``, or as many columns as the shortest curve has points.
    """
    # The shortest curve limits the number of parts: an empty part has no mean.
    count = min(BLOCKS, *(len(one) for one in curves))
    return np.array([[part.mean() for part in np.array_split(np.asarray(one, np.float64), count)] for one in curves])


def by_kl(kl: Sequence[float], gold: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Return a noisy curve of gold over KL with a KL that never falls, ``[m]`` each.

    KL is made monotone by isotonic regression, which pools neighbours that fall; the gold of a pool is its mean.
    """
    fitted = optimize.isotonic_regression(np.asarray(kl, np.float64))
    # blocks[i] … blocks[i + 1] are the points of pool i, which share one fitted KL.
    pools = np.split(np.asarray(gold, np.float64), fitted.blocks[1:-1])
    return fitted.x[fitted.blocks[:-1]], np.array([pool.mean() for pool in pools])


def root_kl(kl: FloatArray) -> FloatArray:
    """Return √KL; a sampled KL below 0, of a policy that has hardly moved, counts as 0."""
    root: FloatArray = np.sqrt(np.maximum(kl, 0))
    return root
