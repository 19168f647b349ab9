"""Composition of rewards: a weighted sum, with every component logged under its own name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

from textgym.numbers import LONGEST_WAIT, finite
from textgym.rewards.combination import Combination, bound, combination_of, evaluate, leaves, leaves_within, summed
from textgym.rewards.functions import (
    Batch,
    Reward,
    RewardError,
    check_columns,
    check_signature,
    reward_name,
    trainable,
)
from textgym.types import Prompt, Score

Part: TypeAlias = "Reward | tuple[Reward, float]"


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of ``N`` completions.

    Attributes:
        totals: ``N`` weighted sums: a float each, or one float per sampled token if any component is dense there.
        components: the ``N`` scores of each reward, before weighting, and of the rewards that a combination among them
            is made of; the sum of a dense score, and nan if the reward returned None.
    """

    totals: list[float | list[float]]
    components: dict[str, list[float]]


@dataclass(frozen=True)
class WeightedRewards(Combination):
    """Weighted sum ``Σ weight · reward``, itself a reward function. Build it with :func:`compose`.

    A component that returns None drops out of the sum. If one component is dense, the scalar ones are added to the
    last token.

    Attributes:
        rewards: the components.
        weights: one finite number each; 0 logs a component without training on it.
        names: one unique name each.
        timeout: time limit of one call of a component, in seconds; None for no limit.
    """

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]
    timeout: float | None = None

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The components."""
        return self.rewards

    def with_parts(self, parts: tuple[Reward, ...]) -> Self:
        """Return the same sum of other components."""
        return replace(self, rewards=parts)

    @property
    def logged_names(self) -> tuple[str, ...]:
        """Names of all components in logs: of the rewards, and of those that combinations among them are made of."""
        return _unique([*self.names, *map(reward_name, leaves_within(self.rewards))])

    def score(
        self,
        prompts: list[Any],
        completions: list[str],
        completion_ids: list[list[int]],
        columns: Mapping[str, list[Any]],
    ) -> ScoredBatch:
        """Score ``N`` completions: see :meth:`score_batch`."""
        return self.score_batch(Batch(prompts, completions, completion_ids, columns))

    def score_batch(self, batch: Batch) -> ScoredBatch:
        """Score a batch; async components are awaited concurrently.

        Raises:
            RewardError: a component failed (see :func:`textgym.rewards.call_reward`), every component returned None
                for a completion, or the sum is beyond float32.
        """
        found = evaluate(self.rewards, batch, self.timeout)
        columns = [*found.scores, *(scores for _, scores in found.within)]
        logged = [[_logged(score) for score in column] for column in columns]
        return ScoredBatch(self.combined(found.scores, batch), dict(zip(self.logged_names, logged, strict=True)))

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[float | list[float]]:
        """Return the ``N`` totals, given the scores of each component.

        Raises:
            RewardError: see :meth:`score_batch`.
        """
        # Scores come by reward; each total needs those of one completion, its row of the transposed table.
        return [self._total([column[i] for column in scores], batch, i) for i in range(len(batch))]

    def __call__(  # type: ignore[override]
        self,
        prompts: list[Any],
        completions: list[str],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[float | list[float]]:
        """Return the totals of :meth:`score`, under the signature of a reward."""
        return self.score(prompts, completions, completion_ids, columns).totals

    def check_columns(self, columns: Iterable[str]) -> None:
        """Check that the data has every column that a component requires.

        Raises:
            ValueError: see :func:`textgym.rewards.functions.check_columns`.
        """
        known = tuple(columns)
        for leaf in (leaf for reward in self.rewards for leaf in leaves(reward)):
            check_columns(leaf, known)

    def _total(self, scores: Sequence[Score], batch: Batch, i: int) -> float | list[float]:
        try:
            return self._sum(scores, len(batch.completion_ids[i]))
        except ValueError as error:
            raise RewardError(f"completion {i} of {len(batch)}: {error}\n{batch.described(i)}") from None

    def _sum(self, scores: Sequence[Score], tokens: int) -> float | list[float]:
        """Return the weighted sum of one completion's scores.

        Raises:
            ValueError: every score is None, or the sum is beyond float32.
        """
        given = [(w, s) for w, s in zip(self.weights, scores, strict=True) if s is not None]
        if not given:
            raise ValueError(
                f"every reward ({', '.join(self.names)}) returned None, so it has no score; at least one must apply to "
                "each completion"
            )
        # Scalars first: if no score is dense, their sum is the total, and no list per token is needed.
        scalar = sum(w * s for w, s in given if not isinstance(s, Sequence))
        dense = [(w, s) for w, s in given if isinstance(s, Sequence)]
        if not dense:
            return self._finite(scalar)
        if not tokens:
            raise ValueError("there is no token that a dense reward could be paid for")
        total = [sum(w * s[t] for w, s in dense) for t in range(tokens)]
        # A scalar judges the whole response, so it is due at its last token.
        total[-1] += scalar
        # Returns are partial sums of these. If the sum of magnitudes fits float32, so does each of them.
        self._finite(sum(map(abs, total)))
        return total

    def _finite(self, total: float) -> float:
        try:
            return trainable(total)
        except ValueError as error:
            raise ValueError(f"the weighted sum of the rewards ({', '.join(self.names)}): {error}") from None


@dataclass(frozen=True)
class Named:
    """Reward that is logged under a different name.

    Attributes:
        reward: the reward to which all calls are delegated.
        name: the name in logs, in place of the reward's own.
    """

    reward: Reward
    name: str

    @property
    def __wrapped__(self) -> Reward:
        """The delegate; ``inspect`` follows this attribute to its signature and kind (sync or async)."""
        return self.reward

    @property
    def combination(self) -> Combination | None:
        """The combination that is renamed; None if the reward is none."""
        return combination_of(self.reward)

    @property
    def required_columns(self) -> Sequence[str]:
        """Columns that the reward requires."""
        return tuple(getattr(self.reward, "required_columns", ()))

    @property
    def expected(self) -> Any:
        """E[R | y] of a noisy reward; raises AttributeError if the reward declares none."""
        reward: Any = self.reward
        return reward.expected

    def __call__(self, *arguments: Any, **columns: Any) -> Any:
        """Call the reward; returns its scores, or an awaitable of them."""
        return self.reward(*arguments, **columns)

    def bind(self, tokenizer: Any) -> Named:
        """Bind the reward to the policy's tokenizer; see :meth:`WeightedRewards.bind`."""
        return replace(self, reward=bound(self.reward, tokenizer))

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that the reward can read the task's texts; see :meth:`WeightedRewards.check_lengths`."""
        if hasattr(self.reward, "check_lengths"):
            self.reward.check_lengths(prompts, max_new_tokens, end_token_ids, stops)


