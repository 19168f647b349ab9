"""Statistics against numbers worked out by hand, against scipy, and against truths that the data were drawn from."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from textgym.benchmarks.analysis.statistics import (
    bootstrap_interval,
    improvement,
    interquartile_mean,
    mean_estimate,
    mean_over_these_tasks,
    performance_profile,
    probability_of_improvement,
    stratified_estimate,
    unseen_losses,
)
from textgym.types import FloatArray

DATA_SETS, RESAMPLES = 600, 200
Draw = Callable[[np.random.Generator, int, int, int], FloatArray]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- Point estimates -------------------------------------------------------------------------------


def test_interquartile_mean_by_hand() -> None:
    # Of nine sorted scores two fall away at either end; the rest is 2, 3, 4, 5, 16.
    assert interquartile_mean([[-100, 0, 2], [5, 4, 3], [16, 99, 1000]]) == pytest.approx((2 + 3 + 4 + 5 + 16) / 5)


def test_interquartile_mean_is_scipys_trimmed_mean() -> None:
    scores = rng().normal(size=(10, 12))
    assert interquartile_mean(scores) == stats.trim_mean(scores.ravel(), 0.25)
    np.testing.assert_array_equal(interquartile_mean(scores, axis=0), stats.trim_mean(scores, 0.25, axis=0))


def test_mean_estimate_by_hand() -> None:
    # 1, 2, 3, 4: mean 2.5, variance 5/3, standard error sqrt(5/12); the 97.5 % quantile of t with 3 degrees is 3.18245.
    found = mean_estimate([1, 2, 3, 4])
    half = 3.182446 * math.sqrt(5 / 12)
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half), rel=1e-6)


def test_mean_over_these_tasks_by_hand() -> None:
    # Tasks 0, 2 and 5, 9: means 1 and 7, variances 2 and 8. The error is √((2/2 + 8/2))/2; Welch and Satterthwaite have
    # (1 + 4)² / (1² + 4²) degrees of freedom.
    found = mean_over_these_tasks([[0, 5], [2, 9]])
    half = stats.t.ppf(0.975, 25 / 17) * math.sqrt(5) / 2
    assert (found.value, found.low, found.high) == pytest.approx((4, 4 - half, 4 + half))
    # Two tasks without and with a shift: Welch's interval of a difference of two samples, as scipy has it.
    a, b = rng(1).normal(size=(2, 5))
    welch = stats.ttest_ind(a, -b, equal_var=False).confidence_interval()
    both = mean_over_these_tasks(np.stack([a, b], 1))
    assert (both.low, both.high) == pytest.approx((welch.low / 2, welch.high / 2))


def test_improvement_by_hand() -> None:
    # First task: 1 loses to 2, ties with 1; 3 beats both: 2.5 of 4. Second task: 0 wins none of 4.
    assert improvement([[1, 0], [3, 0]], [[2, 5], [1, 6]]) == pytest.approx((2.5 / 4 + 0) / 2)


def test_improvement_is_mann_whitneys_u_as_a_share() -> None:
    a, b = rng(1).integers(0, 4, (5, 1)), rng(2).integers(0, 4, (7, 1))
    assert improvement(a, b) == pytest.approx(stats.mannwhitneyu(a[:, 0], b[:, 0]).statistic / 35)


def test_profile_counts_the_runs_above_a_threshold() -> None:
    profile = performance_profile([[0.1, 0.5], [0.2, 0.5], [0.9, 0.5]], [0.0, 0.2, 0.5, 0.9])
    assert list(profile.fraction) == pytest.approx([1, 4 / 6, 1 / 6, 0])
    bands = [stats.binomtest(count, 6).proportion_ci(method="exact") for count in (6, 4, 1, 0)]
    np.testing.assert_allclose(np.stack([profile.low, profile.high], 1), bands, rtol=1e-9)


# -- Intervals -------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, sets: int, seeds: int, tasks: int) -> FloatArray:
    """Tasks of different difficulty, whose spread differs a hundredfold."""
    centres = np.random.default_rng(5).uniform(0, 1, tasks)
    return centres + rng.normal(size=(sets, seeds, tasks)) * np.geomspace(0.003, 0.3, tasks)


def bounded(rng: np.random.Generator, sets: int, seeds: int, tasks: int) -> FloatArray:
    """From tasks that are hardly learned to tasks that are nearly solved."""
    return rng.beta(np.linspace(0.5, 8, tasks), np.linspace(5, 0.7, tasks), (sets, seeds, tasks))


def won_or_lost(rng: np.random.Generator, sets: int, seeds: int, tasks: int) -> FloatArray:
    """Run that either find the solution or do not."""
    won = rng.random((sets, seeds, tasks)) < np.linspace(0.2, 0.8, tasks)
    return np.where(won, rng.normal(0.95, 0.03, won.shape), rng.normal(0.1, 0.05, won.shape))


def coverage(draw: Draw, statistic: Callable[..., Any], seeds: int, tasks: int) -> float:
    """In which share of data sets the interval holds the statistic of the population."""

    def pooled(*by_task: FloatArray, axis: int) -> Any:
        return statistic(np.concatenate(by_task, axis), axis=axis)

    truth = statistic(draw(rng(1), 20_000, 1, tasks), axis=None)
    strata = list(np.moveaxis(draw(rng(2), DATA_SETS, seeds, tasks), 2, 0))
    low, high = bootstrap_interval(strata, pooled, strata, rng(3), resamples=RESAMPLES)
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("draw", [normal, bounded, won_or_lost])
@pytest.mark.parametrize(("seeds", "tasks"), [(10, 12), (5, 8)])
def test_intervals_of_means_cover_the_truth(draw: Draw, seeds: int, tasks: int) -> None:
    assert coverage(draw, np.mean, seeds, tasks) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("draw", "seeds", "tasks"), [(normal, 5, 8), (bounded, 5, 8), (won_or_lost, 10, 12)])
def test_intervals_of_interquartile_means_cover_the_truth(draw: Draw, seeds: int, tasks: int) -> None:
    assert coverage(draw, interquartile_mean, seeds, tasks) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("seeds", [3, 10])
def test_student_covers_the_truth(seeds: int) -> None:
    found = [mean_estimate(values) for values in rng().normal(1.0, 2.0, (600, seeds))]
    assert np.mean([one.low <= 1.0 <= one.high for one in found]) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("lead", "seeds", "tasks"), [(1.0, 8, 6), (1.0, 3, 1), (2.0, 3, 1), (3.0, 3, 1), (2.0, 5, 1)])
def test_probability_of_improvement_covers_the_truth(lead: float, seeds: int, tasks: int) -> None:
    # Two normals: P(a > b) = Φ(lead/√2). With few runs that are far apart, all of one may beat all of the other.
    truth, draws = stats.norm.cdf(lead / math.sqrt(2)), rng(3).normal(size=(60, 2, seeds, tasks))
    found = [probability_of_improvement(a + lead, b, rng(4)) for a, b in draws]
    assert np.mean([one.value for one in found]) == pytest.approx(truth, abs=0.04)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.87  # 2.8 standard errors of 60 draws


@pytest.mark.parametrize(
    "chances",
    [[0.98] * 12, [0.5] * 12, [1.0] * 10 + [0.9, 0.9], [0.99] * 11 + [0.5], [*np.linspace(0.02, 0.98, 12)], [0.8]],
    ids=["nearly sure", "even", "two in doubt", "one even", "mixed", "a single task"],
)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_bands_of_profiles_cover_the_truth(chances: list[float], seeds: int) -> None:
    won = rng(6).random((400, seeds, len(chances))) < chances
    found = [performance_profile(scores, [0.5]) for scores in won]
    # They may err on the wide side alone: 2.5 standard errors of 400 draws below 95 %.
    assert np.mean([one.low[0] <= np.mean(chances) <= one.high[0] for one in found]) >= 0.923


def test_of_equal_algorithms_the_last_does_not_look_worse() -> None:
    """First and last are picked by the same scores, so the interval must hold for any of the 55 pairs of eleven."""
    alarms = 0
    for scores in rng(9).normal(size=(40, 11, 5, 8)):
        last, *_, best = sorted(scores, key=interquartile_mean)
        alarms += probability_of_improvement(best, last, rng(), 1 - 0.05 / 55).low > 0.5
    assert alarms <= 4  # 2 are expected at the most; at a level of 95 % there are 19


def test_an_estimate_is_the_interval_of_its_data_set() -> None:
    scores = rng().normal(size=(5, 8))
    found = stratified_estimate(scores, np.mean, rng(1))
    # The half-width of a mean is known: t of the pooled error, with few degrees of freedom fewer than 8 · 4.
    error = math.sqrt((scores.var(0, ddof=1) / 5).sum()) / 8
    assert found.value == pytest.approx(scores.mean())
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 26) * error, rel=0.06)
    assert stratified_estimate(scores, np.mean, rng(1)) == found


def test_seeds_are_drawn_within_tasks() -> None:
    """Tasks that differ, and seeds that do not, leave nothing uncertain."""
    scores = np.tile([0.0, 0.5, 1.0, 1.0], (4, 1))
    found = stratified_estimate(scores, interquartile_mean, rng())
    assert (found.value, found.low, found.high) == (0.75, 0.75, 0.75)


def test_nothing_but_wins_leaves_a_doubt() -> None:
    """A bootstrap of them sees none. For one run against one the bound is Wilson's for a binomial of 1 in 1."""
    wilson = 1 / (1 + stats.norm.ppf(0.975) ** 2)
    assert 1 - unseen_losses(1, 1) == pytest.approx(wilson)
    few, many = (probability_of_improvement(np.ones((n, 1)), np.zeros((n, 1)), rng()) for n in (3, 10))
    assert (few.value, few.high) == (many.value, many.high) == (1.0, 1.0)
    # Of the 20 ways to order 3 + 3 runs one is as good: no proof at 95 % on both sides; of those of 10 + 10 it is.
    assert few.low == pytest.approx(0.5, abs=0.01)
    assert 0.7 < many.low < 0.9
    # Two tasks are twice the evidence, and the other side of a coin has the same.
    both = probability_of_improvement(np.ones((3, 2)), np.zeros((3, 2)), rng())
    assert 1 - both.low == pytest.approx((1 - few.low) / math.sqrt(2))
    assert probability_of_improvement(np.zeros((3, 1)), np.ones((3, 1)), rng()).high == pytest.approx(1 - few.low)


