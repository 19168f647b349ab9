"""Which questions are asked: values by hand, a constructed ensemble, and ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textgym.rewards import choose, disagreement, information
from textgym.rewards.labels.acquisition import check_acquisition


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def logit(p):
    return math.log(p / (1 - p))


def test_values_of_two_members_by_hand():
    """One pair, for which the members give 0.9 and 0.3."""
    scores = [[[logit(0.9), logit(0.3)], [0.0, 0.0]]]  # [1, K = 2, M = 2]
    assert disagreement(scores) == pytest.approx([0.3**2])  # each is 0.3 from the mean 0.6
    expected = entropy(0.6) - (entropy(0.9) + entropy(0.3)) / 2
    assert information(scores) == pytest.approx([expected])
    assert information(scores)[0] == pytest.approx(0.205038, abs=1e-6)


def test_values_are_means_over_pairs():
    pairs = [[[0.0, 2.0], [1.0, -1.0]], [[0.0, 2.0], [3.0, 0.5]], [[1.0, -1.0], [3.0, 0.5]]]
    whole = [[0.0, 2.0], [1.0, -1.0], [3.0, 0.5]]
    for value in (disagreement, information):
        assert value(whole) == pytest.approx(np.mean([value(pair) for pair in pairs]))


def test_sure_members_of_opposite_opinions_are_a_whole_coin():
    scores = [[1000.0, -1000.0], [0.0, 0.0]]
    assert disagreement(scores) == pytest.approx(0.25)
    assert information(scores) == pytest.approx(math.log(2))


def test_members_that_are_unsure_alike_disagree_about_nothing():
    """Both values are 0 where the label is a coin to every member: noise of the labeller, not of the ensemble."""
    scores = np.zeros((5, 4, 3))
    assert (disagreement(scores) == 0).all()
    assert (information(scores) == 0).all()


@pytest.mark.parametrize("acquisition", ["disagreement", "information"])
def test_exactly_the_questions_on_which_members_differ_are_chosen(acquisition):
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.normal(size=(50, 4, 1)), 3, axis=2)  # all members agree
    scores += rng.normal(size=(50, 1, 3))  # offsets of members do not matter
    differ = rng.choice(50, size=7, replace=False)
    scores[differ, 0, 0] += 0.5
    chosen = choose(scores, 7, acquisition, np.random.default_rng(1))
    assert sorted(chosen) == sorted(differ)


@pytest.mark.parametrize("acquisition", ["disagreement", "information"])
def test_where_all_members_agree_the_choice_is_random_and_not_the_first(acquisition):
    scores = np.repeat(np.random.default_rng(0).normal(size=(40, 3, 1)), 5, axis=2)
    assert (disagreement(scores) == 0).all()
    assert (information(scores) == 0).all()
    counts = np.zeros(40)
    for seed in range(400):
        counts[choose(scores, 10, acquisition, np.random.default_rng(seed))] += 1
    # Each question is chosen in a quarter of the draws: 100 ± 4 standard deviations.
    assert (abs(counts - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)).all()
    same = [choose(scores, 10, how, np.random.default_rng(3)).tolist() for how in (acquisition, "random")]
    assert same[0] == same[1]


def test_the_most_valuable_comes_first_and_counts_beyond_the_questions_take_all():
    scores = [[[0.0, gap], [0.0, 0.0]] for gap in (0.5, 3.0, 1.0)]
    assert choose(scores, 2, "disagreement", np.random.default_rng(0)).tolist() == [1, 2]
    assert choose(scores, 9, "information", np.random.default_rng(0)).tolist() == [1, 2, 0]
    ragged = [*scores, [[0.0, 9.0], [0.0, 0.0], [0.0, 9.0]]]
    assert choose(ragged, 1, "disagreement", np.random.default_rng(0)).tolist() == [1]
    # of the last one two pairs of three differ by 9: ⅔·¼ of the variance, below that of one pair that differs by 3


def test_mistakes_are_named():
    one = np.zeros((3, 2, 1))
    for acquisition in ("disagreement", "information"):
        with pytest.raises(ValueError, match=rf"{acquisition}.* compares the members .* there is 1; train at least 2"):
            choose(one, 1, acquisition, np.random.default_rng(0))
        with pytest.raises(ValueError, match="there is 1"):
            check_acquisition(acquisition, 1)
    check_acquisition("random", 1)
    assert len(choose(one, 1, "random", np.random.default_rng(0))) == 1
    with pytest.raises(ValueError, match="expected finite numbers, got nan"):
        information([[0.0, math.nan], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"at least 2 completions, got shape \(1, 3\)"):
        disagreement(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="acquisition='variance'; expected random, disagreement or information"):
        choose(one, 1, "variance", np.random.default_rng(0))


def test_a_choice_at_random_needs_no_members():
    """Only the number of questions matters, so whoever chooses at random need not score them."""
    assert sorted(choose(np.empty((5, 0, 0)), 9, "random", np.random.default_rng(0)).tolist()) == [0, 1, 2, 3, 4]
