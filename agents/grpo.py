"""Group-relative policy optimisation (Shao 2024, arXiv 2402.03300) and what became of it."""

from __future__ import annotations

from torch import Tensor

from textgym.agents.advantages import Advantages, group_relative, spread
from textgym.agents.batches import Scored
from textgym.agents.clipped import ClippedAlgorithm
from textgym.agents.losses import sequence_ratio
from textgym.agents.settings import GRPOSettings


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
