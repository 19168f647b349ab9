"""Intervals over seeds: how much a number would vary if the runs were repeated with other seeds.

The quantities are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(NeurIPS 2021): interquartile mean, performance profile, and stratified bootstrap, which draws seeds with replacement
within each task. Intervals are at 95 %. Profiles need no bootstrap, as their counts are binomial.

The plain percentile bootstrap of that paper is too narrow at the few seeds that one can afford: in each task it sees (n
− 1)/n of the variance, and it takes that variance as known. On simulated scores it covers the truth in 85–93 % of cases
at 5 seeds. So the interval is stretched about its estimate by √(n/(n − 1)) · t/z, with n the seeds and t the quantile
of Student's distribution at the degrees of freedom that Welch and Satterthwaite give a sum of strata (Hesterberg, "What
Teachers Should Know About the Bootstrap", 2015, corrects a single stratum so). It then covers 93–97 % at 3, 5 and 10
seeds of normal, skewed and bimodal scores, also where tasks differ a hundredfold in spread.

No interval can account for outcomes that did not occur in the few seeds. Where a mean depends on a single task that is
won or lost outright while the others hardly vary, n seeds with a chance p of success agree in pⁿ + (1 − p)ⁿ of cases,
and the interval misses in all of these. At 3, 5 and 10 seeds it covers 75, 94 and 95 % if p is 0.5, 48, 67 and 89 % if
it is 0.2 or 0.8, and 27, 41 and 65 % if it is 0.1 or 0.9. The interval of an interquartile mean is too wide there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from textgym.intervals import LEVEL, Estimate, clopper_pearson, quantile
from textgym.types import FloatArray

TAIL = (1 - LEVEL) / 2
RESAMPLES = 2000
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Profile:
    """The share of runs that score above each threshold.

    Attributes:
        thresholds: ``[m]`` scores.
        fraction: ``[m]``, of all runs, from 0 to 1.
        low: ``[m]``, where the 95 % interval of each fraction begins.
        high: ``[m]``, where it ends.
    """

    thresholds: FloatArray
    fraction: FloatArray
    low: FloatArray
    high: FloatArray


# -- Statistics ------------------------------------------------------------------------------------


def interquartile_mean(scores: ArrayLike, axis: int | None = None) -> Any:
    """Return the mean of the middle half of the scores: a quarter, rounded down, is cut off at either end.

    Over all scores together unless an axis is given. It is neither ruled by a few outliers, as the mean is, nor blind
    to all but one score, as the median is. Use it where outliers are noise, as for many seeds of one task. Over tasks
    of different kinds it cuts off the tasks that an algorithm fails, which are the finding.
    """
    return stats.trim_mean(np.asarray(scores, np.float64), 0.25, axis=axis)


def mean_estimate(values: ArrayLike) -> Estimate:
    """Return the mean of ``[n]`` independent values, one for each seed, with Student's interval.

    It is exact for normal values at any n, and close for others unless they are few and very skewed.

    Raises:
        ValueError: fewer than 3 values, or one that is not finite.
    """
    sample = _checked("values", values, dimensions=1)
    mean = float(sample.mean())
    half = quantile(len(sample) - 1) * float(stats.sem(sample))
    return Estimate(mean, mean - half, mean + half)


def mean_over_these_tasks(scores: ArrayLike) -> Estimate:
    """Return the mean over all tasks, with the interval for new instances of the same tasks.

    Tasks are fixed; instances vary, and with them all that is drawn for each: prompts, seeds, the luck of training.
    Where all rows of a task are of the same prompts, the interval is one for these prompts alone. Which tasks are hard
    is shared by all algorithms, so the interval for new tasks, :func:`mean_estimate` of the means of the tasks, is wide
    and does not compare algorithms; for new tasks, see their differences in
    :mod:`textgym.benchmarks.analysis.pairs`.

    This is Student's interval of a sum of strata with unequal variances, with the degrees of freedom of Welch and
    Satterthwaite. Of 8 or 12 tasks that differ tenfold in spread it covers 95–97 % for normal scores at 2, 3 and 5
    instances, 92–96 % where scores lie in [0, 1] or runs are won or lost, 93–94 % where all are skewed to the same
    side, and 91–94 % where all tasks are won in one case of five (scripts/simulate_intervals.py).

    Args:
        scores: ``[n_instances, n_tasks]``.

    Raises:
        ValueError: fewer than 2 instances, or a score that is not finite.
    """
    table = _checked("scores", scores, dimensions=2, fewest=2)
    mean, (instances, tasks) = float(table.mean()), table.shape
    error = math.sqrt(table.var(0, ddof=1).sum() / instances) / tasks
    half = quantile(float(_degrees_of_freedom(list(table.T)))) * error
    return Estimate(mean, mean - half, mean + half)


def stratified_estimate(scores: ArrayLike, statistic: Callable[..., Any], rng: np.random.Generator) -> Estimate:
    """Return a statistic of all scores together, with its stratified bootstrap interval.

    Args:
        scores: ``[n_seeds, n_tasks]``.
        statistic: takes an array and an ``axis``, as :func:`interquartile_mean` and ``np.mean`` do.
        rng: draws the resamples.

    Raises:
        ValueError: fewer than 3 seeds, or a score that is not finite.
    """
    table = _checked("scores", scores, dimensions=2)

    def pooled(*tasks: FloatArray, axis: int) -> Any:
        return statistic(np.concatenate(tasks, axis), axis=axis)

    strata = list(table.T)  # seeds are resampled within each task: tasks are fixed, seeds are random
    low, high = bootstrap_interval(strata, pooled, strata, rng)
    return Estimate(float(statistic(table, axis=None)), float(low), float(high))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Profile:
    """Return the share of runs whose score exceeds each threshold, with Clopper and Pearson's interval.

    Not by a bootstrap: where runs are nearly all above or all below, resamples agree as the runs do, and their bands
    cover as little as a half. Tasks of unlike difficulty only make the count vary less than a binomial one of the same
    mean does (Hoeffding, Annals of Mathematical Statistics 27, 1956, pp. 713–721), so the bands cover 95 % or more.

    Args:
        scores: ``[n_seeds, n_tasks]``.
        thresholds: ``[m]``.

    Raises:
        ValueError: fewer than 3 seeds, or a number that is not finite.
    """
    table = _checked("scores", scores, dimensions=2)
    levels = _checked("thresholds", thresholds, dimensions=1, fewest=1)
    runs = table.size
    # Tasks and seeds together: a run is a Bernoulli trial for each threshold.
    above = (table.ravel() > levels[:, None]).sum(1)
    low, high = np.array([clopper_pearson(count / runs, runs) for count in above.tolist()]).T
    return Profile(levels, above / runs, low, high)


# -- Bootstrap -------------------------------------------------------------------------------------


def bootstrap_interval(
    strata: Sequence[FloatArray],
    statistic: Callable[..., Any],
    contributions: Sequence[FloatArray],
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[FloatArray, FloatArray]:
    """Return the stretched stratified bootstrap interval; the module's docstring explains the stretching.

    Args:
        strata: arrays ``[..., n_i]``; each is drawn from on its own, along its last axis.
        statistic: takes the strata and an ``axis``, gives ``[...]``.
        contributions: arrays ``[..., n_i]`` whose variances over n_i are how much each stratum adds to the
            variance of the statistic, up to a common factor.
        rng: draws the resamples.
        level: level of confidence. Student's quantile follows it, as the far tails of few resamples are noise.
        resamples: number of resamples.

    Returns:
        ``[...]`` low and ``[...]`` high.
    """
    drawn = stats.bootstrap(
        list(strata),
        statistic,
        n_resamples=resamples,
        batch=100,
        vectorized=True,
        axis=-1,
        method="percentile",
        confidence_level=LEVEL,
        rng=rng,
    ).confidence_interval
    centre = statistic(*strata, axis=-1)
    # The smallest stratum underestimates its variance most; its factor is applied to all, which is conservative.
    fewest = min(stratum.shape[-1] for stratum in strata)
    student = stats.t.ppf((1 + level) / 2, _degrees_of_freedom(contributions))
    stretch = np.sqrt(fewest / (fewest - 1)) * student / stats.norm.ppf(1 - TAIL)
    return centre + stretch * (drawn.low - centre), centre + stretch * (drawn.high - centre)


def _degrees_of_freedom(contributions: Sequence[FloatArray]) -> FloatArray:
    """Return those of a sum of independent means with unequal variances (Satterthwaite 1946, Welch 1947)."""
    sizes = np.array([stratum.shape[-1] for stratum in contributions])
    squares = np.stack([stratum.var(-1, ddof=1) / stratum.shape[-1] for stratum in contributions], -1)
    scale = squares.max(-1, keepdims=True)
    # Relative variances, so that squaring tiny ones does not underflow; where all are 0, any positive number will do.
    shares = np.where(scale > 0, squares / np.where(scale > 0, scale, 1), 1)
    return np.asarray(shares.sum(-1) ** 2 / (shares**2 / (sizes - 1)).sum(-1), np.float64)


# -- Input -----------------------------------------------------------------------------------------


def _checked(name: str, values: ArrayLike, dimensions: int, fewest: int = FEWEST_SEEDS) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions or 0 in array.shape[1:]:
        shape = "[n]" if dimensions == 1 else "[n_seeds, n_tasks]"
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if len(array) < fewest:
        what = "an interval needs" if fewest == FEWEST_SEEDS else "expected"
        raise ValueError(f"{name} has {len(array)} rows; {what} at least {fewest}: run more seeds")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {(~np.isfinite(array)).sum()} numbers that are not finite; leave out such runs")
    return array
