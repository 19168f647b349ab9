"""ReMax (Li 2023, arXiv 2310.10505): REINFORCE against the score of the greedy response."""

from __future__ import annotations

from textgym.agents.advantages import Advantages, greedy_baseline, spread
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Scored
from textgym.agents.settings import OnPolicySettings


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
