"""Comparison of all pairs against enumeration, numbers worked out by hand, and truths that the data were drawn from."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from textgym.benchmarks.analysis.pairs import compare_pairs
from textgym.types import FloatArray


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_enumeration(units: FloatArray) -> dict[tuple[int, int], float]:
    """Corrected p-values of ``[n_algorithms, n_units]``, flip by flip and pair by pair, in plain Python."""
    algorithms, count = units.shape
    pairs = [(i, j) for i in range(algorithms) for j in range(i + 1, algorithms)]
    gaps = {(i, j): [float(x - y) for x, y in zip(units[i], units[j], strict=True)] for i, j in pairs}
    centred = {pair: [gap - sum(gaps[pair]) / count for gap in gaps[pair]] for pair in pairs}
    observed = {
        pair: abs(sum(gaps[pair]) / count) / math.sqrt(math.sqrt(sum(g * g for g in gaps[pair]) / count))
        for pair in pairs
    }
    spread = {pair: math.sqrt(sum(c * c for c in centred[pair]) / (count - 1)) for pair in pairs}
    adjusted, left, worst = {}, list(pairs), 0.0
    for pair in sorted(pairs, key=lambda one: -observed[one]):
        reached = 0
        for flip in product((1, -1), repeat=count):
            if len(set(flip)) == 1:
                reached += 1  # no difference is flipped, or all are
                continue
            values = [
                abs(sum(s * c for s, c in zip(flip, centred[one], strict=True)) / count)
                * (count / (count - 1))
                / math.sqrt(spread[one])
                for one in left
            ]
            reached += max(values) >= observed[pair]
        worst = max(worst, reached / 2**count)
        adjusted[pair] = worst
        left.remove(pair)
    return adjusted


def test_p_values_are_those_of_all_flips() -> None:
    units = rng(3).normal(size=(4, 6)) + np.array([0, 0.5, 1.5, 2.5])[:, None]
    found = compare_pairs(units[:, None], rng())
    by_force = by_enumeration(units)
    assert len(set(by_force.values())) > 2
    for (i, j), p in by_force.items():
        assert found.p[i, j] == found.p[j, i] == pytest.approx(p)


def test_differences_are_of_means_and_instances_are_averaged() -> None:
    scores = rng(4).normal(size=(3, 2, 8))
    found = compare_pairs(scores, rng())
    means = scores.mean((1, 2))
    np.testing.assert_allclose(found.difference, means[:, None] - means, atol=1e-15)
    np.testing.assert_allclose(found.low, -found.high.T)
    np.testing.assert_allclose(found.p, compare_pairs(scores.mean(1, keepdims=True), rng()).p)
    assert (found.sample, found.units) == ("tasks", 8)
    assert (np.diag(found.p) == 1).all()


def test_the_difficulty_of_an_instance_cancels() -> None:
    scores = rng(5).normal(size=(3, 2, 8))
    harder = scores + 100 * rng(6).normal(size=(2, 8))
    np.testing.assert_allclose(compare_pairs(harder, rng()).low, compare_pairs(scores, rng()).low)


def test_the_unit_of_the_score_does_not_matter() -> None:
    scores = rng(7).normal(size=(3, 1, 8))
    plain, scaled = compare_pairs(scores, rng()), compare_pairs(5 - 100 * scores, rng())
    np.testing.assert_allclose(scaled.difference, -100 * plain.difference)
    np.testing.assert_allclose(scaled.high - scaled.low, 100 * (plain.high - plain.low))
    np.testing.assert_allclose(scaled.p, plain.p)


def test_an_interval_excludes_zero_where_the_largest_difference_is_significant() -> None:
    """In the first step both are one test; later steps find no fewer."""
    for scores in rng(8).normal(size=(60, 3, 1, 8)) + np.array([0, 0.4, 0.8])[:, None, None]:
        found = compare_pairs(scores, rng())
        excluded = (found.low > 0) | (found.high < 0)
        assert (found.surely >= excluded).all()
        assert excluded.any() == found.surely.any()


def test_a_single_pair_has_nearly_students_interval() -> None:
    widths = []
    for scores in rng(9).normal(size=(200, 2, 1, 12)):
        found = compare_pairs(scores, rng())
        student = stats.t.ppf(0.975, 11) * stats.sem(scores[0, 0] - scores[1, 0])
        widths.append((found.high - found.low)[0, 1] / (2 * student))
    assert np.mean(widths) == pytest.approx(1, abs=0.05)


def test_a_single_task_has_its_instances_as_the_sample() -> None:
    scores = rng(10).normal(size=(3, 8, 1))
    found = compare_pairs(scores, rng())
    assert (found.sample, found.units) == ("instances", 8)
    np.testing.assert_allclose(found.p, compare_pairs(np.swapaxes(scores, 1, 2), rng()).p)


@pytest.mark.parametrize("shape", [(3, 5, 1), (3, 10, 5)], ids=["five instances", "five tasks"])
def test_five_are_too_few_for_a_verdict(shape: tuple[int, int, int]) -> None:
    """However large the difference: of the sixteen flips of five, the one that changes nothing is 6 %."""
    scores = rng(11).normal(size=shape) + 1000 * np.arange(3)[:, None, None]
    found = compare_pairs(scores, rng())
    assert (found.sample, found.units) == (None, 5)
    assert found.difference[2, 0] == pytest.approx(2000, abs=10)
    off_diagonal = ~np.eye(3, dtype=bool)
    for unknown in (found.low, found.high, found.p, found.detectable):
        assert np.isnan(unknown[off_diagonal]).all()
    assert not found.surely.any()
    six = compare_pairs(scores[:, [0, 0, 1, 2, 3, 4]] if shape[2] == 1 else scores[:, :, [0, 0, 1, 2, 3, 4]], rng())
    assert six.p[2, 0] == pytest.approx(1 / 32)


def test_equal_scores_are_equal_and_a_constant_lead_is_sure() -> None:
    scores = np.broadcast_to(rng(12).normal(size=8), (2, 1, 8))
    same = compare_pairs(scores, rng())
    assert (same.difference == 0).all()
    assert (same.p == 1).all()
    assert (same.low == 0).all()
    shifted = np.round(scores, 3) + np.array([[[0.25]], [[0.0]]])
    assert compare_pairs(np.round(shifted, 3), rng()).p[0, 1] == pytest.approx(1 / 128)


def test_many_tasks_are_flipped_at_random_and_repeatably() -> None:
    scores = rng(13).normal(size=(3, 1, 20)) + np.array([0, 0, 2])[:, None, None]
    found = compare_pairs(scores, rng(1))
    np.testing.assert_array_equal(found.p, compare_pairs(scores, rng(1)).p)
    assert found.p[0, 2] < 0.01 < found.p[0, 1]


def test_bad_scores_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"scores has shape \(1, 2, 8\); expected \[n_algorithms, n_instances, n_tasks"
    ):
        compare_pairs(np.zeros((1, 2, 8)), rng())
    with pytest.raises(ValueError, match=r"scores has shape \(2, 8\)"):
        compare_pairs(np.zeros((2, 8)), rng())
    with pytest.raises(ValueError, match="scores holds 1 numbers that are not finite"):
        compare_pairs(np.where(np.arange(16).reshape(2, 1, 8) == 3, np.nan, 0.0), rng())
