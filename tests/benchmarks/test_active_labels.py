"""Labels needed by active and by random choice: numbers by hand, and an ensemble whose members agree."""

from __future__ import annotations

import math

import pytest

from scripts.active_labels import Settings, labels_needed, learning_curve, table

TINY = Settings(rounds=(8, 12, 16), pool=32, members=2, heldout=8, seen=32)


def test_labels_needed_lie_between_rounds_by_their_logarithm() -> None:
    rounds, curve = (10, 40, 160), (0.5, 0.7, 0.8)
    assert labels_needed(rounds, curve, 0.4) == 10
    assert labels_needed(rounds, curve, 0.6) == pytest.approx(20)  # half way between 10 and 40
    assert labels_needed(rounds, curve, 0.8) == pytest.approx(160)
    assert labels_needed(rounds, curve, 0.9) == math.inf
    assert labels_needed(rounds, (0.5, 0.7, 0.6), 0.7) == pytest.approx(40)


def test_differences_are_paired_by_seed() -> None:
    """Active needs half of random's labels in each seed, whatever random needs."""
    rounds = (16, 32, 64, 128)
    curves = {
        "random": {0: [0.60, 0.65, 0.70, 0.75], 1: [0.55, 0.60, 0.65, 0.70], 2: [0.58, 0.63, 0.68, 0.73]},
        "disagreement": {0: [0.65, 0.70, 0.75, 0.80], 1: [0.60, 0.65, 0.70, 0.75], 2: [0.63, 0.68, 0.73, 0.78]},
    }
    told = table(curves, rounds)
    # Random needs 32, 64 and 32·2^0.4 labels for 65 %: the geometric mean is 32·2^(1.4/3).
    assert "| 65% | 44 | 22 (× 0.50 [0.50, 0.50]) |" in told
    assert "| 75% | reached by 1 of 3 seeds | 88 |" in told
    assert "| accuracy at 32 | 0.627 | 0.677 (+0.050 [+0.050, +0.050]) |" in told


def test_where_all_members_agree_active_is_random() -> None:
    agreeing = Settings(**{**vars(TINY), "agree": True})
    curves = [learning_curve(arm, agreeing, 0) for arm in ("random", "disagreement", "information")]
    assert curves[0] == curves[1] == curves[2]
    assert learning_curve("disagreement", TINY, 0)[0] == learning_curve("random", TINY, 0)[0]
