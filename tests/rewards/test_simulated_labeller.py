"""Errors and indifference of a simulated labeller, against enumeration and large samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from textgym.rewards import agreement_ceiling, plackett_luce_ranks, simulated_ranks
from textgym.rewards.compose import compose
from textgym.rewards.labels.labelling import Question, label_by_reward
from textgym.types import Prompt

N = 60_000
SCORES = np.array([1.0, 0.0, -0.5, 2.0])


def sampled(scores, seed=0, **noise):
    return simulated_ranks(np.tile(np.asarray(scores, float), (N, 1)), rng=np.random.default_rng(seed), **noise)


def within(share, p, n=N):
    return abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_without_errors_and_threshold_it_is_plackett_luce_bit_for_bit():
    for temperature in (0.0, 0.7):
        ours, theirs = (np.random.default_rng(4) for _ in range(2))
        scores = np.random.default_rng(5).normal(size=(30, 4))
        assert (simulated_ranks(scores, temperature, ours) == plackett_luce_ranks(scores, temperature, theirs)).all()
        assert ours.random() == theirs.random()


def test_a_tenth_of_errors_makes_a_twentieth_of_pairs_wrong():
    """Christiano 2017: 10 % of answers are uniform, so half of them are right by chance."""
    ranks = sampled([0.0, 1.0], temperature=0.0, error_rate=0.1)
    assert within((ranks[:, 1] < ranks[:, 0]).mean(), 0.95)
    assert agreement_ceiling([0.0, 1.0], 0.0, 0.1) == pytest.approx(0.95)


def test_an_error_is_a_uniform_permutation_of_all():
    ranks = sampled(SCORES[:3], temperature=0.0, error_rate=0.6)
    truth = (1, 2, 0) if SCORES[0] < SCORES[1] else (0, 1, 2)
    for order in itertools.permutations(range(3)):
        p = 0.6 / 6 + 0.4 * (order == truth)
        assert within((ranks == order).all(axis=1).mean(), p)


def test_close_scores_tie_and_so_do_the_ends_of_a_chain():
    rng = np.random.default_rng(0)
    # 0, 0.4 and 0.8 are a chain; 1.5 stands apart by more than ½, 2.0 from it by exactly ½.
    assert simulated_ranks([0.8, 2.0, 0.0, 1.5, 0.4], 0.0, rng, threshold=0.5).tolist() == [2, 0, 2, 1, 2]
    assert simulated_ranks([[0.0, 1.0], [0.0, 0.4]], 0.0, rng, threshold=0.5).tolist() == [[1, 0], [0, 0]]


def test_a_group_is_one_item_of_plackett_luce():
    """Scores 0 and 0.2 tie; the group's mean is 0.1, and each order of the three items has its product of softmaxes."""
    ranks = sampled([0.0, 1.0, 0.2, 2.0], temperature=0.8, threshold=0.5)
    assert (ranks[:, 0] == ranks[:, 2]).all()
    means = np.array([0.1, 1.0, 2.0])
    for order in itertools.permutations(range(3)):
        weights = np.exp(means[list(order)] / 0.8)
        p = math.prod(weights[i] / weights[i:].sum() for i in range(3))
        places = {item: place for place, item in enumerate(order)}
        # The group of two has the place of its better rank; those behind it have one rank more.
        found = np.stack([ranks[:, 0], ranks[:, 1], ranks[:, 3]], axis=1)
        behind = [places[i] + (places[i] > places[0]) for i in range(3)]
        assert within((found == behind).all(axis=1).mean(), p)


@pytest.mark.parametrize(
    ("temperature", "error_rate", "threshold"),
    [(0.0, 0.2, 0.0), (0.7, 0.0, 0.0), (0.7, 0.1, 0.0), (0.7, 0.0, 0.6), (0.7, 0.3, 0.6), (0.0, 0.3, 0.6)],
)
def test_the_ceiling_is_the_accuracy_of_gold_on_untied_pairs(temperature, error_rate, threshold):
    scores = np.round(np.random.default_rng(2).normal(size=(N, 4)), 1)
    ranks = simulated_ranks(scores, temperature, np.random.default_rng(3), error_rate, threshold)
    i, j = np.triu_indices(4, k=1)
    untied = ranks[:, i] != ranks[:, j]
    agree = np.sign(scores[:, i] - scores[:, j]) * np.sign(ranks[:, j] - ranks[:, i])
    accuracy = ((agree[untied] + 1) / 2).mean()
    ceiling = agreement_ceiling(scores, temperature, error_rate, threshold)
    assert accuracy == pytest.approx(ceiling, abs=0.004)


def test_the_ceiling_of_three_by_hand():
    """Scores 0, 0.2 and 2 with threshold ½ and e = 0.1: two pairs are ordered, one ties but for errors."""
    p = 1 / (1 + math.exp(-1.9))
    expected = (2 * (0.9 * p + 0.05) + 0.05) / (2 + 0.1)
    assert agreement_ceiling([0.0, 0.2, 2.0], 1.0, 0.1, 0.5) == pytest.approx(expected)


def test_labels_of_a_reward_have_this_noise_and_its_ceiling(tokenizer):
    def length(completions, **_):
        return [float(len(text.split())) for text in completions]

    pair = Question(("sat", "sat on mat"), Prompt("the cat", "the cat", ()))
    close = Question(("sat", "sat on"), Prompt("the cat", "the cat", ()))
    rng = np.random.default_rng(0)
    found = label_by_reward(compose(length), [pair] * 4000 + [close] * 1000, tokenizer, 0.0, rng, 0.1, 1.5)
    # Close pairs tie, and are dropped, but in errors.
    assert found.ceiling == pytest.approx((4000 * 0.95 + 1000 * 0.05) / (4000 + 100))
    assert within(sum(found.dropped.values()) / 1000, 0.9, 1000)
    right = [ranking.ranks == (1, 0) for ranking in found.rankings if len(ranking.completions[1].split()) == 3]
    assert within(np.mean(right), 0.95, 4000)


def test_mistakes_of_noise():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"error_rate: expected a share from 0 to 1, got 1.5"):
        simulated_ranks([0.0, 1.0], 0.0, rng, error_rate=1.5)
    with pytest.raises(ValueError, match=r"threshold: expected a finite number of at least 0, got nan"):
        simulated_ranks([0.0, 1.0], 0.0, rng, threshold=math.nan)
    with pytest.raises(ValueError, match=r"threshold=5.0 ties all completions"):
        agreement_ceiling([0.0, 1.0], 1.0, threshold=5.0)
