"""Schedules: how many labels are due after which share of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from textgym.numbers import count as whole
from textgym.numbers import finite

LabelSchedule: TypeAlias = Literal["constant", "hyperbolic", "inverse-quadratic"]
"""Course of the rate at which labels are asked for."""


def _constant(t: float) -> float:
    """Return t, the share of labels due at the rate 1."""
    return t


def _hyperbolic(t: float) -> float:
    """Return log(1 + t)/log 2, the share of labels due at the rate 1/(1 + t)."""
    return math.log1p(t) / math.log(2)


def _inverse_quadratic(t: float) -> float:
    """Return arctan(t)/(π/4), the share of labels due at the rate 1/(1 + t²)."""
    return math.atan(t) / (math.pi / 4)


SCHEDULES: dict[LabelSchedule, Callable[[float], float]] = {
    "constant": _constant,
    "hyperbolic": _hyperbolic,
    "inverse-quadratic": _inverse_quadratic,
}
"""Share of the labels that is due after a share t of training: the integral of the rate from 0 to t over that to 1."""


def initial_labels(total: int) -> int:
    """Return the number of labels that are due before training: a tenth of all, rounded up."""
    return -(-total // 10)


def labels_due(total: int, share: float, schedule: LabelSchedule = "hyperbolic") -> int:
    """Compute the number of labels that are due once a share of training is over.

    The first tenth is due before training. Of the rest, a share F(t) is due after a share t of training, where F is the
    integral of the rate: 1 (constant), 1/(1 + t) (hyperbolic) or 1/(1 + t²) (inverse-quadratic), divided by the
    integral over all of training.

    Args:
        total: number of labels in all.
        share: t, from 0 to 1.
        schedule: course of the rate.

    Returns:
        A whole number, from a tenth of ``total`` (rounded up) at t = 0 to exactly ``total`` at t = 1. Increments
        between any shares thus sum to the total.

    Raises:
        ValueError: an argument is out of its range.

    Source: the rates are those of the query schedules of ``imitation`` (Gleave et al. 2022, arXiv:2211.11972). They
    follow Christiano et al. 2017, arXiv:1706.03741, appendix A, whose rate falls as c/(c + T) with the T frames so far.
    """
    total, share = whole("total", total), finite("share", share, low=0, high=1)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}; expected {', '.join(SCHEDULES)}")
    first = initial_labels(total)
    # Half is rounded up, and not to the even number as by ``round``.
    return first + math.floor((total - first) * SCHEDULES[schedule](share) + 0.5)
