"""Several rewards as one: a weighted sum, with every component logged under its own name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from textgym.rewards.functions import Batch, Reward, RewardError, call_rewards, check_signature, reward_name
from textgym.types import Score

Part: TypeAlias = "Reward | tuple[Reward, float]"


@dataclass(frozen=True)
class ScoredBatch:
    """What ``N`` completions were given.

    Attributes:
        totals: ``N`` weighted sums: a float, or (if any component is dense there) one float per sampled
            token.
        components: for each reward its own ``N`` scores, before weighting; the sum of a dense score, and nan
            where the reward returned None.
    """

    totals: list[float | list[float]]
    components: dict[str, list[float]]


@dataclass(frozen=True)
class WeightedRewards:
    """``Σ weight · reward``, itself a reward function. Build it with :func:`compose`.

    A None drops out of the sum. Where one component is dense, the scalars join at the last token.

    Attributes:
        rewards: the components.
        weights: one finite number each; 0 logs a component without training on it.
        names: one unique name each.
    """

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]

    def score(
        self,
        prompts: list[Any],
        completions: list[str],
        completion_ids: list[list[int]],
        columns: Mapping[str, list[Any]],
    ) -> ScoredBatch:
        """Score ``N`` completions; async components are awaited concurrently.

        Raises:
            RewardError: a component failed (see :func:`textgym.rewards.call_reward`), or every component
                returned None for a completion.
        """
        batch = Batch(prompts, completions, completion_ids, columns)
        scores = call_rewards(self.rewards, batch)
        totals = [self._total([column[i] for column in scores], len(ids), i) for i, ids in enumerate(completion_ids)]
        logged = [[_logged(score) for score in column] for column in scores]
        return ScoredBatch(totals, dict(zip(self.names, logged, strict=True)))

    def __call__(
        self,
        prompts: list[Any],
        completions: list[str],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[float | list[float]]:
        """The totals of :meth:`score`, under the signature of a reward."""
        return self.score(prompts, completions, completion_ids, columns).totals

    def bind(self, tokenizer: Any) -> WeightedRewards:
        """Tell the components that ask for it (reward models) which tokenizer the policy uses."""
        bound = tuple(r.bind(tokenizer) if hasattr(r, "bind") else r for r in self.rewards)
        return WeightedRewards(bound, self.weights, self.names)

    def _total(self, scores: Sequence[Score], tokens: int, i: int) -> float | list[float]:
        given = [(w, s) for w, s in zip(self.weights, scores, strict=True) if s is not None]
        if not given:
            raise RewardError(
                f"completion {i}: every reward ({', '.join(self.names)}) returned None, so it has no score; "
                "at least one must apply to each completion"
            )
        scalar = sum(w * s for w, s in given if not isinstance(s, Sequence))
        dense = [(w, s) for w, s in given if isinstance(s, Sequence)]
        if not dense:
            return scalar
        if not tokens:
            raise RewardError(f"completion {i} has no token that a dense reward could be paid for")
        total = [sum(w * s[t] for w, s in dense) for t in range(tokens)]
        total[-1] += scalar
        return total


def compose(reward: Reward | Sequence[Part], weights: Sequence[float] | None = None) -> WeightedRewards:
    """One reward, a list of rewards, or a list of ``(reward, weight)``, as :class:`WeightedRewards`.

    Components that are themselves weighted sums are taken apart, so that each of their parts stays in the
    log. Two components of the same name become ``length`` and ``length_2``.

    Args:
        reward: what to compose.
        weights: one for each component, 1 by default; it multiplies a weight that stands in ``reward``.

    Raises:
        TypeError: a component is not callable, or does not accept ``**kwargs``.
        ValueError: no component, the wrong number of weights, or a weight that is not a finite number.
    """
    parts = list(reward) if isinstance(reward, Sequence) else [reward]
    if not parts:
        raise ValueError("reward: got an empty list, expected at least one reward")
    factors = [1.0] * len(parts) if weights is None else list(weights)
    if len(factors) != len(parts):
        raise ValueError(f"weights: got {len(factors)} for {len(parts)} rewards, expected one for each")
    flat = [leaf for part, factor in zip(parts, factors, strict=True) for leaf in _leaves(part, factor)]
    rewards = tuple(r for r, _ in flat)
    return WeightedRewards(rewards, tuple(w for _, w in flat), _unique([reward_name(r) for r in rewards]))


def _leaves(part: Part, factor: float) -> list[tuple[Reward, float]]:
    reward, weight = part if isinstance(part, tuple) else (part, 1.0)
    weight = _weight(weight, reward) * _weight(factor, reward)
    if isinstance(reward, WeightedRewards):
        return [(r, w * weight) for r, w in zip(reward.rewards, reward.weights, strict=True)]
    check_signature(reward)
    return [(reward, weight)]


def _weight(weight: Any, reward: Callable[..., Any]) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"the weight of {reward_name(reward)!r} must be a finite number, got {weight!r}")
    return float(weight)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    unique: list[str] = []
    for name in names:
        count, candidate = 1, name
        while candidate in unique:
            count += 1
            candidate = f"{name}_{count}"
        unique.append(candidate)
    return tuple(unique)


def _logged(score: Score) -> float:
    if score is None:
        return math.nan
    return float(sum(score)) if isinstance(score, Sequence) else score
