"""Policy gradients without a critic: REINFORCE and ReMax."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.agents.functional.objectives import Advantages, greedy_baseline, monte_carlo, spread, whiten
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.settings import Settings


@dataclass(frozen=True)
class OnPolicySettings(Settings):
    """One pass over the episodes: nothing keeps a second one near the policy that sampled them."""

    n_epochs: int = 1


class Reinforce(SequenceAlgorithm):
    """No critic, returns whitened over the batch, the plain policy gradient, and the KL in the reward."""

    settings: OnPolicySettings
    settings_class = OnPolicySettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        valid = scored.episodes.valid
        estimated = monte_carlo(scored.shaped, scored.values, valid)
        return Advantages(whiten(estimated.advantages, valid), estimated.returns)


class ReMax(SequenceAlgorithm):
    """A greedy companion to each prompt's response, no critic, the plain policy gradient.

    The companion counts in the budget; as published, its score is taken without a KL penalty.
    """

    settings: OnPolicySettings
    settings_class = OnPolicySettings
    greedy_companion = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        assert scored.companions is not None
        greedy_scores = scored.companions.rewards.sum(1)
        return spread(greedy_baseline(scored.returns, greedy_scores), scored.episodes.valid)