def test_a_higher_level_is_a_wider_interval() -> None:
    a, b = rng(7).normal(size=(10, 6)), rng(8).normal(size=(10, 6))
    at_95, at_99 = (probability_of_improvement(a, b, rng(), level) for level in (0.95, 0.99))
    assert at_99.value == at_95.value
    # The degrees of freedom lie between those of one sample of ten and those of all twelve together.
    ratios = [stats.t.ppf(0.995, df) / stats.t.ppf(0.975, df) for df in (12 * 9, 9)]
    assert ratios[0] < (at_99.value - at_99.low) / (at_95.value - at_95.low) < ratios[1]
    # Where one run beats one, Wilson's bound has a closed form; where all do, tasks share it as they share evidence.
    z = stats.norm.ppf(0.995)
    assert unseen_losses(1, 1, 0.99) == pytest.approx(z**2 / (1 + z**2))
    swept = probability_of_improvement(a + 99, b, rng(), 0.99)
    assert 1 - swept.low == pytest.approx(unseen_losses(10, 10, 0.99) / math.sqrt(6))


# -- Bad input -------------------------------------------------------------------------------------


def test_two_seeds_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"values has 2 rows; an interval needs at least 3"):
        mean_estimate([1.0, 2.0])
    with pytest.raises(ValueError, match=r"scores has 2 rows; an interval needs at least 3"):
        stratified_estimate(np.zeros((2, 4)), np.mean, rng())
    with pytest.raises(ValueError, match=r"scores has 1 rows; expected at least 2"):
        mean_over_these_tasks(np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"b has 2 rows; an interval needs at least 3"):
        probability_of_improvement(np.zeros((3, 4)), np.zeros((2, 4)), rng())


def test_scores_must_be_a_finite_table() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \[n_seeds, n_tasks\]"):
        performance_profile(np.zeros(3), [0.5])
    with pytest.raises(ValueError, match=r"scores holds 1 numbers that are not finite"):
        stratified_estimate([[0.0], [1.0], [math.nan]], np.mean, rng())
    with pytest.raises(ValueError, match=r"a has 2 tasks and b 3"):
        improvement(np.zeros((3, 2)), np.zeros((3, 3)))
