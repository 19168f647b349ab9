"""Which token earned it, and when to stop: Delayed, Dense, Length."""

from __future__ import annotations

from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import as_reward, diagnostic, letters, uniform
from textgym.tasks.task import Task


def delayed(horizon: int = 8) -> Task:
    """Only the first word counts; it is paid at the end, ``horizon`` words later."""
    return diagnostic(
        "Delayed",
        f"Begin with a rare word; the {horizon - 1} words after it are idle, and the reward comes after them.",
        lambda ids, _: float(ids[0] == 1),
        words=letters(2),
        horizon=horizon,
        beta=0.05,
        chances=np.array([0.8, 0.2]),
    )


def dense(per_token: bool = True, words: int = 4, horizon: int = 6) -> Task:
    """Each word should be the alphabet's next; paid as it comes (``per_token``), or as a sum at the end."""

    def shares(ids: list[int], _: Any) -> list[float]:
        return [float(word == (last + 1) % words) / horizon for last, word in zip([-1, *ids], ids, strict=False)]

    when = "word by word" if per_token else "at the end"
    return diagnostic(
        "Dense",
        f"Follow each word by the alphabet's next, round and round; the reward is paid {when}.",
        lambda ids, columns: sum(shares(ids, columns)),
        words=letters(words),
        horizon=horizon,
        beta=0.05,
        chances=uniform(words),
        reward=as_reward("dense", shares) if per_token else None,
    )


def length(targets: tuple[int, ...] = (1, 3, 5), horizon: int = 6) -> Task:
    """The prompt is a number: end after so many words."""
    outside = [target for target in targets if not 1 <= target < horizon]
    if outside or not targets:
        raise ValueError(f"targets={targets}; expected lengths from 1 to horizon - 1 = {horizon - 1}")
    return diagnostic(
        "Length",
        "End the response after as many words as the prompt says: only the end token's place counts.",
        lambda ids, columns: max(0.0, 1 - abs(ids.index(2) - columns["target"]) / 3) if 2 in ids else 0.0,
        words=["a", "b", "<end>"],
        horizon=horizon,
        beta=0.05,
        chances=np.array([0.4, 0.4, 0.2]),
        prompts=[{"prompt": str(target), "target": target} for target in targets],
        end="<end>",
    )
