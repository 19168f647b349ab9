"""Trade-off tasks, in which more reward is not simply better: Prior and Trap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import ResponseReward, diagnostic, letters, uniform
from textgym.tasks.diagnostic.v1.prompts import cue_rows, instance_rng
from textgym.tasks.task import Task

COMMON = 3


def prior_v1(rarity: float = 0.03, rare: int = 4, horizon: int = 3, seed: int = 0) -> Task:
    """Make a task that rewards the word which the prompt names, one of ``rare`` words that the reference rarely says.

    Their probabilities are drawn between ``rarity``/2 and 2·``rarity``, and so are habits: those of the other words,
    given the last one.
    """
    if not 0 < rarity < 1 / (2 * rare):
        raise ValueError(f"rarity={rarity}; expected a probability between 0 and 1/(2·rare) = {1 / (2 * rare):g}")
    words = rare + COMMON
    rarities = rarity * 2 ** instance_rng(seed, "rarities").uniform(-1, 1, size=rare)
    habits = instance_rng(seed, "habits").dirichlet(np.full(COMMON, 0.5), size=words)
    common = (1 - rarities.sum()) * (habits + 0.02) / (1 + 0.02 * COMMON)  # no word has probability 0
    rows = cue_rows(rare, seed, lambda cue: {"named": cue})
    return diagnostic(
        "Prior-v1",
        f"Say the prompt's word, which the reference says about once in {round(1 / rarity)} times, as often as its "
        "price in KL allows.",
        ShareOfNamed(horizon),
        words=letters(words),
        horizon=horizon,
        beta=0.08,
        chances=np.concatenate([np.tile(rarities, (words, 1)), common], axis=1),
        prompts=rows.train,
        held_out=rows.test,
        weights_seed=seed,
    )


def trap_v1(beta: float = 0.125, words: int = 5, horizon: int = 4, seed: int = 0) -> Task:
    """Make a task whose proxy pays for every use of the prompt's word, while gold wants it among different words."""
    rows = cue_rows(words, seed, lambda cue: {"named": cue})
    return diagnostic(
        "Trap-v1",
        "Say the prompt's word among different ones; the proxy that is paid counts that word alone.",
        DifferentAroundNamed(horizon),
        words=letters(words),
        horizon=horizon,
        beta=beta,
        chances=uniform(words),
        prompts=rows.train,
        held_out=rows.test,
        reward=ResponseReward("proxy", ShareOfNamed(horizon)),
        weights_seed=seed,
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class ShareOfNamed:
    """Share of ``horizon`` words that are the one which the row names."""

    horizon: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return ids.count(columns["named"]) / self.horizon


@dataclass(frozen=True)
class DifferentAroundNamed:
    """Number of different words, as a share of ``horizon``, in a response with the named word; otherwise 0."""

    horizon: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return (columns["named"] in ids) * len(set(ids)) / self.horizon
