"""Policy gradients without a critic: REINFORCE, REINFORCE++ and ReMax."""

from __future__ import annotations

from textgym.agents.functional.objectives import Advantages, greedy_baseline, monte_carlo, spread, whiten
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.ppo import ClippedAlgorithm
from textgym.agents.settings import ClipSettings, OnPolicySettings


class Reinforce(SequenceAlgorithm):
    """REINFORCE (Williams 1992) with returns whitened over the batch and a KL penalty in the reward.

    An iteration samples one response y_1 … y_T to each of ``episodes_per_iteration`` prompts from π_old, without a
    critic. One shuffled pass over them (``n_epochs`` = 1), in minibatches of ``minibatch_size`` responses, takes a
    gradient step on L for each minibatch:

        r_t = score_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        G_t = Σ_{u ≥ t} r_u
        A_t = (G_t − mean(G)) / (std(G) + 1e-8)

        L   = mean_t[ −A_t·log π(y_t|s_t) − c_H·H(π(·|s_t)) ]

    mean and std (with divisor N) in A_t are taken over all response tokens of the iteration; mean_t over those of the
    minibatch (``normalisation="token"``). The discount γ is 1.

    - score_t is the reward of the environment, usually the whole score at the last token; β is the present value of
      ``beta``, and the KL estimator is k1. All distributions are behaviour distributions, after temperature and masks
      of ``sampling``.
    - c_H is ``ent_coef``, 0 by default.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``normalisation`` and ``kl_in_loss``
    change mean_t and the place of the KL as described at :class:`textgym.agents.ppo.PPO`.

    Differences: the baseline, which Williams leaves open, is the mean return of the iteration's tokens, and the
    standard deviation sets the scale, as in the global normalisation of REINFORCE++ (Hu 2025, arXiv 2501.03262), whose
    clipped ratio is left out. The pass has several minibatches, and the steps after the first use no importance ratio.
    """

    settings: OnPolicySettings
    settings_class = OnPolicySettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Whiten the returns-to-go over the iteration's tokens."""
        return whitened_returns(scored)


class ReinforcePlusPlus(ClippedAlgorithm):
    """REINFORCE++ (Hu 2025, arXiv 2501.03262): PPO's clipped ratio with REINFORCE's whitened returns, and no critic.

    An iteration samples one response y_1 … y_T to each of ``episodes_per_iteration`` prompts from π_old. ``n_epochs``
    passes over them, reshuffled for each pass and cut into minibatches of ``minibatch_size`` responses, take a gradient
    step on L for each minibatch:

        r_t = score_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        G_t = Σ_{u ≥ t} r_u
        A_t = (G_t − mean(G)) / (std(G) + 1e-8)
        ρ_t = π(y_t|s_t) / π_old(y_t|s_t)

        L   = mean_t[ −min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε')·A_t) − c_H·H(π(·|s_t)) ]

    mean and std (with divisor N) in A_t are taken over all response tokens of the iteration; mean_t over those of the
    minibatch (``normalisation="token"``). The discount γ is 1.

    - score_t is the reward of the environment, usually the whole score at the last token; β is the present value of
      ``beta``, and the KL estimator is k1. All distributions are behaviour distributions, after temperature and masks
      of ``sampling``.
    - ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None. c_H is ``ent_coef``.

    Optimiser, warm-up and ``target_kl`` are those of :class:`textgym.agents.ppo.PPO`.

    Differences: this is the paper's version for one response to a prompt; its variant with a group's mean as a baseline
    is :class:`textgym.agents.grpo.GRPO` with another normalisation.
    """

    settings: ClipSettings
    settings_class = ClipSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Whiten the returns-to-go over the iteration's tokens."""
        return whitened_returns(scored)


def whitened_returns(scored: Scored) -> Advantages:
    """Compute the sum of each token's own and later rewards, whitened over the iteration's tokens."""
    own = scored.episodes.own
    estimated = monte_carlo(scored.shaped, scored.values, own)
    return Advantages(whiten(estimated.advantages, own), estimated.returns)


class ReMax(SequenceAlgorithm):
    """ReMax (Li 2023, arXiv 2310.10505): REINFORCE whose baseline is the score of the greedy response.

    For each prompt an iteration samples one response y_1 … y_T from π_old and decodes a greedy companion, the response
    of the most probable tokens. Both count towards ``episodes_per_iteration`` and towards the token budget; only the
    sampled half is trained on, without a critic. One shuffled pass over it (``n_epochs`` = 1), in minibatches of
    ``minibatch_size`` responses, takes a gradient step on L for each minibatch:

        R_i = score_i − β·Σ_t (log π_old(y_it|s_it) − log π_ref(y_it|s_it))
        A_i = R_i − score(greedy response to the same prompt)

        L   = mean_it[ −A_i·log π(y_it|s_it) − c_H·H(π(·|s_it)) ]

    mean_it is the mean over all response tokens of the minibatch (``normalisation="token"``).

    - score is the sum of the rewards of a response; as published, the companion's is taken without a KL penalty. β is
      the present value of ``beta``, and the KL estimator is k1 summed over the response. All distributions are
      behaviour distributions, after temperature and masks of ``sampling``.
    - c_H is ``ent_coef``, 0 by default.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. ``normalisation`` and ``kl_in_loss``
    change mean_it and the place of the KL as described at :class:`textgym.agents.ppo.PPO`.

    Source: A_i is equation 7 of Li 2023.

    Differences: log π is averaged over the tokens of the minibatch, not summed over each response. The pass has several
    minibatches, and the steps after the first use no importance ratio.
    """

    settings: OnPolicySettings
    settings_class = OnPolicySettings
    greedy_companion = True
    scores_alone = "subtracts the score of a greedy response, which must not depend on the sampled one"

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Subtract from each return the score of the greedy response to the prompt."""
        assert scored.companions is not None
        greedy_scores = scored.companions.rewards.sum(1)
        return spread(greedy_baseline(scored.returns, greedy_scores), scored.episodes.own)
