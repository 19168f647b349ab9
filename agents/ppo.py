"""Actor-critic algorithms: PPO and A2C; and the clipped ratio, which GRPO, GSPO and NLPO share with PPO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from textgym.agents.functional.objectives import (
    Advantages,
    clipped_surrogate,
    gae,
    masked_mean,
    monte_carlo,
    token_ratio,
    turn_gae,
    whiten,
)
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Minibatch, Scored
from textgym.agents.policy.lm_policy import Evaluation
from textgym.agents.settings import A2CSettings, ClipSettings, GAESettings, PPOSettings, RatioSettings

BEYOND_TARGET = 1.5  # as in stable-baselines3


class RatioAlgorithm(SequenceAlgorithm):
    """Base class of algorithms with an importance ratio, which allows several passes over the same episodes."""

    settings: RatioSettings
    settings_class: ClassVar[type[RatioSettings]] = RatioSettings

    def ratio(self, log_ratio: Tensor, own: Tensor) -> Tensor:
        """Return importance ratios ``[n, T]`` given log-ratios ``[n, T]``: each token's own ratio."""
        return token_ratio(log_ratio)

    def is_too_far(self, logs: Mapping[str, Tensor]) -> bool:
        """Return True if ``approx_kl`` is above 1.5 times ``target_kl``, as in stable-baselines3."""
        target = self.settings.target_kl or math.inf
        return float(logs["approx_kl"]) > BEYOND_TARGET * target


class ClippedAlgorithm(RatioAlgorithm):
    """Base class of algorithms with a clipped ratio, by default in the surrogate loss of PPO.

    A subclass estimates advantages, and may override :meth:`ratio` and :meth:`policy_loss`.
    """

    settings: ClipSettings
    settings_class: ClassVar[type[ClipSettings]] = ClipSettings

    @property
    def clip_high(self) -> float:
        """Upper clip range ε': the ratio is clipped to at most 1 + ε'."""
        low, high = self.settings.clip_range, self.settings.clip_range_high
        return low if high is None else high

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the bounds of the ratio, 1 − ε and 1 + ε'."""
        return 1 - self.settings.clip_range, 1 + self.clip_high

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the clipped surrogate loss of each token, ``[n, T]``."""
        ratio = self.ratio(batch.log_ratio(log_probs), batch.own)
        return clipped_surrogate(ratio, batch.advantages, self.settings.clip_range, self.clip_high)

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        """Return the logs of the base class, and ``clip_fraction``, the share of tokens outside the clip range."""
        ratio = self.ratio(batch.log_ratio(evaluation.log_probs), batch.own)
        low, high = self.bounds
        outside = (ratio < low) | (ratio > high)
        return {**super().watch(evaluation, batch), "clip_fraction": masked_mean(outside.float(), batch.own)}


def whitened_gae(scored: Scored, settings: GAESettings) -> Advantages:
    """Compute generalised advantages of the shaped rewards, whitened over the iteration's tokens."""
    episodes = scored.episodes
    estimate = turn_gae if settings.credit == "turn" else gae
    estimated = estimate(scored.shaped, scored.values, episodes.own, settings.gae_lambda, episodes.truncated)
    return Advantages(whiten(estimated.advantages, episodes.own), estimated.returns)


