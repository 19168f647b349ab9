"""Pairs of one ranking: score margins, and the share that is ordered as the labeller ordered it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from textgym.intervals import wins
from textgym.types import FloatArray


def pair_margins(scores: ArrayLike, ranks: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Compute the score margin, better minus worse, of every untied pair of one ranking.

    Args:
        scores: ``[K]``.
        ranks: ``[K]`` numbers, smaller is better.

    Returns:
        ``[n]`` margins, and ``[n]`` differences of rank.
    """
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    first, second = np.triu_indices(len(s), k=1)
    distance = r[second] - r[first]  # positive where the first is better
    untied = distance != 0
    margins = (s[first] - s[second]) * np.sign(distance)
    return margins[untied], np.abs(distance[untied])


def pair_accuracy(margins: ArrayLike) -> float | None:
    """Return the share of pairs that are ordered correctly; equal scores count ½; None without pairs."""
    won = wins(margins)
    return float(won.mean()) if won.size else None


def accuracy_by_distance(margins: FloatArray, distances: FloatArray) -> dict[int, float]:
    """Compute the :func:`pair_accuracy` of the pairs 1, 2, … ranks apart."""
    return {int(d): float((np.sign(margins[distances == d]) + 1).mean() / 2) for d in np.unique(distances)}
