"""pass@k and maj@k against closed forms, and against every subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from textgym.evaluation.battery import Votes
from textgym.evaluation.votes import majority_at_k, majority_of_draws, pass_at_k
from textgym.numbers import SettingError


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    for n, c, k in [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 2, 4), (7, 3, 2), (200, 13, 100)]:
        assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)
    assert pass_at_k(10_000, 0, 5000) == 0
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)


def test_pass_at_k_is_unbiased() -> None:
    """Over all outcomes of five draws its mean is 1 − (1 − p)^k; that of 1 − (1 − c/n)^k is not."""
    p, n, k = 0.3, 5, 3
    chance = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(chance[c] * pass_at_k(n, c, k) for c in range(n + 1)) == pytest.approx(1 - (1 - p) ** k)
    plugged_in = sum(chance[c] * (1 - (1 - c / n) ** k) for c in range(n + 1))
    assert plugged_in < 1 - (1 - p) ** k - 0.02


@pytest.mark.parametrize(("k", "expected"), [(1, 0.300), (3, 0.288), (9, 0.256), (33, 0.185)])
def test_a_majority_loses_where_a_wrong_answer_is_more_probable(k: int, expected: float) -> None:
    """The first answer of p = [.3, .4, .3] is right: voting makes it worse, and pass@k does not show that."""
    won = majority_of_draws([0.3, 0.4, 0.3], k)
    assert won[0] == pytest.approx(expected, abs=5e-4)
    assert won[0] == pytest.approx(won[2], rel=1e-12)
    assert won.sum() == pytest.approx(1, abs=1e-12)


def test_draws_agree_with_every_sequence_of_them() -> None:
    p = [0.5, 0.2, 0.2, 0.1]
    for k in (1, 2, 3, 4, 5):
        expected = np.zeros(4)
        for drawn in product(range(4), repeat=k):
            tied = most_frequent(drawn)
            expected[tied] += np.prod([p[i] for i in drawn]) / len(tied)
        np.testing.assert_allclose(majority_of_draws(p, k), expected, rtol=1e-10)


def most_frequent(drawn: Sequence[int]) -> list[int]:
    counts = Counter(drawn)
    return [answer for answer, number in counts.items() if number == max(counts.values())]


def by_subsets(answers: Sequence[Hashable], right: Sequence[float], k: int) -> float:
    scores = {one: np.mean([r for a, r in zip(answers, right, strict=True) if a == one]) for one in answers}
    found = []
    for rows in combinations(range(len(answers)), k):
        counts = Counter(answers[i] for i in rows)
        found.append(np.mean([scores[one] for one, number in counts.items() if number == max(counts.values())]))
    return float(np.mean(found))


def test_a_majority_of_samples_agrees_with_every_subset() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 9))
        answers, right = rng.integers(0, 4, n).tolist(), rng.integers(0, 2, n).tolist()
        k = int(rng.integers(1, n + 1))
        assert majority_at_k(answers, right, k) == pytest.approx(by_subsets(answers, right, k), abs=1e-12)


def test_a_majority_of_samples_estimates_that_of_draws_without_bias() -> None:
    p, n, k = [0.3, 0.4, 0.3], 5, 3
    mean = 0.0
    for drawn in product(range(3), repeat=n):
        right = [float(answer == 0) for answer in drawn]
        mean += np.prod([p[i] for i in drawn]) * majority_at_k(drawn, right, k)
    assert mean == pytest.approx(majority_of_draws(p, k)[0], abs=1e-12)


def test_many_samples_stay_in_range() -> None:
    answers = ["right"] * 400 + ["wrong"] * 300 + [f"other {i}" for i in range(300)]
    right = [1.0] * 400 + [0.0] * 600
    assert majority_at_k(answers, right, 1) == pytest.approx(0.4)
    assert majority_at_k(answers, right, 1000) == pytest.approx(1)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(SettingError, match="k=4; expected a whole number, from 1 to 3"):
        pass_at_k(3, 1, 4)
    with pytest.raises(SettingError, match="right=4"):
        pass_at_k(3, 4, 1)
    with pytest.raises(SettingError, match="k=2"):
        majority_at_k(["a"], [1.0], 2)


def test_the_answer_is_the_last_one_that_is_stated() -> None:
    votes = Votes(pattern=r"answer is (\w+)")
    assert votes.answer("The answer is two. No: the answer is three.") == "three"
    assert votes.answer("I do not know.") is None
    assert Votes(pattern=r"\d+").answer("3, then 14") == "14"
    assert Votes(pattern=r"is(?: (\w+))?$").answer("it is") is None
    assert Votes().answer(" whole text\n") == "whole text"
