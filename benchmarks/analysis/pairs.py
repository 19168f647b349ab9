"""Differences between all pairs of algorithms, with tasks as the sample.

Scores are paired: instance k of a task is the same for all algorithms, so that the difficulty of an instance cancels.
Averaging the differences over the instances of a task leaves one number per task and pair. Student's test on these is
the mixed model with a random effect of the task, as all tasks have equally many instances; the interval is one for new
tasks of the same kind. At 8 tasks, however, a single pair has 7 degrees of freedom, and after Holm's correction for 120
pairs the first difference must exceed 6.2 standard errors.

Joint flips of signs find more. If algorithms are equal, a task's differences are as likely with all signs reversed, for
all pairs at once. So the largest statistic over all pairs is compared with its values under all flips of whole tasks,
which keeps the correlation of pairs that share an algorithm (Westfall & Young, *Resampling-Based Multiple Testing*,
1993; step-down as there, so that pairs already told apart no longer count). Three choices, each by simulation:

- Flipped are the deviations from a pair's mean, not the differences themselves: differences that are real would
  otherwise raise the bar for all others.
- Deviations are stretched by n/(n − 1): one root because they have (n − 1)/n of the variance, another because that
  variance is an estimate, as Student's quantile is for a single pair.
- A mean difference is divided by the root of its pair's root-mean-square, half-way between no division (pairs that
  differ much set the bar for all) and Student's (few tasks make some pairs' spread look tiny by chance).

In 1,000 simulated benchmarks of 16 equal algorithms on 8 tasks, the share with any false alarm is, and in brackets that
of differences of 0.12 found, at a spread of 0.08 between eight pairs of equals that are 0.06 apart:

| scores | this test | Student, Holm | flips of differences | Tukey |
| --- | ---: | ---: | ---: | ---: |
| normal | 0.017 (0.69) | 0.041 (0.28) | 0.048 (0.57) | 0.042 (0.76) |
| skewed | 0.013 (0.78) | 0.011 (0.41) | 0.021 (0.61) | 0.051 (0.80) |
| won in one case of five | 0.004 (0.70) | 0.001 (0.31) | 0.006 (0.46) | 0.024 (0.75) |
| algorithms differ tenfold in spread | 0.031 (0.56) | 0.027 (0.64) | 0.043 (0.52) | 0.232 (0.85) |
| four at a time fare alike | 0.038 (0.87) | 0.032 (0.35) | 0.048 (0.80) | 0.048 (0.83) |
| skewed to either side, unlike spread | 0.041 (0.61) | 0.213 (0.68) | 0.060 (0.65) | 0.236 (0.84) |

At 6 tasks it has 0.000 to 0.022 of false alarms; in 300 benchmarks of 12 tasks 0.027, 0.040 and 0.053 in the last three
rows. Tukey's test assumes one spread for all pairs. Flips of the differences themselves are exact where these are
symmetric. scripts/simulate_intervals.py repeats the table.

A lead of 0.07 over 15 equal algorithms, with a spread of 0.04 over tasks and of 0.04 over instances, is found in 49 and
62 % at 8 tasks of 2 and 3 instances, and in 86 and 93 % at 12 tasks; of two algorithms alone in 92 % or more. With a
spread of 0.08 over tasks it is found in 5 and 8 %, and in 20 and 21 %; of two algorithms in 53 and 70 to 75 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from textgym.intervals import LEVEL
from textgym.types import FloatArray

FEWEST_UNITS = 6
"""Tasks, or instances of a single task, that a verdict needs: of the 2⁵⁻¹ flips of five, one alone is above 5 %."""
MOST_FLIPS = 4096
POWER = 0.8


@dataclass(frozen=True)
class Pairs:
    """Comparison of every algorithm with every other; entry ``[i, j]`` is about algorithm i less algorithm j.

    Attributes:
        difference: ``[n, n]`` difference of mean scores.
        low: ``[n, n]``, where the 95 % interval of each difference begins; all intervals hold together.
        high: ``[n, n]``, where it ends.
        p: ``[n, n]`` p-values, corrected for all pairs; 1 on the diagonal.
        detectable: ``[n, n]`` true difference that would be found in about four of five repetitions at the observed
            spread (simulated: 76 to 78 % among 16 algorithms). A pair with a larger p-value is not thereby equal: it
            hardly differs by more than this, and may well differ by less.
        sample: units that are taken for a random sample; None if there are too few of them, and the four arrays above
            are NaN off the diagonal.
        units: number of tasks, or of instances if there is a single task.
    """

    difference: FloatArray
    low: FloatArray
    high: FloatArray
    p: FloatArray
    detectable: FloatArray
    sample: Literal["tasks", "instances"] | None
    units: int

    @property
    def surely(self) -> NDArray[np.bool_]:
        """True where two algorithms are told apart at 5 %, corrected for all pairs."""
        return self.p < 1 - LEVEL


def compare_pairs(scores: ArrayLike, rng: np.random.Generator) -> Pairs:
    """Compare all pairs of algorithms.

    With several tasks, tasks are the sample, and the verdict is about new tasks of the same kind. With a single task,
    its instances are the sample, and the verdict is about new instances of that task. With fewer than 6 of them there
    is no verdict.

    p-values are step-down and intervals single-step: an interval may just reach 0 where the p-value is below 0.05, as
    the p-value needs to allow only for pairs that are no farther apart. Intervals that exclude 0 always have a
    p-value of 0.05 or less.

    Args:
        scores: ``[n_algorithms, n_instances, n_tasks]``; instance k of a task is the same for all algorithms.
        rng: draws flips where there are more than 4,096 of them, from 14 tasks on.

    Raises:
        ValueError: fewer than two algorithms, no instance, no task, or a score that is not finite.
    """
    table = _checked(scores)
    sampled: Literal["tasks", "instances"] = "tasks" if table.shape[2] > 1 else "instances"
    units = table.mean(1) if sampled == "tasks" else table[:, :, 0]
    first, second = np.triu_indices(len(table), 1)
    # [n_pairs, n_units]
    differences = units[first] - units[second]
    count, mean = differences.shape[1], differences.mean(1)
    if count < FEWEST_UNITS:
        unknown = _square(np.full(len(mean), np.nan), len(table))
        p = np.where(np.eye(len(table), dtype=bool), 1.0, unknown)
        return Pairs(_square(mean, len(table), -1), unknown, unknown, p, unknown, None, count)
    deviations = differences - mean[:, None]
    null = _flipped(deviations, _signs(count, rng))
    half = _half_widths(null, deviations)
    noticed = half + stats.t.ppf(POWER, count - 1) * deviations.std(1, ddof=1) / np.sqrt(count)
    difference, widths = _square(mean, len(table), -1), _square(half, len(table))
    return Pairs(
        difference,
        difference - widths,
        difference + widths,
        _square(_step_down(_over_root(np.abs(mean), _root_mean_square(differences)), null), len(table), diagonal=1),
        _square(noticed, len(table)),
        sampled,
        count,
    )


# -- The test --------------------------------------------------------------------------------------


def _signs(count: int, rng: np.random.Generator) -> FloatArray:
    """Return flips ``[n_flips, count]``, the one that flips nothing first; of a flip and its opposite, one."""
    if 2 ** (count - 1) > MOST_FLIPS:
        bits = rng.integers(0, 2, (MOST_FLIPS, count))
        bits[0] = 0
    else:
        bits = np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1
    return np.where(bits, -1.0, 1.0)


def _flipped(deviations: FloatArray, signs: FloatArray) -> FloatArray:
    """Return each pair's statistic under each flip but the first, ``[n_flips - 1, n_pairs]``."""
    count = deviations.shape[1]
    means = np.abs(signs[1:] @ deviations.T) / (count - 1)  # / count, and stretched by count / (count - 1)
    return _over_root(means, deviations.std(1, ddof=1))


