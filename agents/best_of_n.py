"""Imitation of the best sampled responses: expert iteration and distilled best-of-n."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textgym.agents.functional.objectives import Advantages, best_of_groups, spread
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.loop.metrics import mean_and_error
from textgym.agents.policy.lm_policy import Session
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


@dataclass(frozen=True)
class BestOfNSettings(GroupSettings):
    """More samples than elsewhere: n alone decides how far from the reference the policy comes."""

    samples_per_prompt: int = 16


class BestOfN(ExpertIteration):
    """Expert iteration that always samples from the reference, so it learns the best-of-n policy.

    ``rollout/best_score`` is what best-of-n sampling itself earns, at a KL of at most log n − (n−1)/n (Beirami 2024,
    arXiv 2401.01879). The ratio to the sampler drifts away from 1 as the policy leaves the reference.
    """

    settings: BestOfNSettings
    settings_class = BestOfNSettings
    on_policy = False

    def new_session(self) -> Session:
        if self.reference is None:
            raise ValueError(
                "BestOfN samples from a reference that stays as it is, but that of an adapted policy is its own trunk; "
                "pass reference=MODEL, a copy of what the adapters were added to"
            )
        return self.policy.session(self.n_rows, model=self.reference)
