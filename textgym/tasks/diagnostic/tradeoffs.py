"""Where more reward is not simply better: Prior, Trap."""

from __future__ import annotations

import numpy as np

from textgym.tasks.diagnostic.build import as_reward, diagnostic, letters
from textgym.tasks.task import Task


def prior(rarity: float = 0.02, words: int = 4, horizon: int = 6, seed: int = 0) -> Task:
    """The reward is for a word that the reference hardly ever says, and β makes each of them dear."""
    if not 0 < rarity < 1:
        raise ValueError(f"rarity={rarity}; expected a probability between 0 and 1")
    habits = np.random.default_rng(seed).dirichlet(np.full(words - 1, 0.5), size=words)
    common = (1 - rarity) * (habits + 0.02) / (1 + 0.02 * (words - 1))  # nothing is impossible
    chances = np.concatenate([common, np.full((words, 1), rarity)], axis=1)
    return diagnostic(
        "Prior",
        f"Say a word that the reference says once in {round(1 / rarity)} times, as often as its price in KL allows.",
        lambda ids, _: sum(i == words - 1 for i in ids) / horizon,
        words=letters(words),
        horizon=horizon,
        beta=0.04,
        chances=chances,
    )


def trap(beta: float = 0.05, horizon: int = 5) -> Task:
    """The proxy pays for every "great"; the gold score wants a "great" among different words."""

    def gold(ids: list[int], _: object) -> float:
        return (0 in ids) * len(set(ids)) / horizon

    def proxy(ids: list[int], _: object) -> float:
        return sum(i == 0 for i in ids) / horizon

    return diagnostic(
        "Trap",
        'Praise in different words; the proxy that is paid counts the word "great" instead.',
        gold,
        words=["great", "fine", "warm", "wise", "bold"],
        horizon=horizon,
        beta=beta,
        chances=np.full(5, 0.2),
        reward=as_reward("proxy", proxy),
    )
