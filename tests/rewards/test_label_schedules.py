"""When labels are due: numbers by hand, and integrals of the rates."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from scipy.integrate import quad

from textgym.rewards import labels_due
from textgym.rewards.labels.schedules import SCHEDULES

RATES = {
    "constant": lambda _: 1.0,
    "hyperbolic": lambda t: 1 / (1 + t),
    "inverse-quadratic": lambda t: 1 / (1 + t**2),
}


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("constant", [100, 325, 550, 775, 1000]),
        # 900·log(1 + t)/log 2: 289.74, 526.47, 726.62
        ("hyperbolic", [100, 390, 626, 827, 1000]),
        # 900·arctan(t)/(π/4): 280.72, 531.30, 737.40
        ("inverse-quadratic", [100, 381, 631, 837, 1000]),
    ],
)
def test_labels_at_quarters_of_training(schedule, due):
    assert [labels_due(1000, quarter / 4, schedule) for quarter in range(5)] == due


@pytest.mark.parametrize("schedule", RATES)
def test_shares_are_integrals_of_the_rates(schedule):
    whole = quad(RATES[schedule], 0, 1)[0]
    for t in (0.1, 0.37, 0.9):
        assert SCHEDULES[schedule](t) == pytest.approx(quad(RATES[schedule], 0, t)[0] / whole)


@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize("total", [1, 2, 7, 10, 99, 5000])
def test_increments_sum_to_the_total(schedule, total):
    """Whatever the iterations: 3 of them, or 177."""
    for iterations in (3, 177):
        due = [labels_due(total, i / iterations, schedule) for i in range(iterations + 1)]
        increments = [due[0], *(b - a for a, b in pairwise(due))]
        assert sum(increments) == total
        assert min(increments) >= 0
        assert due[0] == math.ceil(total / 10)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="total=0; expected a whole number"):
        labels_due(0, 0.5)
    with pytest.raises(ValueError, match=r"share=1\.5"):
        labels_due(10, 1.5)
    with pytest.raises(ValueError, match="schedule='linear'; expected constant, hyperbolic, inverse-quadratic"):
        labels_due(10, 0.5, "linear")
