"""REINFORCE leave-one-out (Kool 2019; Ahmadian 2024, arXiv 2402.14740)."""

from __future__ import annotations

from textgym.agents.advantages import Advantages, leave_one_out, spread
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Scored
from textgym.agents.settings import RLOOSettings


class RLOO(SequenceAlgorithm):
    """k responses to a prompt, no critic, each return against the mean of the others, the plain policy gradient."""

    settings: RLOOSettings
    settings_class = RLOOSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        return spread(leave_one_out(scored.returns, self.settings.samples_per_prompt), scored.episodes.valid)
