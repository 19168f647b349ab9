"""Accuracy, calibration and gold, against what a hand computes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from textgym.rewards.labels.pairs import accuracy_by_distance, pair_accuracy, pair_margins
from textgym.rewards.models.evaluation import (
    Bin,
    ScoredGroup,
    evaluate_scores,
    expected_calibration_error,
    reliability,
    sigmoid,
    win_reliability,
)


def test_margins_are_of_the_better_over_the_worse_and_leave_ties_out():
    margins, distances = pair_margins([3.0, 1.0, 2.0, 5.0], [0, 1, 1, 3])
    # pairs 01, 02, 03, 13, 23; 12 is a tie
    assert margins.tolist() == [2.0, 1.0, -2.0, -4.0, -3.0]
    assert distances.tolist() == [1, 1, 3, 2, 2]
    assert pair_accuracy(margins) == 2 / 5
    assert accuracy_by_distance(margins, distances) == {1: 1.0, 2: 0.0, 3: 0.0}


def test_the_order_of_the_completions_does_not_matter():
    margins, _ = pair_margins([1.0, 3.0], [1, 0])
    assert margins.tolist() == [2.0]


def test_equal_scores_count_half_and_no_pair_is_no_accuracy():
    assert pair_accuracy([0.0, 1.0, -1.0, 0.0]) == 0.5
    assert pair_accuracy([]) is None
    assert pair_margins([1.0, 2.0], [4, 4])[0].size == 0


def test_reliability_by_hand():
    predicted, actual = [0.05, 0.08, 0.55, 0.95, 1.0], [0, 1, 1, 1, 0]
    bins = reliability(predicted, actual)
    assert [(b.count, b.actual) for b in bins] == [(2, 0.5), (1, 1.0), (2, 0.5)]
    assert [b.predicted for b in bins] == pytest.approx([0.065, 0.55, 0.975])
    expected = (2 * (0.5 - 0.065) + 1 * 0.45 + 2 * 0.475) / 5
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_a_perfect_forecast_has_no_error():
    assert expected_calibration_error([Bin(4, 0.25, 0.25), Bin(4, 0.75, 0.75)]) == 0


def test_win_rates_are_seen_from_both_sides():
    """A model that gives every winner σ(m) = 0.75, where 3 of 4 favourites win, is calibrated."""
    m = math.log(3)
    bins = win_reliability(np.array([m, m, m, -m]))
    assert [(b.count, b.actual) for b in bins] == [(4, 0.25), (4, 0.75)]
    assert [b.predicted for b in bins] == pytest.approx([0.25, 0.75])
    assert expected_calibration_error(bins) == pytest.approx(0)
    sure = win_reliability(np.array([9.0, 9.0, 9.0, -9.0]))  # as often right, and far too sure
    assert expected_calibration_error(sure) == pytest.approx(0.25, abs=1e-3)


def test_sigmoid_does_not_overflow():
    assert sigmoid([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]
    assert sigmoid([math.log(3)]).tolist() == pytest.approx([0.75])


def test_labels_drawn_from_the_scores_are_found_calibrated():
    rng = np.random.default_rng(0)
    margins = rng.normal(scale=1.5, size=20_000)
    won = rng.random(len(margins)) < sigmoid(margins)
    assert expected_calibration_error(win_reliability(np.where(won, margins, -margins))) < 0.01


def test_evaluation_by_hand():
    groups = [
        ScoredGroup(scores=[2.0, 1.0, 0.0], ranks=[0, 1, 2], lengths=[9, 5, 5], gold=[1.0, 0.5, 0.5]),
        ScoredGroup(scores=[0.0, 1.0], ranks=[0, 1], lengths=[3, 8], gold=[0.2, 0.9]),
    ]
    report = evaluate_scores(groups)
    assert report["pairs"] == 4
    assert report["accuracy"] == 3 / 4
    assert report["accuracy_by_rank_distance"] == {"1": 2 / 3, "2": 1.0}
    assert report["length_baseline"] == (1 + 1 + 0.5 + 0) / 4
    # Gold orders 01 and 02 of the first as the model does, ties in 12, and orders the second as the model does.
    assert report["gold"] == {"agreement": 1.0, "ceiling": (1 + 1 + 0.5 + 0) / 4}
    assert json.dumps(report, allow_nan=False)


def test_without_gold_or_pairs_nothing_is_made_up():
    report = evaluate_scores([ScoredGroup([1.0, 2.0], [0, 0], [1, 2])])
    nothing = {"accuracy": None, "accuracy_by_rank_distance": {}, "length_baseline": None}
    assert report == {"prompts": 0, "pairs": 0, **nothing}
