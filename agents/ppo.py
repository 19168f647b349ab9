"""Proximal policy optimisation (Schulman 2017, arXiv 1707.06347), as it is used on language."""

from __future__ import annotations

from textgym.agents.advantages import Advantages, gae, whiten
from textgym.agents.batches import Scored
from textgym.agents.clipped import ClippedAlgorithm
from textgym.agents.settings import PPOSettings


def whitened_gae(scored: Scored, lam: float) -> Advantages:
    """Generalised advantages of the shaped rewards, whitened over the iteration's tokens."""
    episodes = scored.episodes
    estimated = gae(scored.shaped, scored.values, episodes.valid, lam, episodes.truncated)
    return Advantages(whiten(estimated.advantages, episodes.valid), estimated.returns)


class PPO(ClippedAlgorithm):
    """A critic, generalised advantages whitened over the batch, the clipped ratio, and the KL in the reward.

    Settings: ``gae_lambda``, ``clip_range`` (and ``clip_range_high``), ``clip_range_vf``, ``vf_coef``, and those that
    all algorithms share. The other arguments are those of :class:`textgym.agents.algorithm.SequenceAlgorithm`.
    """

    settings: PPOSettings
    settings_class = PPOSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        return whitened_gae(scored, self.settings.gae_lambda)
