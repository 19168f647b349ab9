"""Natural language policy optimisation (Ramamurthy 2022, arXiv 2210.01241): PPO over a nucleus that follows slowly."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import nn

from textgym.agents.loop.acting import MASK_MODEL
from textgym.agents.loop.checks import restricts_actions
from textgym.agents.policy.lm_policy import Session
from textgym.agents.ppo import PPO, PPOSettings
from textgym.lm.behaviour import NucleusMask
from textgym.numbers import check, count, finite


@dataclass(frozen=True)
class NLPOSettings(PPOSettings):
    """PPO's, and those of the mask.

    Attributes:
        top_mask: the mass of the mask model's nucleus.
        min_tokens_to_keep: so many of its most probable tokens are kept in any case.
        target_update: iterations between refreshes of the mask model.
    """

    top_mask: float = 0.9
    min_tokens_to_keep: int = 1
    target_update: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "min_tokens_to_keep", "target_update")
        check(self, finite, "top_mask", above=0, high=1)


class NLPO(PPO):
    """PPO that samples only what the mask model, a copy of the policy refreshed now and then, finds plausible.

    What the mask kept is stored with the episodes, and training renormalises over it. Everyone who plays the policy
    plays it under the mask.
    """

    settings: NLPOSettings
    settings_class = NLPOSettings

    @property
    def mask(self) -> NucleusMask:
        """The mask, with its model."""
        assert self.policy.mask is not None
        return self.policy.mask

    def check_env(self, env: VecEnv) -> None:
        super().check_env(env)
        if restricts_actions(env):
            raise ValueError("NLPO's mask does not go with a task that restricts actions; expected another task")

    def new_session(self) -> Session:
        if self.policy.mask is None:
            mask = NucleusMask(self.policy.lm, self.settings.top_mask, self.settings.min_tokens_to_keep)
            self.policy.behaviour = replace(self.policy.behaviour, mask=mask)
        return super().new_session()

    def begin_iteration(self) -> None:
        if self.iteration % self.settings.target_update == 0:
            self.mask.refresh(self.policy.lm)

    def extra_modules(self) -> dict[str, nn.Module]:
        return {MASK_MODEL: self.mask.model}
