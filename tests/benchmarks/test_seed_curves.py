"""Curves of several seeds: means by hand."""

import numpy as np
import pytest

from textgym.benchmarks.analysis.seeds import (
    block_means,
    by_kl,
    clearly_or_not,
    mean_line,
    paired,
    root_kl,
    surely_above,
    surely_positive,
    with_bounds,
)
from textgym.intervals import Estimate


def test_blocks_of_curves_of_different_lengths() -> None:
    np.testing.assert_allclose(block_means([[1, 2], [1, 2, 3, 5]]), [[1, 2], [1.5, 4]])
    long = block_means([list(range(40))])
    np.testing.assert_allclose(long, [np.arange(0.5, 40, 2)])


def test_the_mean_line_has_an_interval_from_three_seeds_on() -> None:
    x = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    y = np.array([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]])
    line = mean_line(x, y)
    np.testing.assert_allclose((line.x, line.y), ([0, 2], [2, 4]))
    half = 4.302653 / np.sqrt(3)  # Student's quantile at two degrees of freedom, standard deviation 1
    np.testing.assert_allclose(line.low, [2 - half, 4], rtol=1e-6)
    np.testing.assert_allclose(line.high, [2 + half, 4], rtol=1e-6)
    assert mean_line(x[:2], y[:2]).low is None


def test_a_sampled_kl_below_zero_counts_as_zero() -> None:
    np.testing.assert_allclose(root_kl(np.array([-0.1, 0.0, 4.0])), [0, 0, 2])


@pytest.mark.parametrize(
    ("values", "sure"),
    [([1.0, 1.1, 1.2], True), ([1.0, 1.1], False), ([-1.0, 1.0, 3.0], False), ([0.0, 0.0, 0.0], False)],
)
def test_surely_above_needs_seeds_and_an_interval(values: list[float], sure: bool) -> None:
    assert surely_above(values) is sure


def test_several_tests_are_corrected_by_holm() -> None:
    """Student's t at two degrees of freedom has p = (1 − t / √(t² + 2)) / 2."""

    def sample(t: float) -> list[float]:
        return [t / np.sqrt(3) + step for step in (-1.0, 0.0, 1.0)]

    # One-sided p: 0.005, 0.012 and 0.02, each below 0.025; Holm asks for 0.025 / 3, / 2 and / 1 in turn.
    t_of = {p: (1 - 2 * p) * np.sqrt(2 / (1 - (1 - 2 * p) ** 2)) for p in (0.005, 0.009, 0.012, 0.013, 0.02)}
    arms = {name: sample(t_of[p]) for name, p in (("weak", 0.02), ("strong", 0.005), ("middle", 0.012))}
    assert all(surely_above(values) for values in arms.values())
    assert surely_positive(arms) == ["strong", "middle", "weak"]
    assert surely_positive(arms | {"middle": sample(t_of[0.013])}) == ["strong"]
    assert surely_positive(arms | {"strong": sample(t_of[0.009])}) == []


def test_what_holm_counts() -> None:
    """Seeds too few for a test still count as one, a mean below 0 never is positive, one without spread is certain."""
    assert surely_positive(
        {"few": [1.0, 1.1], "worse": [-1.0, -1.1, -1.2], "same": [0.0] * 3, "steady": [0.5] * 3}
    ) == ["steady"]
    assert surely_positive({}) == []


def test_a_noisy_climb_of_kl_is_made_one_that_does_not_fall() -> None:
    """Neighbours in the wrong order are pooled, as are those of the pool thus made; gold is pooled with them."""
    kl, gold = by_kl([0, 2, 5, 3, 1, 8], [0.5, 0.6, 0.9, 0.6, 0.3, 0.2])
    np.testing.assert_allclose(kl, [0, 2, 3, 8])
    np.testing.assert_allclose(gold, [0.5, 0.6, 0.6, 0.2])


def test_which_is_better_is_judged_by_the_seeds_that_both_have() -> None:
    low = {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.0}
    high = {2: 0.95, 1: 0.56, 0: 0.14, 9: 7.0}
    assert paired(high, low) == pytest.approx([0.04, 0.06, 0.05])
    assert clearly_or_not(high, low) == "clearly"
    assert (
        clearly_or_not(low, high) == clearly_or_not({0: 2.0, 1: 2.0}, low) == clearly_or_not({}, low) == "not clearly"
    )


def test_an_interval_in_words() -> None:
    assert with_bounds(Estimate(0.0754, -0.07, 0.2204), sign=True) == "+0.075 (−0.070 … +0.220)"
    assert with_bounds(Estimate(0.5, 0.25, 0.75), 2) == "0.50 (0.25 … 0.75)"
    assert with_bounds(0.5, 1) == "0.5"
