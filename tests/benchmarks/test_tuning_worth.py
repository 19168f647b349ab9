"""The worth of tuning against brute force over all searches, and against numbers worked out by hand."""

from itertools import combinations, product

import numpy as np
import pytest

from textgym.benchmarks.analysis.tuning import expected_best, sensitivity

SCORES = [0.3, -1.0, 0.9, 0.3, 0.55, 0.9, 0.1]


def test_expected_best_is_the_mean_over_all_searches() -> None:
    by_force = [np.mean([max(drawn) for drawn in combinations(SCORES, k)]) for k in range(1, 8)]
    np.testing.assert_allclose(expected_best(SCORES), by_force, rtol=1e-12)


def test_expected_best_by_hand() -> None:
    # Of 1, 2, 4: singles average 7/3; pairs have the best 2, 4, 4; all three have 4.
    np.testing.assert_allclose(expected_best([4, 1, 2]), [7 / 3, 10 / 3, 4])


def test_draws_with_replacement_miss_the_best() -> None:
    """The formula of Dodge et al., as the docstring has it, is brute force with replacement, and lower."""
    ranked, n = np.sort(SCORES), len(SCORES)
    ranks = np.arange(1, n + 1)
    dodge = np.array([((ranks / n) ** k - ((ranks - 1) / n) ** k) @ ranked for k in range(1, n + 1)])
    by_force = [np.mean([max(drawn) for drawn in product(SCORES, repeat=k)]) for k in range(1, 5)]
    np.testing.assert_allclose(dodge[:4], by_force, rtol=1e-12)
    assert expected_best(SCORES)[0] == pytest.approx(dodge[0])
    assert (expected_best(SCORES)[1:] > dodge[1:]).all()


def test_expected_best_is_unbiased() -> None:
    # The best of k uniform numbers is k/(k + 1) on average.
    draws = np.random.default_rng(0).random((4000, 6))
    found = np.mean([expected_best(scores) for scores in draws], 0)
    np.testing.assert_allclose(found, [k / (k + 1) for k in range(1, 7)], atol=0.015)


def test_sensitivity_by_hand() -> None:
    # Best on each task: 1 and 0.8; best for both: the third, with 0.75.
    assert sensitivity([[1.0, 0.0], [0.0, 0.8], [0.75, 0.75]]) == pytest.approx(0.9 - 0.75)
    assert sensitivity([[1.0, 0.8], [0.0, 0.8]]) == 0.0  # one setting is best on every task
    assert sensitivity([[0.3, 0.9]]) == 0.0  # a single trial leaves no choice


def test_bad_trials_are_named() -> None:
    with pytest.raises(ValueError, match=r"scores has shape \(0,\); expected \[n_trials\], at least one"):
        expected_best([])
    with pytest.raises(ValueError, match=r"scores holds 1 numbers that are not finite; give a failed trial the worst"):
        expected_best([0.1, -np.inf])
    with pytest.raises(ValueError, match=r"scores has shape \(2,\); expected \[n_trials, n_tasks\]"):
        sensitivity([0.1, 0.2])
