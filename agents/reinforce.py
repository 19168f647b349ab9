"""REINFORCE (Williams 1992) with the batch's mean as baseline, as in REINFORCE++ (Hu 2025, arXiv 2501.03262)."""

from __future__ import annotations

from textgym.agents.advantages import Advantages, monte_carlo, whiten
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Scored
from textgym.agents.settings import OnPolicySettings


class Reinforce(SequenceAlgorithm):
    """No critic, returns whitened over the batch, the plain policy gradient, and the KL in the reward."""

    settings: OnPolicySettings
    settings_class = OnPolicySettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        valid = scored.episodes.valid
        estimated = monte_carlo(scored.shaped, scored.values, valid)
        return Advantages(whiten(estimated.advantages, valid), estimated.returns)
