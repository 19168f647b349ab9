"""Bandit tasks, in which only the choice of words counts: Emit, Noise, Scale, Vocabulary, Needle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from textgym.tasks.diagnostic.build import ResponseReward, ResponseScore, check, diagnostic, letters, uniform
from textgym.tasks.task import Task
from textgym.types import FloatArray

ARMS = 16
BETA = 0.05


def emit(arms: int = ARMS, seed: int = 0) -> Task:
    """Make a bandit: each of ``arms`` words has a value, and one word is said."""
    description = "Say the most valuable word: a bandit over tokens, without any further difficulty."
    return _bandit("Emit", description, arms, seed)


def noise(sigma: float = 1.0, arms: int = ARMS, seed: int = 0) -> Task:
    """Make Emit with normal noise of standard deviation ``sigma`` added to the reward."""
    check(sigma >= 0, "sigma", sigma, "0 or more")
    reward = NoisyReward(arm_value(arms, seed), sigma)
    description = f"Say the most valuable word, although the reward has normal noise of standard deviation {sigma}."
    return _bandit("Noise", description, arms, seed, reward=reward)


def scale(factor: float = 100.0, arms: int = ARMS, seed: int = 0) -> Task:
    """Make Emit with reward and β both multiplied by ``factor``: the optimal policy stays the same."""
    check(factor > 0, "factor", factor, "more than 0")
    reward = ResponseReward("scaled", Scaled(arm_value(arms, seed), factor))
    description = f"Say the most valuable word, where the reward is {factor:g} times as large, and β with it."
    return _bandit("Scale", description, arms, seed, reward=reward, beta=BETA * factor)


def vocabulary(size: int = 256, horizon: int = 2, seed: int = 0) -> Task:
    """Make a task with ``size`` words of which one in 32 is good."""
    check(size >= 32, "size", size, "at least 32")
    good = frozenset(np.random.default_rng(seed).permutation(size)[: size // 32].tolist())
    return diagnostic(
        "Vocabulary",
        f"Say good words only, one in 32 of {size}: many actions, few of them worth anything.",
        ShareOf(good),
        words=letters(size),
        horizon=horizon,
        beta=BETA,
        chances=uniform(size),
    )


def needle(words: int = 6, horizon: int = 4, seed: int = 0) -> Task:
    """Make a task in which one response of ``words ** horizon`` earns everything."""
    secret = np.random.default_rng(seed).integers(words, size=horizon).tolist()
    return diagnostic(
        "Needle",
        f"Say the one response that earns anything, which the reference says once in {words**horizon:,} times.",
        IsExactly(tuple(secret)),
        words=letters(words),
        horizon=horizon,
        beta=BETA,
        chances=uniform(words),
    )


def _bandit(name: str, description: str, arms: int, seed: int, beta: float = BETA, reward: Any = None) -> Task:
    check(arms >= 2, "arms", arms, "at least 2")
    # A stream of its own: the reference must not depend on the values of the arms.
    chances: FloatArray = np.random.default_rng([seed, 1]).dirichlet(np.full(arms, 2.0))
    value = arm_value(arms, seed)
    return diagnostic(
        name, description, value, words=letters(arms), horizon=1, beta=beta, chances=chances, reward=reward
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class ArmValue:
    """Value of the first word said; ``values`` has one for each word."""

    values: tuple[float, ...]

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return self.values[ids[0]]


def arm_value(arms: int, seed: int) -> ArmValue:
    """Return the score of the first word: the values 0, 1/(n−1), …, 1 in a shuffled order."""
    return ArmValue(tuple((np.random.default_rng(seed).permutation(arms) / (arms - 1)).tolist()))


@dataclass(frozen=True)
class Scaled:
    """Score multiplied by ``factor``."""

    score: Callable[[list[int], Mapping[str, Any]], float]
    factor: float

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return self.factor * self.score(ids, columns)


@dataclass(frozen=True)
class ShareOf:
    """Share of a response's words that are among ``good``."""

    good: frozenset[int]

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return sum(i in self.good for i in ids) / len(ids)


@dataclass(frozen=True)
class IsExactly:
    """Indicator: 1 for the response ``secret``, 0 for all others."""

    secret: tuple[int, ...]

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return float(tuple(ids) == self.secret)


@dataclass(frozen=True)
class NoisyReward:
    """Score with normal noise that the episode's seed determines; ``expected`` is the score itself."""

    name: ClassVar[str] = "noisy"
    score: ResponseScore
    sigma: float

    @property
    def expected(self) -> ResponseReward:
        """Reward without its noise."""
        return ResponseReward(self.name, self.score)

    def __call__(
        self, prompts: list[Any], completions: list[str], *, completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float]:
        means: Any = self.expected(prompts, completions, completion_ids=completion_ids, **columns)
        # The noise is a function of the episode's seed, so scoring an episode again gives the same reward.
        draws = [np.random.default_rng(int(seed)).standard_normal() for seed in columns["episode_seed"]]
        return [mean + self.sigma * draw for mean, draw in zip(means, draws, strict=True)]
