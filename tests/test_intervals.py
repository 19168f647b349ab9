"""Intervals within a run, against tables, exact counts and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from textgym.intervals import clopper_pearson, clustered, half_width, mean_interval, share_interval, wins
from textgym.rewards.models.evaluation import ScoredGroup, evaluate_scores


def test_student_by_the_table():
    assert half_width(1.0, 3) == pytest.approx(4.303, abs=5e-4)
    assert half_width(0.5, 11) == pytest.approx(0.5 * 2.228, abs=5e-4)
    assert half_width(1.0, None) == pytest.approx(1.95996, abs=1e-5)


@pytest.mark.parametrize(("error", "n"), [(None, 8), (0.1, 1), (math.nan, 8)])
def test_where_the_error_is_unknown_there_is_no_interval(error, n):
    assert half_width(error, n) is None


def test_values_of_prompts_of_their_own_have_the_usual_error():
    values = [0.2, 0.5, 0.9, 0.1]
    found = clustered(values, range(4))
    assert found.error == pytest.approx(stats.sem(values))
    assert (found.mean, found.values, found.prompts) == (pytest.approx(0.425), 4, 4)


def test_copies_of_a_pair_make_nothing_surer():
    """Six pairs of three prompts that always agree are as sure as three pairs."""
    once = clustered([1, 0, 1], "abc")
    twice = clustered([1, 1, 0, 0, 1, 1], "aabbcc")
    assert (twice.mean, twice.error) == (once.mean, pytest.approx(once.error))
    (low, high), (lowest, highest) = share_interval([1, 0, 1], "abc"), share_interval([1, 1, 0, 0, 1, 1], "aabbcc")
    assert lowest <= low
    assert high <= highest


def test_the_error_of_unequal_prompts_by_hand():
    # Two prompts: sums of residuals from the mean 0.75 are 0.25 and -0.25, and 2/(2-1) of their squares is 0.25.
    assert clustered([1.0, 0.5, 1.0, 0.5], "abbb").mean == 0.75
    assert clustered([1.0, 0.5, 1.0, 0.5], "abbb").error == pytest.approx(math.sqrt(2 * 2 * 0.25**2) / 4)


def test_clopper_and_pearson_is_scipys():
    for won, n in ((0, 10), (3, 10), (10, 10), (57, 90)):
        exact = stats.binomtest(won, n).proportion_ci(0.95, "exact")
        assert clopper_pearson(won / n, n) == pytest.approx((exact.low, exact.high))


def test_pairs_that_all_agree_count_once_a_prompt():
    exact = stats.binomtest(5, 5).proportion_ci(0.95, "exact")
    assert share_interval([1] * 30, [i % 5 for i in range(30)]) == pytest.approx((exact.low, 1.0))


def test_a_single_prompt_has_no_interval():
    assert share_interval([1, 0, 1], "aaa") is None
    assert share_interval([], []) is None
    assert mean_interval([1.0, 2.0], "aa") is None


def test_the_interval_covers_the_truth_where_pairs_of_a_prompt_are_alike():
    """Pairs share the chance of their prompt: the binomial interval of the pairs misses far too often."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(20), 6)
    held, naive, runs = 0, 0, 600
    for _ in range(runs):
        chances = rng.beta(1.4, 0.6, 20)  # 0.7 on average
        won = rng.random(120) < np.repeat(chances, 6)
        low, high = share_interval(won.astype(float), prompts.tolist())
        held += low <= 0.7 <= high
        low, high = clopper_pearson(won.mean(), 120)
        naive += low <= 0.7 <= high
    assert held / runs > 0.93
    assert naive / runs < 0.85


def test_wins_by_hand():
    assert wins([2.0, -0.1, 0.0]).tolist() == [1.0, 0.0, 0.5]


def test_an_evaluation_counts_prompts_and_not_pairs():
    """Two rankings of one prompt are one prompt; the longer of each pair is the better one in the first alone."""
    groups = [
        ScoredGroup([3.0, 2.0, 1.0], [0, 1, 2], [9, 5, 1], prompt="a"),
        ScoredGroup([1.0, 0.0], [0, 1], [1, 5], prompt="b"),
        ScoredGroup([0.0, 1.0], [0, 1], [1, 1], prompt="a"),
    ]
    found = evaluate_scores(groups)
    assert (found["prompts"], found["pairs"]) == (2, 5)
    assert (found["accuracy"], found["length_baseline"]) == (4 / 5, 3.5 / 5)
    assert found["accuracy_interval"] == share_interval([1, 1, 1, 1, 0], "aaaba")
    assert found["accuracy_over_length"]["mean"] == pytest.approx(0.1)
    # Per prompt: a has 0 + 0 + 0 - 1/2, b has 1; residuals from 0.1 are -0.9 and 0.9.
    ahead = [0, 0, 0, 1, -0.5]
    low, high = mean_interval(ahead, "aaaba")
    assert (high - low) / 2 == pytest.approx(12.706 * math.sqrt(2 * 2 * 0.9**2) / 5, abs=1e-3)
    assert found["accuracy_over_length"]["interval"] == (-1, 1)  # a difference of shares is no larger


def test_rankings_without_a_prompt_are_each_of_their_own():
    found = evaluate_scores([ScoredGroup([1.0, 0.0], [0, 1], [1, 2]), ScoredGroup([1.0, 0.0], [0, 1], [1, 2])])
    assert found["prompts"] == 2
    assert found["accuracy_interval"][1] == 1.0
