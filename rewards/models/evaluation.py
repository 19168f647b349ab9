"""Evaluation of a reward model on held-out preferences: accuracy, calibration, a length baseline, and gold."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textgym.intervals import clustered, mean_interval, share_interval, wins
from textgym.prompts import content_key
from textgym.rewards.labels.pairs import accuracy_by_distance, pair_accuracy, pair_margins
from textgym.rewards.labels.preferences import Judgement, completions_of
from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.training import EncodedPreference, mean_preference_loss, sequences_of, split_like
from textgym.types import FloatArray, Ranking

BINS = 10
LABELS_COMPARED = 2000  # every pair of labelled texts is compared, so the cost is quadratic in this number


@dataclass(frozen=True)
class ScoredGroup:
    """Completions with comparable scores: those of one prompt, or texts that were labelled on one scale.

    Attributes:
        scores: ``[K]`` scores of the model.
        ranks: ``[K]``, smaller is better; equal ranks are ties.
        lengths: ``[K]`` lengths of the texts.
        gold: ``[K]`` true rewards, if known.
        prompt: identifies the prompt, so that groups of one prompt are clustered; each group with None counts as a
            prompt of its own.
    """

    scores: Sequence[float]
    ranks: Sequence[int]
    lengths: Sequence[int]
    gold: Sequence[float] | None = None
    prompt: Hashable = None


@dataclass(frozen=True)
class Bin:
    """Predictions of similar probability.

    Attributes:
        count: number of predictions.
        predicted: mean predicted probability.
        actual: share of predictions that came true.
    """

    count: int
    predicted: float
    actual: float


def reliability(predicted: ArrayLike, actual: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Compare predicted with actual rates in ``bins`` equal parts of [0, 1]; empty parts are left out.

    Args:
        predicted: ``[n]`` probabilities.
        actual: ``[n]`` 1 if the prediction came true, else 0.
        bins: number of parts; a boundary belongs to the part above it, and 1 to the last.
    """
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    # The minimum puts a probability of exactly 1 into the last part.
    part = np.minimum((p * bins).astype(int), bins - 1)
    parts = [part == b for b in np.unique(part)]
    return [Bin(int(own.sum()), float(p[own].mean()), float(y[own].mean())) for own in parts]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Compute ``Σ count/n · |predicted − actual|``.

    Source: Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    return sum(b.count * abs(b.predicted - b.actual) for b in bins) / sum(b.count for b in bins)


def win_reliability(margins: FloatArray, bins: int = BINS) -> list[Bin]:
    """Compute the :func:`reliability` of the win rates σ(margin) that the Bradley–Terry model predicts.

    Each pair is counted from both sides: counted from the winner's alone, every prediction would come true.
    """
    wins = sigmoid(margins)
    return reliability(np.concatenate([wins, 1 - wins]), np.repeat([1.0, 0.0], len(wins)), bins)


def sigmoid(x: ArrayLike) -> FloatArray:
    """Compute ``1 / (1 + exp(−x))``, without overflow."""
    s: FloatArray = (1 + np.tanh(np.asarray(x, dtype=np.float64) / 2)) / 2
    return s


