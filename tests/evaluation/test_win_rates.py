"""Win rates and spreads by hand."""

from __future__ import annotations

import numpy as np
import pytest

from textgym.evaluation.paired import spread_over_wordings, win_rate, win_rate_by_score
from textgym.intervals import clopper_pearson


def test_ties_count_half() -> None:
    found = win_rate([1, 1, 0.5, 0], range(4))
    assert (found.rate.value, found.won, found.tied) == (0.625, 0.5, 0.25)
    assert found.row["lost"] == 0.25


def test_independent_pairs_have_the_exact_interval() -> None:
    found = win_rate([1] * 30 + [0] * 10, range(40))
    low, high = clopper_pearson(0.75, 40)
    assert (found.rate.low, found.rate.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_pairs_of_one_prompt_are_not_independent() -> None:
    outcomes = [1.0] * 30 + [0.0] * 10
    once, often = win_rate(outcomes, range(40)), win_rate(np.repeat(outcomes, 9), np.repeat(range(40), 9).tolist())
    assert often.rate.low == pytest.approx(once.rate.low, abs=0.01)
    assert often.rate.n == 40


def test_all_ties_are_a_half() -> None:
    assert win_rate([0.5] * 6, range(6)).rate.value == 0.5


def test_scores_are_compared_in_all_pairs() -> None:
    """A scores 1 and 3 where B scores 2 and 3: of four pairs A wins one, loses two and ties one."""
    found = win_rate_by_score([[1, 3], [5, 5]], [[2, 3], [4, 6]], ["x", "y"])
    assert (found.won, found.tied) == (3 / 8, 1 / 8)
    assert found.rate.value == pytest.approx(7 / 16)
    assert found.rate.n == 2


def test_another_order_of_policies_turns_the_rate_around() -> None:
    a, b = np.random.default_rng(0).integers(0, 4, (2, 20, 3))
    assert win_rate_by_score(a, b, range(20)).rate.value == pytest.approx(
        1 - (win_rate_by_score(b, a, range(20)).rate.value or 0)
    )


def test_other_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.7.*expected 1 where A is better"):
        win_rate([1, 0.7], range(2))
    with pytest.raises(ValueError, match="empty"):
        win_rate([], [])


def test_the_spread_over_wordings_by_hand() -> None:
    """Question x: wordings of mean 1 and 3; y: of 2, 2 and 5; z has one wording, and is left out."""
    scores = [0, 2, 3, 3, 2, 2, 5, 9]
    questions = ["x", "x", "x", "x", "y", "y", "y", "z"]
    found = spread_over_wordings(scores, questions, [0, 0, 1, 1, 0, 1, 2, 0])
    assert found.range.value == pytest.approx((2 + 3) / 2)
    assert found.deviation.value == pytest.approx((np.sqrt(2) + np.sqrt(3)) / 2)
    assert found.range.n == 2
