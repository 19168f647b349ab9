"""Credit-assignment tasks: which token earned the reward, and when to stop: Delayed, Dense, Length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import ResponseReward, diagnostic, letters, uniform
from textgym.tasks.task import Task

END = "<end>"


def delayed(horizon: int = 8) -> Task:
    """Make a task in which only the first word counts; it is paid at the end, ``horizon`` words later."""
    return diagnostic(
        "Delayed",
        f"Begin with a rare word; the {horizon - 1} words after it are idle, and the reward comes after them.",
        _begins_with_1,
        words=letters(2),
        horizon=horizon,
        beta=0.05,
        chances=np.array([0.8, 0.2]),
    )


def dense(per_token: bool = True, words: int = 4, horizon: int = 6) -> Task:
    """Make a task in which each word should be the alphabet's next.

    The reward is paid per word (``per_token``) or as a sum at the end.
    """
    shares = AlphabetShares(words, horizon)
    when = "word by word" if per_token else "at the end"
    return diagnostic(
        "Dense",
        f"Follow each word by the alphabet's next, round and round; the reward is paid {when}.",
        Total(shares),
        words=letters(words),
        horizon=horizon,
        beta=0.05,
        chances=uniform(words),
        reward=ResponseReward("dense", shares) if per_token else None,
    )


def length(targets: tuple[int, ...] = (1, 3, 5), horizon: int = 6) -> Task:
    """Make a task whose prompt is a number: the response should end after that many words."""
    outside = [target for target in targets if not 1 <= target < horizon]
    if outside or not targets:
        raise ValueError(f"targets={targets}; expected lengths from 1 to horizon - 1 = {horizon - 1}")
    return diagnostic(
        "Length",
        "End the response after as many words as the prompt says: only the end token's place counts.",
        has_target_length,
        words=["a", "b", END],
        horizon=horizon,
        beta=0.05,
        chances=np.array([0.4, 0.4, 0.2]),
        prompts=[{"prompt": str(target), "target": target} for target in targets],
        end=END,
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


def _begins_with_1(ids: list[int], _: Mapping[str, Any]) -> float:
    return float(ids[0] == 1)


def has_target_length(ids: list[int], columns: Mapping[str, Any]) -> float:
    """Return 1 for as many words as the row's ``target`` before the end, 1/3 less for each word off; 0 without end."""
    return max(0.0, 1 - abs(ids.index(2) - columns["target"]) / 3) if 2 in ids else 0.0


@dataclass(frozen=True)
class AlphabetShares:
    """Score of each word: 1/``horizon`` if it is next in the alphabet after the word before it, otherwise 0.

    The alphabet has ``words`` letters and starts again after the last one.
    """

    words: int
    horizon: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> list[float]:
        # −1 precedes the first word, so that the alphabet's first letter is right there.
        pairs = zip([-1, *ids], ids, strict=False)
        return [float(word == (last + 1) % self.words) / self.horizon for last, word in pairs]


@dataclass(frozen=True)
class Total:
    """Sum of a score that has a number for each word."""

    shares: Callable[[list[int], Mapping[str, Any]], list[float]]

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return sum(self.shares(ids, columns))
