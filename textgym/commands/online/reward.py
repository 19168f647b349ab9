"""The reward of an online run: the newest reward model that the learner has taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from textgym.commands.online.schedule import Version
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.normalised import NormalisedReward
from textgym.types import Messages, Prompt

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedTokenizerBase


class CurrentReward:
    """Reward function that delegates to the reward model of the present iteration.

    One object is the reward of training and of evaluations, so that all of them change at once. It changes between
    iterations only.

    Args:
        reader: an untrained reward model, with which lengths are checked before the first version.
    """

    name = "reward_model"

    def __init__(self, reader: RewardModel) -> None:
        self.reader = reader
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.version: Version | None = None
        self._reward: NormalisedReward | None = None

    def use(self, reward: NormalisedReward, version: Version) -> None:
        """Score by a reward model from now on."""
        assert self.tokenizer is not None, "the token MDP binds its reward"
        self._reward, self.version = reward.bind(self.tokenizer), version

    def __call__(
        self,
        prompts: list[str | Messages],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float]:
        """Return ``N`` scores; see :meth:`textgym.rewards.RewardModel.__call__`."""
        assert self._reward is not None, "the first version is taken before anything is scored"
        return self._reward(prompts, completions, completion_ids=completion_ids, **columns)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Remember the policy's tokenizer, to which every version is bound; return this same object."""
        self.tokenizer = tokenizer
        self.reader = self.reader.bind(tokenizer)
        return self

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that reward models can read the task's texts: see :meth:`textgym.rewards.RewardModel.check_lengths`."""
        self.reader.check_lengths(prompts, max_new_tokens, end_token_ids, stops)

    @property
    def signature(self) -> str:
        """The version and its digest."""
        if self.version is None:
            return self.name
        return f"{self.name}(version {self.version.number} of {self.version.labels} labels #{self.version.digest[:8]})"
