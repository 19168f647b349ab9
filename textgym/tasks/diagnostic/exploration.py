"""Exploration tasks, in which the first gradient does not lead to the best responses: Ladder, Decoy, Drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.env.mdp import EPISODE_NUMBER
from textgym.tasks.diagnostic.build import ResponseReward, check, diagnostic, letters, uniform
from textgym.tasks.diagnostic.cues import cued, draw_kinds, draw_patterns, spread_over
from textgym.tasks.task import Task


def ladder(rung: float = 0.15, rarity: float = 0.055, horizon: int = 4, cues: int = 2, seed: int = 0) -> Task:
    """Make a task whose whole reward the reference earns once in 109,000 times, at the top of a ladder.

    Each cue has a secret pattern of rare kinds of words. Every word of it that is said in order, from the first one
    on, pays ``rung``; the whole pattern pays 1. Without rungs (``rung=0``) nothing leads to it. The reference says a
    word of the right kind with probability ``rarity`` in each place.
    """
    check(0 <= rung * (horizon - 1) < 1, "rung", rung, f"0 or more, and below 1 for {horizon - 1} of them together")
    check(0 < rarity < 0.5, "rarity", rarity, "a probability between 0 and 0.5")
    rng = np.random.default_rng(seed)
    kinds = draw_kinds((2, 2, 2), rng)
    patterns = draw_patterns(cues, horizon, rng)
    train, held_out = cued({str(i): {"pattern": pattern} for i, pattern in enumerate(patterns)}, rng)
    return diagnostic(
        "Ladder",
        f"Say {horizon} rare words in the order that the prompt stands for, which the reference does once in "
        f"{round(rarity**-horizon, -3):,.0f} times.",
        Climb(kinds, rung),
        words=letters(len(kinds)),
        horizon=horizon,
        beta=0.04,
        chances=spread_over(kinds, (rarity, rarity, 1 - 2 * rarity)),
        prompts=train,
        held_out=held_out,
    )


def decoy(height: float = 0.6, horizon: int = 4, cues: int = 2, seed: int = 0) -> Task:
    """Make a task whose reward rises away from its best responses.

    Each cue has a secret pattern of two kinds of words. A response that has it everywhere earns 1; otherwise each
    place that has it costs ``height / horizon``, and a response that has it nowhere earns ``height``: the decoy.
    Source: the trap functions of Deb and Goldberg 1993 (Foundations of Genetic Algorithms 2).
    """
    check(0 < height < 1, "height", height, "a reward between 0 and 1, that of the best responses")
    rng = np.random.default_rng(seed)
    kinds = draw_kinds((2, 2), rng)
    patterns = draw_patterns(cues, horizon, rng)
    train, held_out = cued({str(i): {"pattern": pattern} for i, pattern in enumerate(patterns)}, rng)
    return diagnostic(
        "Decoy",
        f"Say {horizon} words in the pattern that the prompt stands for, although each place but the last one costs.",
        Deceive(kinds, height),
        words=letters(len(kinds)),
        horizon=horizon,
        beta=0.05,
        chances=uniform(len(kinds)),
        prompts=train,
        held_out=held_out,
    )


def drift(change: int = 2048, horizon: int = 4, kinds: int = 3, seed: int = 0) -> Task:
    """Make a task whose reward changes once, after ``change`` episodes.

    Each cue has two kinds of words: one that is paid for at first, and another one that is paid for from then on. What
    counts is the second, which a policy that has learned the first hardly says any more. Environments count their
    episodes from each seed on, and the algorithms of this package theirs through all iterations.
    """
    check(kinds >= 2, "kinds", kinds, "2 or more, as the reward changes from one to another")
    rng = np.random.default_rng(seed)
    of_words = draw_kinds((2,) * kinds, rng)
    # Seats around a table, and each cue goes one seat on: no cue keeps its kind.
    seats = rng.permutation(kinds).tolist()
    cues = {str(i): {"at_first": seats[i], "wanted": seats[i - 1]} for i in range(kinds)}
    train, held_out = cued(cues, rng)
    return diagnostic(
        "Drift",
        f"Say words of the kind that the prompt stands for; after {change:,} episodes it stands for another one.",
        ShareOfKind(of_words),
        words=letters(len(of_words)),
        horizon=horizon,
        beta=0.05,
        chances=uniform(len(of_words)),
        prompts=train,
        held_out=held_out,
        reward=ResponseReward("drifting", ShareOfKind(of_words, change)),
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class Climb:
    """Pay of ``rung`` for each word in the pattern before the first mistake, and of 1 for the whole pattern."""

    kinds: tuple[int, ...]
    rung: float

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        pattern = columns["pattern"]
        mistakes = (t for t, (word, kind) in enumerate(zip(ids, pattern, strict=True)) if self.kinds[word] != kind)
        reached = next(mistakes, len(pattern))
        return 1.0 if reached == len(pattern) else self.rung * reached


@dataclass(frozen=True)
class Deceive:
    """Pay of 1 for the whole pattern; of ``height``, less a part for each place in the pattern, for the rest."""

    kinds: tuple[int, ...]
    height: float

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        pattern = columns["pattern"]
        hits = sum(self.kinds[word] == kind for word, kind in zip(ids, pattern, strict=True))
        return 1.0 if hits == len(pattern) else self.height * (1 - hits / len(pattern))


@dataclass(frozen=True)
class ShareOfKind:
    """Share of words of the kind that is wanted; for the first ``change`` episodes, of that which was at first."""

    kinds: tuple[int, ...]
    change: int = 0

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        number = columns.get(EPISODE_NUMBER)  # none in an enumeration, which asks for the reward that stays
        kind = columns["at_first" if number is not None and number < self.change else "wanted"]
        return float(sum(self.kinds[word] == kind for word in ids) / len(ids))
