"""The ratio of two means over the same seeds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from textgym.benchmarks.analysis.seeds import surely_above
from textgym.benchmarks.analysis.statistics import FEWEST_SEEDS
from textgym.intervals import Estimate, quantile


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike) -> Estimate | float | None:
    """Return the mean of one divided by the mean of the other, with Fieller's 95 % interval.

    It holds every ρ for which Student's interval of y − ρx holds 0 (Fieller, "Some Problems in Interval Estimation",
    JRSS B 16, 1954), and is exact for normal pairs. A mean of ratios would be led by seeds of a small denominator.

    Args:
        numerator: ``[n]`` y, one number for each seed.
        denominator: ``[n]`` x, of the same seeds.

    Returns:
        A plain number where seeds are too few for an interval; None where the denominator's mean is not above 0, or not
        surely so: no interval of their ratio would have ends.
    """
    y, x = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if len(x) < FEWEST_SEEDS:
        return float(y.mean() / x.mean()) if x.mean() > 0 else None
    if not surely_above(x):
        return None
    share = quantile(len(x) - 1) ** 2 / len(x)
    (yy, xy), (_, xx) = (share * np.cov(y, x)).tolist()
    above, below = float(y.mean()), float(x.mean())
    # The roots of aρ² − 2bρ + c: where the interval of y − ρx ends at 0.
    a, b = below**2 - xx, above * below - xy
    root = math.sqrt(max(below**2 * yy - 2 * above * below * xy + above**2 * xx - (xx * yy - xy**2), 0.0))
    return Estimate(above / below, (b - root) / a, (b + root) / a)
