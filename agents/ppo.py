"""Algorithms with a critic and generalised advantages: PPO, A2C, and the clipped ratio that PPO brought."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from textgym.agents.functional.objectives import (
    Advantages,
    clipped_surrogate,
    gae,
    masked_mean,
    monte_carlo,
    token_ratio,
    whiten,
)
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Minibatch, Scored
from textgym.agents.policy.lm_policy import Evaluation
from textgym.agents.settings import ClipSettings, CriticSettings, GAESettings

BEYOND_TARGET = 1.5  # stable-baselines3's


class ClippedAlgorithm(SequenceAlgorithm):
    """An algorithm whose policy loss is the clipped surrogate, so that it may pass over its episodes several times."""

    settings: ClipSettings
    settings_class: ClassVar[type[ClipSettings]] = ClipSettings

    @property
    def clip_high(self) -> float:
        """Upper side of the clip: the ratio counts up to 1 + this."""
        low, high = self.settings.clip_range, self.settings.clip_range_high
        return low if high is None else high

    def ratio(self, log_ratio: Tensor, valid: Tensor) -> Tensor:
        """``[n, T]`` the importance of each token, from log-ratios ``[n, T]``: its own."""
        return token_ratio(log_ratio)

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        ratio = self.ratio(batch.log_ratio(log_probs), batch.valid)
        return clipped_surrogate(ratio, batch.advantages, self.settings.clip_range, self.clip_high)

    def is_too_far(self, logs: Mapping[str, Tensor]) -> bool:
        """Return True if ``approx_kl`` is above 1.5 times ``target_kl``, as in stable-baselines3."""
        target = self.settings.target_kl or math.inf
        return float(logs["approx_kl"]) > BEYOND_TARGET * target

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        ratio = self.ratio(batch.log_ratio(evaluation.log_probs), batch.valid)
        outside = (ratio < 1 - self.settings.clip_range) | (ratio > 1 + self.clip_high)
        return {**super().watch(evaluation, batch), "clip_fraction": masked_mean(outside.float(), batch.valid)}


@dataclass(frozen=True)
class PPOSettings(ClipSettings, GAESettings):
    """Defaults as published (Ziegler 2019, Ouyang 2022, Huang 2024)."""


def whitened_gae(scored: Scored, lam: float) -> Advantages:
    """Generalised advantages of the shaped rewards, whitened over the iteration's tokens."""
    episodes = scored.episodes
    estimated = gae(scored.shaped, scored.values, episodes.valid, lam, episodes.truncated)
    return Advantages(whiten(estimated.advantages, episodes.valid), estimated.returns)


class PPO(ClippedAlgorithm):
    """A critic, generalised advantages whitened over the batch, the clipped ratio, and the KL in the reward.

    Settings: ``gae_lambda``, ``clip_range`` (and ``clip_range_high``), ``clip_range_vf``, ``vf_coef``, and those that
    all algorithms share. The other arguments are those of :class:`textgym.agents.loop.algorithm.SequenceAlgorithm`.
    """

    settings: PPOSettings
    settings_class = PPOSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        return whitened_gae(scored, self.settings.gae_lambda)


@dataclass(frozen=True)
class A2CSettings(CriticSettings):
    """One pass over the episodes: nothing keeps a second one near the policy that sampled them."""

    n_epochs: int = 1


class A2C(SequenceAlgorithm):
    """A critic, return minus value whitened over the batch, the plain policy gradient, and the KL in the reward."""

    settings: A2CSettings
    settings_class = A2CSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        episodes = scored.episodes
        estimated = monte_carlo(scored.shaped, scored.values, episodes.valid, episodes.truncated)
        return Advantages(whiten(estimated.advantages, episodes.valid), estimated.returns)
