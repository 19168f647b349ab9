"""How well scores agree with what labellers said: accuracy, calibration, a length baseline, and gold."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textgym.intervals import clustered, mean_interval, share_interval, wins
from textgym.types import FloatArray

BINS = 10


@dataclass(frozen=True)
class Compared:
    """Completions whose scores can be compared: those of one prompt, or texts that were labelled on one scale.

    Attributes:
        scores: ``[K]`` of the model.
        ranks: ``[K]``, smaller is better; equal ranks are ties.
        lengths: ``[K]`` of the texts.
        gold: ``[K]`` of the true reward, where it is known.
        prompt: tells the prompts apart; those of None are all of their own.
    """

    scores: Sequence[float]
    ranks: Sequence[int]
    lengths: Sequence[int]
    gold: Sequence[float] | None = None
    prompt: Hashable = None


@dataclass(frozen=True)
class Bin:
    """Predictions of like probability.

    Attributes:
        count: how many there are.
        predicted: their mean.
        actual: the share that came true.
    """

    count: int
    predicted: float
    actual: float


def pair_margins(scores: ArrayLike, ranks: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """By how much the score of the better exceeds that of the worse, for every untied pair of one ranking.

    Args:
        scores: ``[K]``.
        ranks: ``[K]`` numbers, smaller is better.

    Returns:
        ``[n]`` margins, and ``[n]`` how many ranks lie between the two.
    """
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    first, second = np.triu_indices(len(s), k=1)
    distance = r[second] - r[first]  # positive where the first is better
    untied = distance != 0
    margins = (s[first] - s[second]) * np.sign(distance)
    return margins[untied], np.abs(distance[untied])


def pair_accuracy(margins: ArrayLike) -> float | None:
    """Return the share of pairs that are ordered rightly; equal scores count ½; None without pairs."""
    won = wins(margins)
    return float(won.mean()) if won.size else None


def accuracy_by_distance(margins: FloatArray, distances: FloatArray) -> dict[int, float]:
    """:func:`pair_accuracy` of the pairs 1, 2, … ranks apart."""
    return {int(d): float((np.sign(margins[distances == d]) + 1).mean() / 2) for d in np.unique(distances)}


def reliability(predicted: ArrayLike, actual: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Predicted against actual rates in ``bins`` equal parts of [0, 1]; empty parts are left out.

    Args:
        predicted: ``[n]`` probabilities.
        actual: ``[n]`` 1 where it came true, 0 where not.
        bins: how many parts; a boundary belongs to the part above it, and 1 to the last.
    """
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    part = np.minimum((p * bins).astype(int), bins - 1)
    parts = [part == b for b in np.unique(part)]
    return [Bin(int(own.sum()), float(p[own].mean()), float(y[own].mean())) for own in parts]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """``Σ count/n · |predicted − actual|``.

    Source: Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    return sum(b.count * abs(b.predicted - b.actual) for b in bins) / sum(b.count for b in bins)


def win_reliability(margins: FloatArray, bins: int = BINS) -> list[Bin]:
    """:func:`reliability` of the win rates σ(margin) that the Bradley–Terry model predicts.

    Each pair is seen from both sides. Seen from the winner's alone every prediction would come true.
    """
    wins = sigmoid(margins)
    return reliability(np.concatenate([wins, 1 - wins]), np.repeat([1.0, 0.0], len(wins)), bins)


def sigmoid(x: ArrayLike) -> FloatArray:
    """``1 / (1 + exp(−x))``, without overflow."""
    s: FloatArray = (1 + np.tanh(np.asarray(x, dtype=np.float64) / 2)) / 2
    return s


def evaluate_scores(groups: Sequence[Compared]) -> dict[str, Any]:
    """What is known about scores of held-out comparisons, ready for JSON.

    Returns:
        ``prompts`` that have pairs, ``pairs``, ``accuracy``, ``accuracy_by_rank_distance``, ``calibration`` (of win
        rates), ``length_baseline`` (the accuracy of "the longer wins") and, with gold, ``gold``: the share of pairs
        that the model orders as gold does, and the ``ceiling``: the accuracy that gold itself reaches on these labels.
        With two prompts or more ``accuracy_interval`` and ``length_baseline_interval``, and ``accuracy_over_length``:
        the difference of the two with its ``interval``. All are at 95 % over prompts, as pairs of one prompt are alike.
    """
    found = [pair_margins(group.scores, group.ranks) for group in groups]
    margins, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    prompts = _prompts_of_pairs(groups, [len(own) for own, _ in found])
    report: dict[str, Any] = {
        "prompts": len(set(prompts)),
        "pairs": len(margins),
        "accuracy": pair_accuracy(margins),
        "accuracy_by_rank_distance": {str(d): a for d, a in accuracy_by_distance(margins, distances).items()},
        "length_baseline": _accuracy_of([(group.lengths, group.ranks) for group in groups]),
    }
    if len(set(prompts)) > 1:
        report |= _intervals(groups, margins, prompts)
    if len(margins):
        report["calibration"] = described(win_reliability(margins))
    known = [(group, group.gold) for group in groups if group.gold is not None]
    if known:
        report["gold"] = {
            "agreement": _accuracy_of([(group.scores, [-g for g in gold]) for group, gold in known]),
            "ceiling": _accuracy_of([(gold, group.ranks) for group, gold in known]),
        }
    return report


def _prompts_of_pairs(groups: Sequence[Compared], counts: Sequence[int]) -> list[Hashable]:
    """Return the prompt that each pair belongs to."""
    keys = [(i,) if group.prompt is None else group.prompt for i, group in enumerate(groups)]
    return [key for key, count in zip(keys, counts, strict=True) for _ in range(count)]


def _intervals(groups: Sequence[Compared], margins: FloatArray, prompts: Sequence[Hashable]) -> dict[str, Any]:
    """Return intervals of the accuracy, of that of the longer text, and of the difference of the two."""
    longer = wins(np.concatenate([pair_margins(group.lengths, group.ranks)[0] for group in groups]))
    ahead = wins(margins) - longer
    ends = mean_interval(ahead, prompts)
    return {
        "accuracy_interval": share_interval(wins(margins), prompts),
        "length_baseline_interval": share_interval(longer, prompts),
        "accuracy_over_length": {
            "mean": clustered(ahead, prompts).mean,
            "interval": None if ends is None else (max(ends[0], -1.0), min(ends[1], 1.0)),
        },
    }


def described(bins: Sequence[Bin]) -> dict[str, Any]:
    """Calibration, ready for JSON."""
    return {"expected_error": expected_calibration_error(bins), "bins": [asdict(b) for b in bins]}


def _accuracy_of(judged: Sequence[tuple[ArrayLike, ArrayLike]]) -> float | None:
    return pair_accuracy(np.concatenate([pair_margins(scores, ranks)[0] for scores, ranks in judged]))
