"""Curves of several seeds, and whether their mean is surely above a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textgym.benchmarks.figures import Line
from textgym.benchmarks.statistics import FEWEST_SEEDS, mean_estimate
from textgym.types import FloatArray

BLOCKS = 20
"""Parts of equal length of a learning curve: any single iteration is noisy, the mean of a part is steady."""


def surely_above(values: Sequence[float] | FloatArray, floor: float = 0.0) -> bool:
    """Whether the whole interval of the mean lies above a number; never of too few seeds."""
    return len(values) >= FEWEST_SEEDS and mean_estimate(values).low > floor


def mean_line(x: FloatArray, y: FloatArray) -> Line:
    """The mean way of ``[n_seeds, m]`` points, with the interval of ``y`` where there are seeds enough for one."""
    if len(y) < FEWEST_SEEDS:
        return Line(x.mean(0), y.mean(0))
    spans = [mean_estimate(column) for column in y.T]
    return Line(x.mean(0), y.mean(0), np.array([s.low for s in spans]), np.array([s.high for s in spans]))


def in_blocks(curves: Sequence[Sequence[float]]) -> FloatArray:
    """Means over consecutive parts of each curve, as equal in length as can be.

    A budget of tokens is spent in more iterations where responses are short, so curves may differ in length.

    Args:
        curves: ``n`` of at least one point each.

    Returns:
        ``[n, BLOCKS]``, or as many columns as the shortest curve has points.
    """
    count = min(BLOCKS, *(len(one) for one in curves))
    return np.array([[part.mean() for part in np.array_split(np.asarray(one, np.float64), count)] for one in curves])


def root_kl(kl: FloatArray) -> FloatArray:
    """√KL; a sampled KL of a policy that has hardly moved may come out below 0, and counts as 0."""
    root: FloatArray = np.sqrt(np.maximum(kl, 0))
    return root
