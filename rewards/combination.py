"""Rewards made of other rewards: what all of them pass on to their parts, and how their scores are computed.

A combination is evaluated from the bottom: its *leaves*, rewards that are no combinations, are all called first, so
that async ones overlap, a large batch is split and a failure names the leaf; combinations then compute their scores
from those of their parts. Each leaf is logged under its own name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from textgym.rewards.functions import (
    ALWAYS_THERE,
    RESERVED,
    Batch,
    Compared,
    Reward,
    RewardError,
    call_rewards,
    check_signature,
    checked_scores,
    compared,
    required_names,
    reward_name,
    strongest,
)
from textgym.types import Prompt, Score

R = TypeVar("R", bound=Reward)


class Combination(ABC):
    """Base class of rewards that are computed from the scores of other rewards, their :attr:`parts`."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Reward, ...]:
        """The rewards that it is made of."""

    @abstractmethod
    def with_parts(self, parts: tuple[Reward, ...]) -> Self:
        """Return a copy with other parts, as many as before."""

    @abstractmethod
    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> Sequence[Score]:
        """Compute the ``N`` scores of a batch.

        Args:
            scores: ``N`` scores of each part.
            batch: ``N`` completions.

        Raises:
            ValueError: the scores cannot be combined.
        """

    @property
    def combination(self) -> Combination:
        """This combination; :class:`textgym.rewards.compose.Named` has one too, if it renames one."""
        return self

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns that the parts require."""
        return required_columns_of(self.parts)

    @property
    def compares(self) -> Compared | None:
        """The others that the parts compare a response with; see :func:`textgym.rewards.functions.compared`."""
        return strongest(map(compared, self.parts))

    def bind(self, tokenizer: Any) -> Self:
        """Return a copy whose parts (reward models, for example) are bound to the policy's tokenizer."""
        return bound(self, tokenizer)

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that parts with a limited context (reward models) can read all that a task can produce.

        Args:
            prompts: the task's prompts.
            max_new_tokens: ``T``.
            end_token_ids: tokens that end a response.
            stops: True if the task's own rule may also end a response.

        Raises:
            ValueError: see :meth:`textgym.rewards.RewardModel.check_lengths`.
        """
        for part in self.parts:
            if hasattr(part, "check_lengths"):
                part.check_lengths(prompts, max_new_tokens, end_token_ids, stops)

    def __call__(
        self, prompts: list[Any], completions: list[Any], *, completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Score]:
        """Score completions, under the signature of a reward."""
        return evaluate([self], Batch(prompts, completions, completion_ids, columns)).scores[0]


@dataclass(frozen=True)
class OneReward(Combination):
    """Base class of combinations that change the scores of one reward.

    Attributes:
        reward: the reward.
    """

    reward: Reward

    def __post_init__(self) -> None:
        check_signature(self.reward)

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The reward."""
        return (self.reward,)

    def with_parts(self, parts: tuple[Reward, ...]) -> Self:
        """Return a copy that changes another reward."""
        return replace(self, reward=parts[0])


def required_columns_of(rewards: Iterable[Reward]) -> tuple[str, ...]:
    """Return the columns that rewards require, without the arguments that every reward receives."""
    names = dict.fromkeys(name for reward in rewards for name in required_names(reward))
    return tuple(name for name in names if name not in (*RESERVED, *ALWAYS_THERE))


def bound(reward: R, tokenizer: Any, done: dict[int, tuple[Reward, Reward]] | None = None) -> R:
    """Return a reward bound to a tokenizer, if it can be; one that stands in several places stays one reward.

    Args:
        reward: the reward.
        tokenizer: the policy's.
        done: rewards that were bound already, with what they became, by the identity of the former.
    """
    done = {} if done is None else done
    given: Any = reward
    if id(reward) not in done:
        made = given
        if isinstance(given, Combination):
            made = given.with_parts(tuple(bound(part, tokenizer, done) for part in given.parts))
        elif hasattr(given, "bind"):
            made = given.bind(tokenizer)
        done[id(reward)] = given, made
    found: Any = done[id(reward)][1]
    return found  # type: ignore[no-any-return]


def combination_of(reward: Reward) -> Combination | None:
    """Return the combination that a reward is, or renames; None for a leaf."""
    found = getattr(reward, "combination", None)
    return found if isinstance(found, Combination) else None


def leaves(reward: Reward) -> list[Reward]:
    """Return the rewards that are called to score with this one: itself, or the leaves of its parts."""
    combination = combination_of(reward)
    return [reward] if combination is None else [leaf for part in combination.parts for leaf in leaves(part)]


def with_all_parts(reward: Reward) -> list[Reward]:
    """Return a reward and all rewards that it is made of, leaves or not."""
    combination = combination_of(reward)
    if combination is None:
        return [reward]
    return [combination, *(found for part in combination.parts for found in with_all_parts(part))]


@dataclass(frozen=True)
class Evaluated:
    """Scores of ``N`` completions.

    Attributes:
        scores: the ``N`` scores of each reward, in their order.
        within: leaves of combinations, each once, and their ``N`` scores.
    """

    scores: list[list[Score]]
    within: list[tuple[Reward, list[Score]]]


def evaluate(rewards: Sequence[Reward], batch: Batch, timeout: float | None = None) -> Evaluated:
    """Score a batch with several rewards, among them combinations; a leaf that occurs twice is called once.

    Args:
        rewards: the rewards.
        batch: ``N`` completions.
        timeout: time limit of one call of a leaf, in seconds; None for no limit.

    Raises:
        RewardError: a leaf failed (see :func:`textgym.rewards.call_reward`), or scores could not be combined.
    """
    called = {id(leaf): leaf for reward in rewards for leaf in leaves(reward)}
    found = dict(zip(called, call_rewards(list(called.values()), batch, timeout), strict=True))
    scores = [_value(reward, found, batch) for reward in rewards]
    return Evaluated(scores, [(leaf, found[id(leaf)]) for leaf in leaves_within(rewards)])


def leaves_within(rewards: Sequence[Reward]) -> list[Reward]:
    """Return the leaves of combinations, each once, without those that are among the rewards themselves."""
    own = set(map(id, rewards))
    called = {id(leaf): leaf for reward in rewards for leaf in leaves(reward)}
    return [leaf for key, leaf in called.items() if key not in own]


def _value(reward: Reward, found: Mapping[int, list[Score]], batch: Batch) -> list[Score]:
    combination = combination_of(reward)
    if combination is None:
        return found[id(reward)]
    parts = [_value(part, found, batch) for part in combination.parts]
    try:
        values = combination.combined(parts, batch)
    except ValueError as error:
        raise RewardError(f"reward {reward_name(reward)!r}: {error}\n{batch.first_described()}") from error
    return checked_scores(reward, values, batch)


def summed(score: Score) -> float | None:
    """Return a score as one number: a dense one's sum."""
    return float(sum(score)) if isinstance(score, Sequence) else score