def evaluate_reward_model(
    model: RewardModel | RewardEnsemble,
    heldout: Sequence[EncodedPreference],
    gold: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Compare a model's scores of held-out preferences with labels, length and gold.

    Args:
        model: the model to evaluate.
        heldout: preferences of one kind.
        gold: the true reward of each of their completions, if known.

    Returns:
        The results of :func:`evaluate_scores` with the ``loss`` and the ``offset``, ready for JSON. For labels of
        single texts a pair is a good and a bad text, the calibration is that of σ(score) before the offset,
        ``label_accuracy`` is the share of texts on the right side of ½ (with its interval over prompts), and
        ``label_baseline`` the accuracy of always giving the more frequent label.
    """
    scores = split_like(heldout, model.score_ids(sequences_of(heldout)))
    offset = _offset(model)
    # Training fitted scores before the offset; a shift cancels in pairs, but not in σ(score) of single texts.
    raw = [[score + offset for score in own] for own in scores]
    report = {
        "loss": mean_preference_loss(heldout, raw),
        "offset": offset,
        **evaluate_scores(_groups(heldout, scores, gold)),
    }
    labels = [e.preference.good for e in heldout if isinstance(e.preference, Judgement)]
    if labels:
        probabilities = sigmoid([score for own in raw for score in own])
        right = ((probabilities > 0.5) == np.array(labels)).astype(float)
        asked = [content_key(e.prompt) for e in heldout]
        report |= {
            "prompts": len(set(asked)),
            "label_accuracy": float(right.mean()),
            "label_accuracy_interval": share_interval(right, asked),
            "label_baseline": max(np.mean(labels).item(), 1 - np.mean(labels).item()),
        }
        report["calibration"] = calibration_summary(reliability(probabilities, labels))
    return report


def evaluate_scores(groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    """Evaluate the scores of held-out comparisons.

    Returns:
        Results ready for JSON: ``prompts`` that have pairs, ``pairs``, ``accuracy``, ``accuracy_by_rank_distance``,
        ``calibration`` (of win rates) and ``length_baseline`` (the accuracy of "the longer text wins").
        With gold scores also ``gold``: the ``agreement``, the share of pairs that the model orders as gold does, and
        the ``ceiling``, the accuracy that gold itself reaches on these labels.
        With two prompts or more also ``accuracy_interval``, ``length_baseline_interval``, and
        ``accuracy_over_length``, the difference of the two with its ``interval``. Intervals are at 95 % and clustered
        by prompt, as pairs of one prompt are not independent.
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
        report["calibration"] = calibration_summary(win_reliability(margins))
    known = [(group, group.gold) for group in groups if group.gold is not None]
    if known:
        report["gold"] = {
            "agreement": _accuracy_of([(group.scores, [-g for g in gold]) for group, gold in known]),
            "ceiling": _accuracy_of([(gold, group.ranks) for group, gold in known]),
        }
    return report


def _prompts_of_pairs(groups: Sequence[ScoredGroup], counts: Sequence[int]) -> list[Hashable]:
    """Return the prompt that each pair belongs to."""
    keys = [(i,) if group.prompt is None else group.prompt for i, group in enumerate(groups)]
    return [key for key, count in zip(keys, counts, strict=True) for _ in range(count)]


def _intervals(groups: Sequence[ScoredGroup], margins: FloatArray, prompts: Sequence[Hashable]) -> dict[str, Any]:
    """Return intervals of the accuracy, of the length baseline, and of the difference of the two."""
    longer = wins(np.concatenate([pair_margins(group.lengths, group.ranks)[0] for group in groups]))
    ahead = wins(margins) - longer
    # Both accuracies are measured on the same pairs, so the interval is that of the paired differences.
    ends = mean_interval(ahead, prompts)
    return {
        "accuracy_interval": share_interval(wins(margins), prompts),
        "length_baseline_interval": share_interval(longer, prompts),
        "accuracy_over_length": {
            "mean": clustered(ahead, prompts).mean,
            "interval": None if ends is None else (max(ends[0], -1.0), min(ends[1], 1.0)),
        },
    }


def calibration_summary(bins: Sequence[Bin]) -> dict[str, Any]:
    """Return the calibration in bins, ready for JSON."""
    return {"expected_error": expected_calibration_error(bins), "bins": [asdict(b) for b in bins]}


def _accuracy_of(judged: Sequence[tuple[ArrayLike, ArrayLike]]) -> float | None:
    return pair_accuracy(np.concatenate([pair_margins(scores, ranks)[0] for scores, ranks in judged]))


def _offset(model: RewardModel | RewardEnsemble) -> float:
    members = model.members if isinstance(model, RewardEnsemble) else (model,)
    return float(np.mean([member.offset for member in members]))


def _groups(
    heldout: Sequence[EncodedPreference], scores: Sequence[Sequence[float]], gold: Sequence[Sequence[float]] | None
) -> list[ScoredGroup]:
    """Return a group for each ranking; labelled texts are all compared with one another."""
    truths: Sequence[Sequence[float] | None] = gold or [None] * len(heldout)
    groups = [_compared(*row) for row in zip(heldout, scores, truths, strict=True)]
    if isinstance(heldout[0].preference, Ranking):
        return groups
    # Labels have no ranking of their own: every good text beats every bad one, whatever their prompts.
    some = groups[:LABELS_COMPARED]
    return [
        ScoredGroup(
            scores=[group.scores[0] for group in some],
            ranks=[group.ranks[0] for group in some],
            lengths=[group.lengths[0] for group in some],
            gold=[group.gold[0] for group in some if group.gold] or None,
        )
    ]


def _compared(example: EncodedPreference, scores: Sequence[float], gold: Sequence[float] | None) -> ScoredGroup:
    preference = example.preference
    ranks = preference.ranks if isinstance(preference, Ranking) else (int(not preference.good),)
    lengths = [len(text) for text in completions_of(preference)]
    return ScoredGroup(scores, ranks, lengths, gold, content_key(example.prompt))
