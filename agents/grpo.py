"""Algorithms that compare the responses to one prompt with each other: GRPO, GSPO and RLOO."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from textgym.agents.functional.objectives import Advantages, group_relative, leave_one_out, sequence_ratio, spread
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.ppo import ClippedAlgorithm
from textgym.agents.settings import ClipSettings, GroupSettings, Normalisation


@dataclass(frozen=True)
class GRPOSettings(GroupSettings, ClipSettings):
    """As published, the loss is normalised by each response's length and the KL stands in it.

    Dr. GRPO (Liu 2025, arXiv 2503.20783) is ``scale_by_std=False, normalisation="constant"``; DAPO's clip-higher (Yu
    2025, arXiv 2503.14476) is ``clip_range_high=0.28, normalisation="token"``.

    Attributes:
        scale_by_std: whether advantages are divided by their group's standard deviation.
    """

    normalisation: Normalisation = "sequence"
    kl_in_loss: bool = True
    scale_by_std: bool = True


class GRPO(ClippedAlgorithm):
    """k responses to a prompt, no critic, scores standardised in their group, the clipped ratio, the KL in the loss."""

    settings: GRPOSettings
    settings_class = GRPOSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        settings = self.settings
        advantages = group_relative(scored.returns, settings.samples_per_prompt, settings.scale_by_std)
        return spread(advantages, scored.episodes.valid)


class GSPO(GRPO):
    """GRPO with the ratio of the whole sequence (Zheng 2025, arXiv 2507.18071).

    A sequence's ratio is a mean over its tokens, which moves less the more there are: published for responses of
    thousands of tokens are ``clip_range=3e-4, clip_range_high=4e-4``.
    """

    def ratio(self, log_ratio: Tensor, valid: Tensor) -> Tensor:
        return sequence_ratio(log_ratio, valid)


@dataclass(frozen=True)
class RLOOSettings(GroupSettings):
    """One pass over the episodes: nothing keeps a second one near the policy that sampled them."""

    n_epochs: int = 1


class RLOO(SequenceAlgorithm):
    """k responses to a prompt, no critic, each return against the mean of the others, the plain policy gradient."""

    settings: RLOOSettings
    settings_class = RLOOSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        return spread(leave_one_out(scored.returns, self.settings.samples_per_prompt), scored.episodes.valid)