def compose(
    reward: Reward | Sequence[Part], weights: Sequence[float] | None = None, timeout: float | None = None
) -> WeightedRewards:
    """Combine one reward, a list of rewards, or a list of ``(reward, weight)`` into a :class:`WeightedRewards`.

    Weighted sums among the components are flattened, so that each of their parts is logged. Two components of the
    same name become ``length`` and ``length_2``.

    Args:
        reward: one component, or several.
        weights: one for each component, 1 by default; multiplied with a weight given in ``reward``.
        timeout: time limit of one call of a component, in seconds. A slower component is named by a RewardError.
            Rewards then run in separate threads. None keeps the limits of weighted sums in ``reward``.

    Raises:
        TypeError: a component is not callable, or does not accept ``**kwargs``.
        ValueError: ``reward`` is empty, the number of weights is wrong, a weight is not finite, or the timeout is not
            positive.
    """
    if timeout is not None:
        timeout = finite("timeout", timeout, above=0, high=LONGEST_WAIT)
    parts = list(reward) if isinstance(reward, Sequence) else [reward]
    if not parts:
        raise ValueError("reward: got an empty list, expected at least one reward")
    factors = [1.0] * len(parts) if weights is None else list(weights)
    if len(factors) != len(parts):
        raise ValueError(f"weights: got {len(factors)} for {len(parts)} rewards, expected one for each")
    flat = [leaf for part, factor in zip(parts, factors, strict=True) for leaf in _leaves(part, factor)]
    rewards = tuple(r for r, _ in flat)
    # Without a timeout of its own the sum keeps the strictest limit of its parts.
    limits = [seconds for part in parts for seconds in _limits(part)] if timeout is None else [timeout]
    limit = min(limits, default=None)
    return WeightedRewards(rewards, tuple(w for _, w in flat), _unique([reward_name(r) for r in rewards]), limit)


def _leaves(part: Part, factor: float) -> list[tuple[Reward, float]]:
    reward, weight = part if isinstance(part, tuple) else (part, 1.0)
    weight = _weight(weight, reward) * _weight(factor, reward)
    # The parts of a weighted sum were checked when it was composed.
    if isinstance(reward, WeightedRewards):
        return [(r, w * weight) for r, w in zip(reward.rewards, reward.weights, strict=True)]
    check_signature(reward)
    return [(reward, weight)]


def _limits(part: Part) -> list[float]:
    """Return the time limits of all weighted sums in a part."""
    found = combination_of(part[0] if isinstance(part, tuple) else part)
    if found is None:
        return []
    own = [found.timeout] if isinstance(found, WeightedRewards) and found.timeout is not None else []
    return [*own, *(seconds for inner in found.parts for seconds in _limits(inner))]


def _weight(weight: Any, reward: Callable[..., Any]) -> float:
    return finite(f"weight of {reward_name(reward)!r}", weight)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    unique: list[str] = []
    for name in names:
        count, candidate = 1, name
        # Counting on until the name is free also handles a reward that is itself named "length_2".
        while candidate in unique:
            count += 1
            candidate = f"{name}_{count}"
        unique.append(candidate)
    return tuple(unique)


def _logged(score: Score) -> float:
    number = summed(score)
    return math.nan if number is None else number
