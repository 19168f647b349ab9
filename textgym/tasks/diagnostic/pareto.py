"""A task with two rewards and a weight between them: Pareto."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import ResponseReward, ResponseScore, check, diagnostic, letters, uniform
from textgym.tasks.diagnostic.cues import cued, draw_kinds
from textgym.tasks.task import Task

TOPICS = 3


def pareto(weight: float = 0.5, horizon: int = 4, seed: int = 0) -> Task:
    """Make a task with two rewards: words on the prompt's topic, and words that differ from each other.

    A topic has two words, so that more than two cannot have both. The reward is ``weight`` times the share of words
    on the topic, plus ``1 - weight`` times the share of different words.
    """
    check(0 <= weight <= 1, "weight", weight, "a number from 0 to 1")
    rng = np.random.default_rng(seed)
    kinds = draw_kinds((2,) * TOPICS, rng)
    train, held_out = cued({str(topic): {"topic": topic} for topic in range(TOPICS)}, rng)
    return diagnostic(
        "Pareto",
        f"Speak to the prompt's topic, and in different words: two rewards, the first with a weight of {weight:g}.",
        Weighted(OnTopic(kinds), share_different, weight),
        words=letters(len(kinds)),
        horizon=horizon,
        beta=0.05,
        chances=uniform(len(kinds)),
        prompts=train,
        held_out=held_out,
    )


def pareto_rewards(task: Task) -> tuple[ResponseReward, ResponseReward]:
    """Return the two rewards of a task that :func:`pareto` made: the topic's, and that of different words.

    Raises:
        TypeError: another function made the task.
    """
    score = getattr(task.gold, "score", None)
    if not isinstance(score, Weighted):
        raise TypeError(f"task={task.name!r} has one reward; expected a task that textgym/Pareto-v0 is made of")
    return ResponseReward("topic", score.first), ResponseReward("variety", score.second)


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class OnTopic:
    """Share of a response's words that are on the prompt's topic."""

    kinds: tuple[int, ...]

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return float(sum(self.kinds[word] == columns["topic"] for word in ids) / len(ids))


def share_different(ids: list[int], _: Mapping[str, Any]) -> float:
    """Return the number of different words as a share of all words."""
    return len(set(ids)) / len(ids)


@dataclass(frozen=True)
class Weighted:
    """Weighted mean of two scores; ``weight`` is that of the first."""

    first: ResponseScore
    second: ResponseScore
    weight: float

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        first, second = (float(np.sum(score(ids, columns))) for score in (self.first, self.second))
        return self.weight * first + (1 - self.weight) * second
