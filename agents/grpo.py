"""Algorithms whose baseline is the other responses to the same prompt: GRPO, Dr. GRPO, MaxRL and RLOO."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from textgym.agents.functional.objectives import (
    Advantages,
    group_relative,
    leave_one_out,
    response_ratio,
    share_of_success,
    spread,
)
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Minibatch, Scored
from textgym.agents.policy.lm_policy import Evaluation
from textgym.agents.ppo import ClippedAlgorithm, RatioAlgorithm
from textgym.agents.settings import (
    ClippedRLOOSettings,
    DrGRPOSettings,
    GRPOSettings,
    MaxRLSettings,
    PublishedGRPOSettings,
    RLOOSettings,
    StandardisedSettings,
)
from textgym.moved import find_moved


class Standardised(RatioAlgorithm):
    """Base class of algorithms that standardise a response's score among those to the same prompt."""

    settings: StandardisedSettings
    settings_class: ClassVar[type[StandardisedSettings]] = StandardisedSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Standardise the responses' returns within each prompt's group."""
        settings, k = self.settings, self.settings.samples_per_prompt
        advantages = group_relative(scored.returns, k, settings.scale_by_std, settings.bessel)
        return spread(advantages, scored.episodes.own)


class GRPO(Standardised, ClippedAlgorithm):
    """Group relative policy optimisation (Shao 2024, arXiv 2402.03300), with the KL in the loss and no critic.

    An iteration samples k = ``samples_per_prompt`` responses y_1 … y_k to each prompt x from π_old, the policy as it is
    then, ``episodes_per_iteration`` in all. ``n_epochs`` passes over these responses, reshuffled for each pass and
    cut into minibatches of n = ``minibatch_size`` responses, take a gradient step on L for each minibatch:

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        ρ_it = π(y_it|s_it) / π_old(y_it|s_it)

        L = 1/n Σ_i 1/|y_i| Σ_t [ −min(ρ_it·A_it, clip(ρ_it, 1 − ε, 1 + ε')·A_it) + β·KL_it − c_H·H(π(·|s_it)) ]

    - s_it is the prompt with the tokens before y_it; |y_i| counts the tokens of response i, its end token included.
    - R_i is the score of response i, the sum of its rewards; mean and std are those of its group, std with divisor
      k − 1 (``bessel=True``, as in TRL) or k. A_it is A_i, less what the KL adds to it (below).
    - ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None.
    - β is the present value of ``beta``; c_H is ``ent_coef``, 0 by default and as published.
    - π, π_old and π_ref are behaviour distributions, after the temperature and masks of ``sampling``. π_ref does not
      change during training.

    The KL in the loss is estimated as ``kl_estimator`` says, with r_it = π_ref(y_it|s_it) / π(y_it|s_it):

        "exact"         KL_it = D_it = Σ_v π(v|s_it)·log(π(v|s_it) / π_ref(v|s_it))
                        F_it  = Σ_{u>t} D_iu, under π_old
                        A_it  = A_i − β·(F_it − mean_{j≠i} F_jt)
        "k3-corrected"  KL_it = ρ_it·(r_it − 1 − log r_it)
        "k3"            KL_it = r_it − 1 − log r_it

    Where π = π_old, "exact" has the gradient of the KL of whole responses: a token changes D in its own state, which is
    differentiated, and the states that follow, for which its advantage answers. "k3-corrected", TRL's default, has the
    gradient of D in each state, with states held fixed. "k3", as published, has that of KL(π_ref‖π) in each state.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``target_kl`` ends the iteration's
    updates before the first step on a minibatch in which the mean of ρ_it − 1 − log ρ_it over tokens is above
    1.5·``target_kl``.

    Variants: :class:`PublishedGRPO`, :class:`DrGRPO`, :class:`textgym.agents.dapo.DAPO` and the algorithms of
    ``textgym.agents.group_ratios``. ``normalisation="token"`` averages over all tokens of the minibatch. With
    ``kl_in_loss=False`` there is no KL in L, and R_i is the score less β·Σ_t(log π_old − log π_ref). ``pretraining``
    adds γ_ptx times the mean negative log-likelihood of drawn texts.

    Sources: L is equation 3 of Shao 2024, k3 its equation 4, A_i its section 4.1.2 (outcome supervision); the
    corrected k3 is that of DeepSeek-V3.2 (arXiv 2512.02556), and TRL's default.

    Differences:

    - The default of ``kl_estimator`` is not the published one, but the one whose expected gradient is nearest to that
      of E[R] − β·KL(π‖π_ref), by the enumeration of ``docs/gradients.md``.
    - The reference stays the initial model; Shao's iterative variant replaces it between iterations.
    - Minibatches are drawn from all responses of the iteration, so that one need not hold whole groups.
    - The 1e-4 in the denominator is TRL's, whose entropy bonus is a mean over tokens whatever the loss is divided by.
    """

    settings: GRPOSettings
    settings_class = GRPOSettings


class PublishedGRPO(GRPO):
    """GRPO with the KL estimator of Shao 2024 (arXiv 2402.03300): the uncorrected k3, and a divisor of k in std.

        r_it  = π_ref(y_it|s_it) / π(y_it|s_it)
        KL_it = r_it − 1 − log r_it

        L = 1/n Σ_i 1/|y_i| Σ_t [ −min(ρ_it·A_i, clip(ρ_it, 1 − ε, 1 + ε')·A_i) + β·KL_it − c_H·H(π(·|s_it)) ]

    As :class:`GRPO` with ``kl_estimator="k3"`` and ``bessel=False``. The gradient of k3 in the loss is that of
    KL(π_ref‖π) in each state, whose optimum is another policy than that of the objective E[R] − β·KL(π‖π_ref).
    """

    settings: PublishedGRPOSettings
    settings_class = PublishedGRPOSettings


class DrGRPO(GRPO):
    """Dr. GRPO (Liu 2025, arXiv 2503.20783): GRPO without its two divisions, by std and by a response's length.

        A_i = R_i − mean(R_1 … R_k)

        L = 1/n Σ_i 1/T Σ_t [ −min(ρ_it·A_i, clip(ρ_it, 1 − ε, 1 + ε')·A_i) + β·KL_it − c_H·H(π(·|s_it)) ]

    As :class:`GRPO` with ``scale_by_std=False`` and ``normalisation="constant"``; T is the horizon. Dividing by std
    gives most weight to prompts whose responses score nearly alike, and dividing by the length makes long wrong
    responses cheap.

    Differences: as published, there is no KL; ``beta=0`` does the same here.
    """

    settings: DrGRPOSettings
    settings_class = DrGRPOSettings


class MaxRL(ClippedAlgorithm):
    """Maximum likelihood reinforcement learning (Tajwar 2026, arXiv 2602.02710): successes averaged over successes.

    Sampling, passes and optimiser are those of :class:`GRPO`; the loss of a minibatch of n responses is

        A_i = (R_i − mean(R_1 … R_k)) / mean(R_1 … R_k)

        L   = 1/n Σ_i 1/T Σ_t [ −min(ρ_it·A_i, clip(ρ_it, 1 − ε, 1 + ε')·A_i) + β·KL_it − c_H·H(π(·|s_it)) ]

    - R_i is the score of response i, 0 or 1 for failure or success, or any number of at least 0; a group whose scores
      are all 0 has no advantage. k is ``samples_per_prompt``.
    - With pass rate p, the expected gradient of a prompt is (1 − (1 − p)^(k−1))/p times that of p: of log p as k grows.
      ``subtract_mean=False`` makes it (1 − (1 − p)^k)/p, of higher variance.
    - The KL is that of :class:`GRPO`, by ``kl_estimator``; β is the present value of ``beta``.

    Source: the first of these factors, of the centred estimator, is in appendix D of Tajwar 2026 (version 3).

    Differences: clip, KL and the normalisation by T are this package's; ``beta=0`` leaves the KL out.
    """

    settings: MaxRLSettings
    settings_class = MaxRLSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Divide the responses' returns by their mean within each prompt's group.

        Raises:
            ValueError: a score is negative.
        """
        if (least := float(np.min(scored.returns))) < 0:
            fix = "" if self.settings.kl_in_loss else ", or kl_in_loss=True, as the KL in the reward lowers scores"
            raise ValueError(
                f"a response scores {least:.4g}, and MaxRL divides by a mean of scores of at least 0, such as 0 and 1 "
                f"for failure and success; use another reward or algorithm{fix}"
            )
        advantages = share_of_success(scored.returns, self.settings.samples_per_prompt, self.settings.subtract_mean)
        return spread(advantages, scored.episodes.own)


class RLOO(SequenceAlgorithm):
    """REINFORCE with a leave-one-out baseline (Kool 2019; Ahmadian 2024, arXiv 2402.14740), with the KL in the reward.

    An iteration samples k = ``samples_per_prompt`` responses y_1 … y_k to each prompt from π_old,
    ``episodes_per_iteration`` in all. One shuffled pass over them (``n_epochs`` = 1), in minibatches of
    ``minibatch_size`` responses, takes a gradient step on L for each minibatch:

        R_i = score_i − β·Σ_t (log π_old(y_it|s_it) − log π_ref(y_it|s_it))
        A_i = R_i − 1/(k − 1) Σ_{j ≠ i} R_j

        L   = mean_it[ −A_i·log π(y_it|s_it) − c_H·H(π(·|s_it)) ]

    mean_it is the mean over all response tokens of the minibatch (``normalisation="token"``).

    - score_i is the sum of the rewards of response i; β is the present value of ``beta``, and the KL estimator is k1
      summed over the response. All distributions are behaviour distributions, after temperature and masks of
      ``sampling``.
    - c_H is ``ent_coef``, 0 by default and as published.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``normalisation`` and ``kl_in_loss``
    change mean_it and the place of the KL as described at :class:`textgym.agents.ppo.PPO`.

    Source: A_i·log π is equation 8 of Ahmadian 2024.

    Differences: the paper sums log π over the tokens of a response and averages over responses; here the sum is divided
    by the token count of the minibatch, which rescales the loss of a minibatch (``normalisation="constant"`` divides by
    the horizon instead). The pass has several minibatches, and the steps after the first use no importance ratio.
    """

    settings: RLOOSettings
    settings_class = RLOOSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Subtract from each return the mean of the other responses to the prompt."""
        return left_one_out(scored, self.settings.samples_per_prompt)


class ClippedRLOO(ClippedAlgorithm):
    """RLOO with the clipped ratio of whole responses, as TRL's: several passes over the same responses stay near π_old.

    Sampling and advantages are those of :class:`RLOO`, passes and optimiser those of :class:`GRPO`; the loss of a
    minibatch of n responses is

        R_i = score_i − β·Σ_t (log π_old(y_it|s_it) − log π_ref(y_it|s_it))
        A_i = R_i − 1/(k − 1) Σ_{j ≠ i} R_j
        W_i = Π_t π(y_it|s_it) / π_old(y_it|s_it)

        L   = 1/n Σ_i [ −min(W_i·A_i, clip(W_i, 1 − ε, 1 + ε')·A_i) − c_H·1/|y_i| Σ_t H(π(·|s_it)) ]

    ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None. A ratio of whole responses leaves the clip
    range sooner the longer the response is. ``kl_in_loss=True`` adds β·Σ_t KL_it of :class:`GRPO` to each response's
    term: a sum over its tokens, as log W_i is one. All tokens then share one advantage, as in
    :class:`textgym.agents.group_ratios.GSPO`.
    """

    settings: ClippedRLOOSettings
    settings_class = ClippedRLOOSettings
    shared_advantage = True

    def ratio(self, log_ratio: Tensor, own: Tensor) -> Tensor:
        """Return each response's ratio W_i for all of its tokens, ``[n, T]``."""
        return response_ratio(log_ratio)

    def kl_loss(self, evaluation: Evaluation, batch: Minibatch) -> Tensor:
        """Return the sum of the KL over each response for all of its tokens, ``[n, T]``."""
        return super().kl_loss(evaluation, batch).sum(1, keepdim=True).expand_as(evaluation.log_probs)

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Subtract from each return the mean of the other responses to the prompt."""
        return left_one_out(scored, self.settings.samples_per_prompt)


def left_one_out(scored: Scored, k: int) -> Advantages:
    """Give every token its response's return less the mean return of the others to the prompt."""
    return spread(leave_one_out(scored.returns, k), scored.episodes.own)


if not TYPE_CHECKING:  # a type checker must not take every name for one of this module
    __getattr__ = partial(find_moved, __name__)
