"""What a reward model, or an ensemble, is worth on preferences that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textgym.intervals import share_interval
from textgym.prompts import content_key
from textgym.rewards.ensemble import RewardEnsemble
from textgym.rewards.evaluation import Compared, described, evaluate_scores, reliability, sigmoid
from textgym.rewards.model import RewardModel
from textgym.rewards.preferences import Judgement, completions_of
from textgym.rewards.training import Example, mean_loss, sequences_of, split_like
from textgym.types import Ranking

LABELS_COMPARED = 2000  # labelled texts are compared pair by pair, so not without end


def measure(
    model: RewardModel | RewardEnsemble,
    heldout: Sequence[Example],
    gold: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Scores of held-out preferences against labels, length and gold, ready for JSON.

    Args:
        model: what is measured.
        heldout: preferences of one kind.
        gold: the true reward of each of their completions, where it is known.

    Returns:
        What :func:`textgym.rewards.evaluation.evaluate_scores` finds, with the ``loss`` and the ``offset``. For
        labels of single texts a pair is a good and a bad text, the calibration is that of σ(score) before the
        offset, ``label_accuracy`` is the share of texts on the right side of ½ (with its interval over prompts), and
        ``label_baseline`` what always giving the more frequent label would reach.
    """
    scores = split_like(heldout, model.score_ids(sequences_of(heldout)))
    offset = _offset(model)
    raw = [[score + offset for score in own] for own in scores]
    report = {
        "loss": mean_loss(heldout, raw),
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
        report["calibration"] = described(reliability(probabilities, labels))
    return report


def _offset(model: RewardModel | RewardEnsemble) -> float:
    members = model.members if isinstance(model, RewardEnsemble) else (model,)
    return float(np.mean([member.offset for member in members]))


def _groups(
    heldout: Sequence[Example], scores: Sequence[Sequence[float]], gold: Sequence[Sequence[float]] | None
) -> list[Compared]:
    """Return a group for each ranking; labelled texts are all compared with one another."""
    truths: Sequence[Sequence[float] | None] = gold or [None] * len(heldout)
    groups = [_compared(*row) for row in zip(heldout, scores, truths, strict=True)]
    if isinstance(heldout[0].preference, Ranking):
        return groups
    some = groups[:LABELS_COMPARED]
    return [
        Compared(
            scores=[group.scores[0] for group in some],
            ranks=[group.ranks[0] for group in some],
            lengths=[group.lengths[0] for group in some],
            gold=[group.gold[0] for group in some if group.gold] or None,
        )
    ]


def _compared(example: Example, scores: Sequence[float], gold: Sequence[float] | None) -> Compared:
    said = example.preference
    ranks = said.ranks if isinstance(said, Ranking) else (int(not said.good),)
    lengths = [len(text) for text in completions_of(said)]
    return Compared(scores, ranks, lengths, gold, content_key(example.prompt))