class PPO(ClippedAlgorithm):
    """Proximal policy optimisation (Schulman 2017, arXiv 1707.06347) with a KL penalty in the reward.

    An iteration samples one response y_1 … y_T to each of ``episodes_per_iteration`` prompts from π_old, the policy as
    it is then, and records the critic's values V_old. ``n_epochs`` passes over these responses, reshuffled for each
    pass and cut into minibatches of ``minibatch_size`` responses, take a gradient step on L for each minibatch:

        r_t  = score_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        δ_t  = r_t + V_old(s_{t+1}) − V_old(s_t)
        Â_t  = Σ_l λ^l·δ_{t+l}
        G_t  = Â_t + V_old(s_t)
        A_t  = (Â_t − mean(Â)) / (std(Â) + 1e-8)
        ρ_t  = π(y_t|s_t) / π_old(y_t|s_t)
        V'_t = V_old(s_t) + clip(V(s_t) − V_old(s_t), −ε_V, ε_V)

        L    = mean_t[ −min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε')·A_t) ]
             + c_V·mean_t[ ½·max((V(s_t) − G_t)², (V'_t − G_t)²) ]
             − c_H·mean_t[ H(π(·|s_t)) ]

    mean and std (with divisor N) in A_t are taken over all response tokens of the iteration; mean_t over the response
    tokens of the minibatch. The discount γ is 1.

    - s_t is the prompt with the tokens before y_t; score_t is the reward of the environment, usually the whole score at
      the last token. V(s_{T+1}) is 0, unless a wrapper outside the task truncated the response.
    - π, π_old and π_ref are behaviour distributions, after the temperature and masks of ``sampling``. The KL estimator
      is k1, the log-ratio of the sampled token; β is ``beta``, or its present value if it is a controller.
    - λ is ``gae_lambda``; ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None.
    - ε_V is ``clip_range_vf``, c_V is ``vf_coef``, c_H is ``ent_coef``.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``target_kl`` ends the iteration's
    updates before the first step on a minibatch in which mean_t[ρ_t − 1 − log ρ_t] is above 1.5·``target_kl``.

    In a conversation, t runs over the tokens that the policy chose; s_{t+1} of a turn's last token is the state before
    the next turn's first. ``credit="turn"`` makes each turn one action: r is then the sum over its tokens, V_old that
    of its first state, and all its tokens have its Â and G.

    Options of all algorithms: ``normalisation`` replaces mean_t in the policy and entropy terms by a mean per response
    (``"sequence"``) or by a sum over each response divided by the horizon (``"constant"``), averaged over responses.
    ``kl_in_loss=True`` leaves the KL out of r_t and adds β·mean_t[KL_t] to L, estimated by ``kl_estimator`` as
    :class:`textgym.agents.grpo.GRPO` describes it. ``pretraining`` adds γ_ptx times the mean negative log-likelihood of
    drawn texts (Ouyang 2022, arXiv 2203.02155, eq. 2).

    Sources: L is equation 9 of Schulman 2017 with the surrogate of equation 7; Â_t is equation 16 of Schulman 2015
    (arXiv 1506.02438); r_t is equation 2 of Ziegler 2019 (arXiv 1909.08593); the clipped value loss is that of
    Schulman's published code.

    Differences:

    - Advantages are whitened once over the iteration, as by Ziegler; stable-baselines3 whitens each minibatch, and the
      paper does not whiten.
    - The value loss takes the maximum of the clipped and the unclipped error, times ½. stable-baselines3 has neither
      the maximum nor the ½, and by default does not clip values.
    - γ is fixed to 1 (stable-baselines3: 0.99 by default), as a response is paid as a whole.
    """

    settings: PPOSettings
    settings_class = PPOSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Compute generalised advantages, whitened over the iteration, and value targets."""
        return whitened_gae(scored, self.settings)


class A2C(SequenceAlgorithm):
    """Advantage actor-critic (Mnih 2016, arXiv 1602.01783) on whole responses, with a KL penalty in the reward.

    An iteration samples one response y_1 … y_T to each of ``episodes_per_iteration`` prompts from π_old and records the
    critic's values V_old. One shuffled pass over them (``n_epochs`` = 1), in minibatches of ``minibatch_size``
    responses, takes a gradient step on L for each minibatch:

        r_t  = score_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        G_t  = Σ_{u ≥ t} r_u
        Â_t  = G_t − V_old(s_t)
        A_t  = (Â_t − mean(Â)) / (std(Â) + 1e-8)
        V'_t = V_old(s_t) + clip(V(s_t) − V_old(s_t), −ε_V, ε_V)

        L    = mean_t[ −A_t·log π(y_t|s_t) ]
             + c_V·mean_t[ ½·max((V(s_t) − G_t)², (V'_t − G_t)²) ]
             − c_H·mean_t[ H(π(·|s_t)) ]

    mean and std (with divisor N) in A_t are taken over all response tokens of the iteration; mean_t over those of the
    minibatch. The discount γ is 1.

    - score_t is the reward of the environment, usually the whole score at the last token; β is the present value of
      ``beta``, and the KL estimator is k1. All distributions are behaviour distributions, after temperature and masks
      of ``sampling``.
    - ε_V is ``clip_range_vf``, c_V is ``vf_coef``, c_H is ``ent_coef``.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``normalisation`` and ``kl_in_loss``
    change mean_t and the place of the KL as described at :class:`PPO`.

    Differences from the paper and from stable-baselines3: returns of whole responses instead of n-step returns,
    whitened advantages, the clipped value loss of PPO, and Adam instead of RMSprop. The pass has several minibatches,
    and the steps after the first use no importance ratio.
    """

    settings: A2CSettings
    settings_class = A2CSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Compute return minus value, whitened over the iteration, and returns as value targets."""
        episodes = scored.episodes
        estimated = monte_carlo(scored.shaped, scored.values, episodes.own, episodes.truncated)
        return Advantages(whiten(estimated.advantages, episodes.own), estimated.returns)
