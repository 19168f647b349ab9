"""Gold rewards of real tasks: by name from the shelf, or to be given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from textgym.rewards.builtin import NAMED
from textgym.rewards.compose import WeightedRewards
from textgym.rewards.signatures import signature
from textgym.rewards.specs.resolve import resolve_reward
from textgym.types import Prompt, RewardFunction


def shelf_reward(spec: str | RewardFunction) -> WeightedRewards:
    """Return the reward that a specification names: the one place at which these tasks ask the shelf.

    Raises:
        ValueError, ImportError, FileNotFoundError: there is no such reward, or it lacks a package or a model.
    """
    return resolve_reward(spec, NAMED)


@dataclass(frozen=True)
class ShelfGold:
    """Gold reward by its name on the shelf, made when it is first needed: at the latest before training begins.

    So a task can be loaded for another reward although gold lacks an optional package.

    Attributes:
        spec: a specification, as ``--reward`` takes it, or a reward.
        bound: the reward, if it is bound to a policy's tokenizer.
    """

    spec: str | RewardFunction
    bound: WeightedRewards | None = field(default=None, repr=False, compare=False)

    name = "gold"

    @cached_property
    def reward(self) -> WeightedRewards:
        """The reward itself."""
        return self.bound or shelf_reward(self.spec)

    @property
    def required_columns(self) -> Sequence[str]:
        """Columns that the reward requires."""
        return [name for each in self.reward.rewards for name in getattr(each, "required_columns", ())]

    @property
    def signature(self) -> str:
        """The reward's own signature."""
        return signature(self.reward)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[float | list[float]]:
        """Return the scores."""
        return self.reward(prompts, completions, completion_ids=completion_ids, **columns)

    def bind(self, tokenizer: Any) -> ShelfGold:
        """Bind the reward to the policy's tokenizer."""
        return replace(self, bound=self.reward.bind(tokenizer))

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that the reward can read the task's texts."""
        self.reward.check_lengths(prompts, max_new_tokens, end_token_ids, stops)


@dataclass(frozen=True)
class UnsetGold:
    """Gold reward that needs a model, which the user has not given; it refuses to score.

    Training with another reward leaves it out, instead of measuring it beside.

    Attributes:
        task: name of the task.
        needed: what to pass.
    """

    task: str
    needed: str

    name = "gold"

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[float]:
        """Refuse."""
        raise self._error

    def bind(self, tokenizer: Any) -> UnsetGold:
        """Refuse before training begins."""
        raise self._error

    @property
    def _error(self) -> ValueError:
        return ValueError(
            f"the gold reward of task {self.task} needs a model: {self.needed}. On the command line that is "
            "--parameters gold SPEC; or train with another reward, --reward SPEC"
        )
