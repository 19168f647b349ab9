"""Sampling baselines: sample n responses to each prompt, keep the best, imitate it."""

from __future__ import annotations

import numpy as np

from textgym.agents.advantages import Advantages, best_of_groups, spread
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Scored
from textgym.agents.metrics import mean_and_error
from textgym.agents.settings import GroupSettings


class ExpertIteration(SequenceAlgorithm):
    """n responses to a prompt, the best of them by shaped reward, negative log-likelihood (Anthony 2017, 1705.08439).

    With a majority vote as the reward it is self-improvement (Huang 2022, arXiv 2210.11610). The discarded responses
    count in the budget.
    """

    settings: GroupSettings
    settings_class = GroupSettings

    def select(self, scored: Scored) -> Scored:
        best = scored.take(best_of_groups(scored.returns, self.settings.samples_per_prompt))
        for name, value in mean_and_error("best_score", best.episodes.rewards.sum(1)).items():
            self.logger.record(f"rollout/{name}", value)
        return best

    def estimate_advantages(self, scored: Scored) -> Advantages:
        return spread(np.ones(len(scored.episodes)), scored.episodes.valid)
