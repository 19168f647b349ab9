"""Curves of several seeds: means by hand."""

import numpy as np
import pytest

from textgym.benchmarks.seed_curves import in_blocks, mean_line, root_kl, surely_above


def test_blocks_of_curves_of_different_lengths() -> None:
    np.testing.assert_allclose(in_blocks([[1, 2], [1, 2, 3, 5]]), [[1, 2], [1.5, 4]])
    long = in_blocks([list(range(40))])
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
