"""Bandit tasks, in which only the choice of words counts, given the prompt: Noise, Scale, Vocabulary, Needle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.bandits import NoisyReward, Scaled
from textgym.tasks.diagnostic.build import ResponseReward, check, diagnostic, letters, uniform
from textgym.tasks.diagnostic.v1.prompts import cue_rows, either_case, instance_rng
from textgym.tasks.task import Task

ARMS = 8
TABLES = 5


def noise_v1(sigma: float = 0.5, arms: int = ARMS, tables: int = TABLES, seed: int = 0) -> Task:
    """Make a bandit in which the prompt names which of ``tables`` tables of values counts, and the reward is noisy.

    A table has the values 0, 1/(n−1), …, 1 of the ``arms`` in an order of its own. The noise is normal, of standard
    deviation ``sigma``.
    """
    check(sigma >= 0, "sigma", sigma, "0 or more")
    description = f"Say a valuable word, although the reward has normal noise of standard deviation {sigma:g}."
    return _bandit("Noise-v1", description, arms, tables, seed, reward=NoisyReward(word_value, sigma))


def scale_v1(factor: float = 100.0, arms: int = ARMS, tables: int = TABLES, seed: int = 0) -> Task:
    """Make the bandit of Noise-v1 without noise, with reward and β multiplied by ``factor``."""
    check(factor > 0, "factor", factor, "more than 0")
    description = f"Say a valuable word, where the reward is {factor:g} times as large, and β with it."
    reward = ResponseReward("scaled", Scaled(word_value, factor))
    return _bandit("Scale-v1", description, arms, tables, seed, factor, reward)


def vocabulary_v1(size: int = 256, topics: int = 4, share: int = 16, seed: int = 0) -> Task:
    """Make a task with ``size`` words, of which one in ``share`` is good after each of ``topics`` topics."""
    check(size >= share, "size", size, f"at least share={share}")
    rng = instance_rng(seed, "good")
    good = [sorted(rng.permutation(size)[: size // share].tolist()) for _ in range(topics)]
    rows = cue_rows(topics, seed, lambda topic: {"good": good[topic]})
    return diagnostic(
        "Vocabulary-v1",
        f"Say one of the topic's good words, one in {share} of {size}: many actions, few of them worth anything.",
        is_good,
        words=letters(size),
        horizon=1,
        beta=0.1,
        chances=uniform(size),
        prompts=rows.train,
        held_out=rows.test,
        weights_seed=seed,
    )


def needle_v1(symbols: int = 8, horizon: int = 2, cues: int = 4, seed: int = 0) -> Task:
    """Make a task in which the prompt's cue has one secret of ``horizon`` letters, and nothing else earns anything.

    Letters count in either case, so the secret is found once in ``symbols ** horizon`` responses.
    """
    check(cues <= symbols**horizon, "cues", cues, f"at most {symbols**horizon}, so that each has a secret of its own")
    numbers = instance_rng(seed, "secrets").choice(symbols**horizon, cues, replace=False)
    secrets = np.stack(np.unravel_index(numbers, (symbols,) * horizon), axis=1).tolist()
    rows = cue_rows(cues, seed, lambda cue: {"secret": secrets[cue]})
    return diagnostic(
        "Needle-v1",
        f"Say the cue's secret, in either case, which the reference says once in {symbols**horizon:,} times.",
        IsSecret(symbols),
        words=either_case(letters(symbols)),
        horizon=horizon,
        beta=0.1,
        chances=uniform(2 * symbols),
        prompts=rows.train,
        held_out=rows.test,
        weights_seed=seed,
    )


def _bandit(
    name: str, description: str, arms: int, tables: int, seed: int, factor: float = 1.0, reward: Any = None
) -> Task:
    check(arms >= 2, "arms", arms, "at least 2")
    ladder = np.arange(arms) / (arms - 1)
    values = instance_rng(seed, "values").permuted(np.tile(ladder, (tables, 1)), axis=1).tolist()
    rows = cue_rows(tables, seed, lambda table: {"values": values[table]})
    return diagnostic(
        name,
        description,
        word_value,
        words=letters(arms),
        horizon=1,
        beta=0.2 * factor,
        chances=instance_rng(seed, "habits").dirichlet(np.full(arms, 2.0)),
        prompts=rows.train,
        held_out=rows.test,
        reward=reward,
        weights_seed=seed,
    )


# --- scores: values and functions of a module, so that environments can be pickled ------------------------------------


def word_value(ids: list[int], columns: Mapping[str, Any]) -> float:
    """Return the row's value of the word that is said."""
    return float(columns["values"][ids[0]])


def is_good(ids: list[int], columns: Mapping[str, Any]) -> float:
    """Return 1 if the word is among the row's good ones, and otherwise 0."""
    return float(ids[0] in columns["good"])


@dataclass(frozen=True)
class IsSecret:
    """Indicator of the row's secret, in either case; a capital is ``symbols`` after its small letter."""

    symbols: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return float([i % self.symbols for i in ids] == columns["secret"])
