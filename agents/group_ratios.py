"""Algorithms that replace GRPO's clipped ratio: GSPO, LUSPO, GMPO, CISPO, DPPO, SAPO and VESPO.

Sampling, advantages, passes and optimiser are those of :class:`textgym.agents.grpo.GRPO`, but that CISPO and SAPO take
one pass by default. At an iteration's first minibatch, where π = π_old, all have the same gradient, up to the weights
of tokens and responses; they differ in what becomes of a token whose probability has changed since it was sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from textgym.agents.functional.objectives import (
    Distance,
    binary_kl,
    binary_tv,
    gamma_weight,
    geometric_ratio,
    leaves_region,
    sequence_ratio,
    soft_gate,
    weighted_policy_gradient,
)
from textgym.agents.grpo import GRPO, Standardised
from textgym.agents.loop.episodes import Minibatch
from textgym.agents.ppo import ClippedAlgorithm
from textgym.agents.settings import (
    BinaryDistance,
    CISPOSettings,
    DPPOSettings,
    GMPOSettings,
    GSPOSettings,
    LUSPOSettings,
    SAPOSettings,
    VESPOSettings,
)


class GSPO(GRPO):
    """Group sequence policy optimisation (Zheng 2025, arXiv 2507.18071): GRPO with one ratio for each response.

    Sampling, advantages, passes and optimiser are those of :class:`GRPO`; the loss of a minibatch of n responses is

        A_i = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        s_i = exp( 1/|y_i| Σ_t log(π(y_it|s_it) / π_old(y_it|s_it)) )

        L = 1/n Σ_i [ −min(s_i·A_i, clip(s_i, 1 − ε, 1 + ε')·A_i) + 1/|y_i| Σ_t (β·KL_it − c_H·H(π(·|s_it))) ]

    - R_i is the score of response i; k is ``samples_per_prompt``.
    - ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None. s_i is a geometric mean over tokens,
      which moves less the longer the response is: for responses of thousands of tokens the authors publish
      ``clip_range=3e-4, clip_range_high=4e-4``.
    - The KL is that of GRPO, by ``kl_estimator``. With ``"exact"``, all tokens of a response share one advantage:
      F_i = Σ_t D_it over the whole response takes the place of F_it.
    - β is the present value of ``beta``; c_H is ``ent_coef``.

    Sources: L without the KL is equation 5 of Zheng 2025, s_i its equation 7. The paper leaves the KL out of its
    equations; ``beta=0`` does the same here.

    Differences: with ``kl_estimator="k3-corrected"``, TRL multiplies k3 by s_i; here it is multiplied by the ratio of
    the token, as at :class:`GRPO`, since otherwise its gradient is not that of the KL in each state.
    """

    settings: GSPOSettings
    settings_class = GSPOSettings
    shared_advantage = True

    def ratio(self, log_ratio: Tensor, own: Tensor) -> Tensor:
        """Return each response's ratio s_i for all of its tokens, ``[n, T]``."""
        return sequence_ratio(log_ratio, own)


class LUSPO(GSPO):
    """Length-unbiased sequence policy optimisation (Liu 2026, arXiv 2602.05261): GSPO weighted by length.

    The loss of a minibatch of n responses is that of :class:`GSPO` with each response's term times its length:

        L = 1/n Σ_i |y_i|/T [ −min(s_i·A_i, clip(s_i, 1 − ε, 1 + ε')·A_i) ]
          + 1/n Σ_i 1/T Σ_t (β·KL_it − c_H·H(π(·|s_it)))

    The exponent 1/|y_i| of GSPO's ratio divides its gradient by the length, so that short responses count more; the
    factor takes that back. T is the horizon (``normalisation="constant"``), a constant that neither the paper nor TRL
    has: the loss of TRL is T times this one.
    """

    settings: LUSPOSettings
    settings_class = LUSPOSettings


class GMPO(Standardised, ClippedAlgorithm):
    """Geometric-mean policy optimisation (Zhao 2025, arXiv 2507.20673): clipped ratios, averaged geometrically.

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        l_it = log(π(y_it|s_it) / π_old(y_it|s_it))
        l'_it = min(l_it, ε') if A_i > 0, else max(l_it, −ε)

        L = 1/n Σ_i [ −exp( 1/|y_i| Σ_t l'_it )·A_i + 1/|y_i| Σ_t (β·KL_it − c_H·H(π(·|s_it))) ]

    Outlying ratios weigh less in a geometric mean than in the arithmetic one of GRPO, so that the clip range can be
    wider. ε is ``clip_range``, ε' is ``clip_range_high`` or ε, both in nats of the log-ratio: the published range of
    ratios is e^−0.4 to e^0.4. TRL's GMPO has the plain k3 as its only KL.
    """

    settings: GMPOSettings
    settings_class = GMPOSettings
    shared_advantage = True

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the bounds of a token's ratio, e^−ε and e^ε'."""
        return math.exp(-self.settings.clip_range), math.exp(self.clip_high)

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return each response's loss for all of its tokens, ``[n, T]``."""
        low, high = self.settings.clip_range, self.clip_high
        return -geometric_ratio(batch.log_ratio(log_probs), batch.advantages, batch.own, low, high) * batch.advantages


class CISPO(Standardised, ClippedAlgorithm):
    """Clipped importance sampling weights (MiniMax 2025, arXiv 2506.13585): the weight is clipped, no token is dropped.

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        ρ_it = π(y_it|s_it) / π_old(y_it|s_it)

        L = mean_it[ −sg(clip(ρ_it, 1 − ε, 1 + ε'))·A_i·log π(y_it|s_it) + β·KL_it − c_H·H(π(·|s_it)) ]

    sg stands for a value that is not differentiated: the gradient is REINFORCE's, weighted. PPO's loss has gradient 0
    on clipped tokens. mean_it goes over the tokens of the minibatch (``normalisation="token"``).

    ε is ``clip_range``, 1 by default for no lower bound, as published; ε' is ``clip_range_high``. TRL's
    ``epsilon_high`` is the bound 1 + ε' itself, and with its default of 0.2 nearly all tokens have the same weight.
    """

    settings: CISPOSettings
    settings_class = CISPOSettings

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the policy gradient of each token, weighted by its clipped ratio, ``[n, T]``."""
        weight = self.ratio(batch.log_ratio(log_probs), batch.own).clamp(*self.bounds)
        return weighted_policy_gradient(weight, log_probs, batch.advantages)


class DPPO(Standardised):
    """Divergence proximal policy optimisation (Qi 2026, arXiv 2602.04879): a trust region in place of the clip.

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        ρ_it = π(y_it|s_it) / π_old(y_it|s_it)
        M_it = 0 if D_it > δ and (ρ_it − 1)·A_i > 0, else 1

        L = mean_it[ −M_it·ρ_it·A_i + β·KL_it − c_H·H(π(·|s_it)) ]

    D_it is the distance of the chosen token's probability p = π from μ = π_old: |p − μ| with ``distance="tv"``, or
    μ·log(μ/p) + (1 − μ)·log((1 − μ)/(1 − p)) with ``"kl"``. δ is ``max_distance``, by default 0.2 and 0.05.

    A ratio says little about rare tokens: from 0.001 to 0.002 is a ratio of 2 and hardly a step, from 0.6 to 0.72 one
    of 1.2 and a large one. D measures the step. mean_it goes over the tokens of the minibatch.

    Differences: μ is the sampling policy as this package computed it; there is no second engine whose probabilities
    differ. The published truncation of ρ is left out.
    """

    settings: DPPOSettings
    settings_class = DPPOSettings

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the unclipped loss −ρ·A of the tokens within the trust region, and 0 of the others, ``[n, T]``."""
        distance, default = REGIONS[self.settings.distance]
        log_ratio, limit = batch.log_ratio(log_probs), self.settings.max_distance or default
        outside = leaves_region(log_ratio, batch.advantages, distance(log_probs, batch.log_probs), limit)
        return (-self.ratio(log_ratio, batch.own) * batch.advantages).masked_fill(outside, 0.0)


REGIONS: Mapping[BinaryDistance, tuple[Distance, float]] = {"tv": (binary_tv, 0.2), "kl": (binary_kl, 0.05)}
"""Distances of DPPO with their default limits δ."""


class SAPO(Standardised):
    """Soft adaptive policy optimisation (Gao 2025, arXiv 2511.20347): a smooth gate in place of the clip.

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        ρ_it = π(y_it|s_it) / π_old(y_it|s_it)

        L = 1/n Σ_i 1/|y_i| Σ_t [ −(4/τ)·σ(τ(ρ_it − 1))·A_i + β·KL_it − c_H·H(π(·|s_it)) ]

    The derivative with respect to ρ is −A_i at ρ = 1 and falls off on both sides, the faster the greater τ. τ is
    ``tau`` where A_i > 0, otherwise ``tau_negative``, which is steeper, since what lowers one token raises all others.
    """

    settings: SAPOSettings
    settings_class = SAPOSettings

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the gated loss of each token, ``[n, T]``."""
        ratio = self.ratio(batch.log_ratio(log_probs), batch.own)
        return soft_gate(ratio, batch.advantages, self.settings.tau, self.settings.tau_negative)


class VESPO(Standardised):
    """Variational sequence-level soft policy optimisation (Shen 2026, arXiv 2602.10693): a soft weight of responses.

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        W_i  = Π_t π(y_it|s_it) / π_old(y_it|s_it)
        φ_i  = W_i^κ·exp(λ·(1 − W_i))

        L = mean_it[ −sg(φ_i)·A_i·log π(y_it|s_it) + β·KL_it − c_H·H(π(·|s_it)) ]

    φ is 1 for an unchanged policy, and vanishes for responses that have become far more or far less likely. (κ, λ) is
    (``k_positive``, ``decay_positive``) where A_i ≥ 0, otherwise (``k_negative``, ``decay_negative``). sg stands for a
    value that is not differentiated; mean_it goes over the tokens of the minibatch. W is the whole product, without
    GSPO's exponent 1/|y|.
    """

    settings: VESPOSettings
    settings_class = VESPOSettings
    shared_advantage = True

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the policy gradient of each token, weighted by its response's φ, ``[n, T]``."""
        settings, gains = self.settings, batch.advantages >= 0
        k = torch.where(gains, settings.k_positive, settings.k_negative)
        decay = torch.where(gains, settings.decay_positive, settings.decay_negative)
        return weighted_policy_gradient(gamma_weight(batch.log_ratio(log_probs), k, decay), log_probs, batch.advantages)
