"""Algorithms whose baseline is the other responses to the same prompt: GRPO, GSPO and RLOO."""

from __future__ import annotations

from torch import Tensor

from textgym.agents.functional.objectives import Advantages, group_relative, leave_one_out, sequence_ratio, spread
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.ppo import ClippedAlgorithm
from textgym.agents.settings import GRPOSettings, RLOOSettings


class GRPO(ClippedAlgorithm):
    """Group relative policy optimisation (Shao 2024, arXiv 2402.03300), with the KL in the loss and no critic.

    An iteration samples k = ``samples_per_prompt`` responses y_1 … y_k to each prompt x from π_old, the policy as it is
    then, ``episodes_per_iteration`` in all. ``n_epochs`` passes over these responses, reshuffled for each pass and
    cut into minibatches of n = ``minibatch_size`` responses, take a gradient step on L for each minibatch:

        A_i   = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        ρ_it  = π(y_it|s_it) / π_old(y_it|s_it)
        r_it  = π_ref(y_it|s_it) / π(y_it|s_it)
        k3_it = r_it − 1 − log r_it

        L = 1/n Σ_i 1/|y_i| Σ_t [ −min(ρ_it·A_i, clip(ρ_it, 1 − ε, 1 + ε')·A_i)
                                  + β·k3_it − c_H·H(π(·|s_it)) ]

    - s_it is the prompt with the tokens before y_it; |y_i| counts the tokens of response i, its end token included.
    - R_i is the score of response i, the sum of its rewards; mean and std (with divisor k) are those of
      its group. Every token of a response has the same advantage.
    - ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None.
    - β is the present value of ``beta``; c_H is ``ent_coef``, 0 by default and as published.
    - π, π_old and π_ref are behaviour distributions, after the temperature and masks of ``sampling``. π_ref does not
      change during training.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``target_kl`` ends the iteration's
    updates before the first step on a minibatch in which the mean of ρ_it − 1 − log ρ_it over tokens is above
    1.5·``target_kl``.

    Variants: ``scale_by_std=False`` leaves out the division by the standard deviation; ``normalisation="constant"``
    divides by the horizon instead of |y_i|; both together are Dr. GRPO (Liu 2025, arXiv 2503.20783).
    ``normalisation="token"`` averages over all tokens of the minibatch, and ``clip_range_high=0.28`` is DAPO's
    clip-higher (Yu 2025, arXiv 2503.14476). ``kl_in_loss=False`` drops the k3 term and makes R_i the score less
    β·Σ_t(log π_old − log π_ref). ``pretraining`` adds γ_ptx times the mean negative log-likelihood of drawn texts.

    Sources: L is equation 3 of Shao 2024, k3 its equation 4, A_i its section 4.1.2 (outcome supervision).

    Differences:

    - The reference stays the initial model; Shao's iterative variant replaces it between iterations.
    - Minibatches are drawn from all responses of the iteration, so that one need not hold whole groups.
    - The 1e-4 in the denominator is TRL's; TRL's standard deviation has the divisor k − 1.
    """

    settings: GRPOSettings
    settings_class = GRPOSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Standardise the responses' returns within each prompt's group."""
        settings = self.settings
        advantages = group_relative(scored.returns, settings.samples_per_prompt, settings.scale_by_std)
        return spread(advantages, scored.episodes.own)


class GSPO(GRPO):
    """Group sequence policy optimisation (Zheng 2025, arXiv 2507.18071): GRPO with one ratio for each response.

    Sampling, advantages, passes and optimiser are those of :class:`GRPO`; the loss of a minibatch of n responses is

        A_i   = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        s_i   = exp( 1/|y_i| Σ_t log(π(y_it|s_it) / π_old(y_it|s_it)) )
        r_it  = π_ref(y_it|s_it) / π(y_it|s_it)
        k3_it = r_it − 1 − log r_it

        L = 1/n Σ_i [ −min(s_i·A_i, clip(s_i, 1 − ε, 1 + ε')·A_i)
                      + 1/|y_i| Σ_t (β·k3_it − c_H·H(π(·|s_it))) ]

    - R_i is the score of response i; k is ``samples_per_prompt``.
    - ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None. s_i is a geometric mean over tokens,
      which moves less the longer the response is: for responses of thousands of tokens the authors publish
      ``clip_range=3e-4, clip_range_high=4e-4``.
    - β is the present value of ``beta``; c_H is ``ent_coef``.

    Sources: L without the k3 term is equation 5 of Zheng 2025, s_i its equation 7. The paper leaves the KL out of its
    equations; ``beta=0`` does the same here.
    """

    def ratio(self, log_ratio: Tensor, valid: Tensor) -> Tensor:
        """Return each response's ratio s_i for all of its tokens, ``[n, T]``."""
        return sequence_ratio(log_ratio, valid)


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
        return spread(leave_one_out(scored.returns, self.settings.samples_per_prompt), scored.episodes.own)
