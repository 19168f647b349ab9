"""Intervals of measures: identities with the ordinary ones, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from textgym.evaluation.measured import (
    correlation,
    jackknife,
    jackknifed,
    mean_over_prompts,
    ratio_over_prompts,
    share_over_prompts,
)


def test_one_response_to_each_prompt_gives_students_interval() -> None:
    values = np.array([0.1, 0.7, 0.4, 0.9, 0.2])
    found = mean_over_prompts(values, range(5))
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high, found.n) == (
        pytest.approx(0.46),
        pytest.approx(low),
        pytest.approx(high),
        5,
    )


def test_copies_of_responses_do_not_narrow_an_interval() -> None:
    values = np.array([0.1, 0.7, 0.4, 0.9, 0.2])
    once, often = mean_over_prompts(values, range(5)), mean_over_prompts(np.repeat(values, 8), np.repeat(range(5), 8))
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_values_that_do_not_apply_are_left_out() -> None:
    found = mean_over_prompts([1.0, math.nan, 3.0], [0, 1, 2])
    assert (found.value, found.n) == (2.0, 2)
    assert mean_over_prompts([math.nan], [0]).row["value"] is None
    assert mean_over_prompts([2.0], [0]).low is None  # of a single prompt nothing is known


def test_a_share_without_a_miss_is_not_sure() -> None:
    found = share_over_prompts(np.ones(20), range(20))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 20))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=15)
    found = jackknife(lambda rows: float(values[rows].mean()), range(15), groups=15)
    assert (found.mean, found.sem, found.n) == (pytest.approx(values.mean()), pytest.approx(stats.sem(values)), 15)


def test_the_jackknife_leaves_out_whole_prompts() -> None:
    values = np.random.default_rng(0).normal(size=15)
    keys = np.repeat(range(15), 4)
    found = jackknife(lambda rows: float(np.repeat(values, 4)[rows].mean()), keys.tolist(), groups=15)
    assert found.sem == pytest.approx(stats.sem(values))


def test_a_statistic_that_is_not_defined_has_no_interval() -> None:
    assert jackknifed(lambda _: math.nan, range(4)).row == {
        "value": None, "low": None, "high": None, "n": 4, "about": jackknifed(lambda _: 0.0, range(4)).about
    }  # fmt: skip
    assert jackknifed(lambda rows: float(len(rows)), [1, 1, 1]).low is None


def test_an_interval_ends_at_the_limits_of_its_measure() -> None:
    values = np.array([1.0, 1, 1, 0])
    found, free = (jackknifed(lambda r: values[r].mean(), range(4), "", x) for x in ((0.0, 1.0), (-9.0, 9.0)))
    assert (found.low, found.high) == (0, 1)
    assert free.high == pytest.approx(0.75 + stats.t.ppf(0.975, 3) * 0.25)


def test_a_ratio_by_hand_and_its_exponential() -> None:
    losses, counts = [2.0, 3.0, 7.0], [1, 2, 3]
    found = ratio_over_prompts(losses, counts, range(3), "")
    residuals = np.array([2 - 2, 3 - 4, 7 - 6])
    half = stats.t.ppf(0.975, 2) * math.sqrt((residuals**2).sum() * 3 / 2) / 6
    assert (found.value, found.low, found.high) == (2.0, pytest.approx(2 - half), pytest.approx(2 + half))
    exp = ratio_over_prompts(losses, counts, range(3), "", exponential=True)
    assert (exp.value, exp.low, exp.high) == tuple(pytest.approx(math.exp(x)) for x in (2, 2 - half, 2 + half))
    assert ratio_over_prompts([0.0], [0], [0], "").value is None


def test_correlation_is_pearsons() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 30))
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, -2 * x) == pytest.approx(-1)
    assert math.isnan(correlation(x, np.ones(30)))


def test_the_jackknife_covers_the_correlation() -> None:
    """Of 200 samples of 120 pairs with correlation 0.6, about 95 in 100 intervals hold it."""
    rng, held = np.random.default_rng(4), 0
    for _ in range(200):
        x, noise = rng.normal(size=(2, 120))
        y = 0.6 * x + 0.8 * noise
        found = jackknifed(lambda rows, x=x, y=y: correlation(x[rows], y[rows]), range(120), "", (-1, 1))  # type: ignore[misc]
        held += (found.low or 0.0) <= 0.6 <= (found.high or 0.0)
    assert 180 <= held <= 198
