"""Credit-assignment tasks: which word earned the reward, and when to stop: Dense and Length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import ResponseReward, diagnostic, letters, uniform
from textgym.tasks.diagnostic.credit import END, Total, has_target_length
from textgym.tasks.diagnostic.v1.prompts import cue_rows, instance_rng
from textgym.tasks.task import Task


def dense_v1(per_token: bool = False, words: int = 5, horizon: int = 4, orders: int = 4, seed: int = 0) -> Task:
    """Make a task in which each word should be the next in the order that the prompt names.

    Orders are drawn, and go round. The reward is the share of words that are right, paid as a sum at the end, so that
    none says which word earned it; or word by word (``per_token``), which is the same return.
    """
    rng = instance_rng(seed, "orders")
    cycles = [rng.permutation(words).tolist() for _ in range(orders)]
    rows = cue_rows(orders, seed, lambda cue: {"order": cycles[cue]})
    shares = OrderShares(horizon)
    when = "word by word" if per_token else "at the end"
    return diagnostic(
        "Dense-v1",
        f"Follow each word by the next in the prompt's order, round and round; the reward is paid {when}.",
        Total(shares),
        words=letters(words),
        horizon=horizon,
        beta=0.1,
        chances=uniform(words),
        prompts=rows.train,
        held_out=rows.test,
        reward=ResponseReward("dense", shares) if per_token else None,
        weights_seed=seed,
    )


def length_v1(longest: int = 4, seed: int = 0) -> Task:
    """Make a task whose prompt has a number, from 1 to ``longest``: the response should end after that many words."""
    rows = cue_rows(longest, seed, lambda cue: {"target": cue + 1})
    rng = instance_rng(seed, "habits")
    ends, first = rng.uniform(0.1, 0.3), rng.uniform(0.2, 0.8)
    return diagnostic(
        "Length-v1",
        "End the response after as many words as the prompt says: only the end token's place counts.",
        has_target_length,
        words=["a", "b", END],
        horizon=longest + 1,
        beta=0.15,
        chances=np.array([(1 - ends) * first, (1 - ends) * (1 - first), ends]),
        prompts=rows.train,
        held_out=rows.test,
        end=END,
        weights_seed=seed,
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class OrderShares:
    """Score of each word: 1/``horizon`` if it is next in the row's order after the word before it, otherwise 0.

    The order starts again after its last word, and the response with its first.
    """

    horizon: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> list[float]:
        order = columns["order"]
        after = dict(zip(order, [*order[1:], order[0]], strict=True))
        expected = [order[0], *(after[word] for word in ids[:-1])]
        return [float(word == right) / self.horizon for word, right in zip(ids, expected, strict=True)]
