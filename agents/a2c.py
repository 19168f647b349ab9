"""Advantage actor-critic (Mnih 2016, arXiv 1602.01783), one worker, over whole responses."""

from __future__ import annotations

from textgym.agents.advantages import Advantages, monte_carlo, whiten
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Scored
from textgym.agents.settings import A2CSettings


class A2C(SequenceAlgorithm):
    """A critic, return minus value whitened over the batch, the plain policy gradient, and the KL in the reward."""

    settings: A2CSettings
    settings_class = A2CSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        episodes = scored.episodes
        estimated = monte_carlo(scored.shaped, scored.values, episodes.valid, episodes.truncated)
        return Advantages(whiten(estimated.advantages, episodes.valid), estimated.returns)