def _step_down(observed: FloatArray, null: FloatArray) -> FloatArray:
    """Return corrected p-values ``[n_pairs]``: each pair is compared with the pairs that are no more extreme."""
    order = np.argsort(-observed, kind="stable")
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    # The flip that changes nothing is the difference itself, and counts as one that reaches it.
    reached = (1 + (largest >= observed[order]).sum(0)) / (1 + len(null))
    p = np.empty(len(observed))
    p[order] = np.maximum.accumulate(reached)
    return p


def _half_widths(null: FloatArray, deviations: FloatArray) -> FloatArray:
    """Return half the width of each interval: differences beyond it would be significant in a single step."""
    allowed = int((1 - LEVEL) * (1 + len(null))) - 1
    critical = np.sort(null.max(1))[::-1][allowed]
    # |d| / (v + d²)^¼ = critical, solved for d, where v is the mean square of the deviations.
    fourth = critical**4
    widths: FloatArray = np.sqrt((fourth + np.sqrt(fourth**2 + 4 * fourth * (deviations**2).mean(1))) / 2)
    return widths


def _root_mean_square(values: FloatArray) -> FloatArray:
    root: FloatArray = np.sqrt((values**2).mean(1))
    return root


def _over_root(values: FloatArray, spread: FloatArray) -> FloatArray:
    """Return values ``[..., n]`` divided by the root of their spread ``[n]``; 0 where there is none."""
    return np.where(spread > 0, values / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


# -- Arrays ----------------------------------------------------------------------------------------


def _square(values: FloatArray, size: int, mirrored: int = 1, diagonal: float = 0.0) -> FloatArray:
    """Return one value per pair as a matrix; ``mirrored`` is the sign below the diagonal."""
    matrix = np.full((size, size), diagonal, np.float64)
    first, second = np.triu_indices(size, 1)
    matrix[first, second], matrix[second, first] = values, mirrored * values
    return matrix


def _checked(scores: ArrayLike) -> FloatArray:
    table = np.asarray(scores, np.float64)
    if table.ndim != 3 or len(table) < 2 or not table.size:
        raise ValueError(
            f"scores has shape {table.shape}; expected [n_algorithms, n_instances, n_tasks] of two algorithms or more"
        )
    if not np.isfinite(table).all():
        raise ValueError(f"scores holds {(~np.isfinite(table)).sum()} numbers that are not finite; leave out such runs")
    return table
