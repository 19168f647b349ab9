"""The clipped ratio, which PPO brought and several algorithms share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Minibatch
from textgym.agents.losses import clipped_surrogate, masked_mean, token_ratio
from textgym.agents.policy import Evaluation
from textgym.agents.settings import ClipSettings

BEYOND_TARGET = 1.5  # stable-baselines3's


class ClippedAlgorithm(SequenceAlgorithm):
    """An algorithm whose policy loss is the clipped surrogate, so that it may pass over its episodes several times."""

    settings: ClipSettings
    settings_class: ClassVar[type[ClipSettings]] = ClipSettings

    def ratio(self, log_ratio: Tensor, valid: Tensor) -> Tensor:
        """``[n, T]`` the importance of each token, from log-ratios ``[n, T]``: its own."""
        return token_ratio(log_ratio)

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        ratio = self.ratio(batch.log_ratio(log_probs), batch.valid)
        return clipped_surrogate(ratio, batch.advantages, self.settings.clip_range, self.settings.clip_high)

    def is_too_far(self, logs: Mapping[str, Tensor]) -> bool:
        """Return True if ``approx_kl`` is above 1.5 times ``target_kl``, as in stable-baselines3."""
        target = self.settings.target_kl or math.inf
        return float(logs["approx_kl"]) > BEYOND_TARGET * target

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        ratio = self.ratio(batch.log_ratio(evaluation.log_probs), batch.valid)
        outside = (ratio < 1 - self.settings.clip_range) | (ratio > 1 + self.settings.clip_high)
        return {**super().watch(evaluation, batch), "clip_fraction": masked_mean(outside.float(), batch.valid)}
