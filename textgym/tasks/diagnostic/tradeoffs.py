"""Trade-off tasks, in which more reward is not simply better: Prior, Trap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import ResponseReward, diagnostic, letters
from textgym.tasks.task import Task


def prior(rarity: float = 0.02, words: int = 4, horizon: int = 6, seed: int = 0) -> Task:
    """Make a task that rewards a word which the reference rarely says, so that each of them costs KL."""
    if not 0 < rarity < 1:
        raise ValueError(f"rarity={rarity}; expected a probability between 0 and 1")
    habits = np.random.default_rng(seed).dirichlet(np.full(words - 1, 0.5), size=words)
    common = (1 - rarity) * (habits + 0.02) / (1 + 0.02 * (words - 1))  # no word has probability 0
    chances = np.concatenate([common, np.full((words, 1), rarity)], axis=1)
    return diagnostic(
        "Prior",
        f"Say a word that the reference says once in {round(1 / rarity)} times, as often as its price in KL allows.",
        ShareOfWord(words - 1, horizon),
        words=letters(words),
        horizon=horizon,
        beta=0.04,
        chances=chances,
    )


def trap(beta: float = 0.05, horizon: int = 5) -> Task:
    """Make a task whose proxy pays for every "great", while the gold score wants a "great" among different words."""
    return diagnostic(
        "Trap",
        'Praise in different words; the proxy that is paid counts the word "great" instead.',
        DifferentWords(0, horizon),
        words=["great", "fine", "warm", "wise", "bold"],
        horizon=horizon,
        beta=beta,
        chances=np.full(5, 0.2),
        reward=ResponseReward("proxy", ShareOfWord(0, horizon)),
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class ShareOfWord:
    """Share of ``horizon`` words that are ``word``."""

    word: int
    horizon: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return sum(i == self.word for i in ids) / self.horizon


@dataclass(frozen=True)
class DifferentWords:
    """Number of different words, as a share of ``horizon``, in a response that contains ``needed``; otherwise 0."""

    needed: int
    horizon: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return (self.needed in ids) * len(set(ids)) / self.horizon
