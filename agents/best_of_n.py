"""Imitation of the best sampled responses: expert iteration and distilled best-of-n."""

from __future__ import annotations

import numpy as np

from textgym.agents.functional.objectives import Advantages, best_of_groups, spread
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.loop.metrics import mean_and_error
from textgym.agents.policy.lm_policy import Session
from textgym.agents.policy.reference import reference_session
from textgym.agents.settings import BestOfNSettings, GroupSettings


class ExpertIteration(SequenceAlgorithm):
    """Expert iteration (Anthony 2017, arXiv 1705.08439): imitation of the best of n responses by the policy itself.

    An iteration samples n = ``samples_per_prompt`` responses y_1 … y_n to each prompt from π_old, the policy as it is
    then, ``episodes_per_iteration`` in all, and keeps the best one of each prompt (of equals the first). ``n_epochs``
    passes over the kept ones, reshuffled for each pass and cut into minibatches of ``minibatch_size`` responses,
    take a gradient step on L for each minibatch:

        R_i = score_i − β·Σ_t (log π_old(y_it|s_it) − log π_ref(y_it|s_it))
        b   = argmax_i R_i

        L   = mean_bt[ −log π(y_bt|s_bt) − c_H·H(π(·|s_bt)) ]

    mean_bt is the mean over all response tokens of the minibatch (``normalisation="token"``): the negative
    log-likelihood.

    - score_i is the sum of the rewards of response i; β is the present value of ``beta``, and the KL estimator is k1
      summed over the response. All distributions are behaviour distributions, after temperature and masks of
      ``sampling``.
    - c_H is ``ent_coef``, 0 by default.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``. Discarded responses count towards the
    token budget. ``kl_in_loss=True`` chooses by the score alone and adds β·mean_bt[KL_bt] to L, by
    ``kl_estimator``. With a majority vote as the reward this is self-improvement (Huang 2022, arXiv 2210.11610).

    Differences: the expert of Anthony 2017 is a tree search; here it is the best of n samples, the choice of a language
    model's own responses. No importance ratio bounds the passes after the first.
    """

    settings: GroupSettings
    settings_class = GroupSettings

    def select(self, scored: Scored) -> Scored:
        """Return the best response to each prompt, and record their mean score."""
        best = scored.take(best_of_groups(scored.returns, self.settings.samples_per_prompt))
        for name, value in mean_and_error("best_score", best.episodes.rewards.sum(1)).items():
            self.logger.record(f"rollout/{name}", value)
        return best

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Return an advantage of 1 for every token, which makes the policy gradient imitation."""
        return spread(np.ones(len(scored.episodes)), scored.episodes.own)

    def less_later_kl(self, estimated: Advantages, scored: Scored) -> Advantages:
        """Return the weights of imitation as they are: no return stands in them that a KL could be a part of."""
        return estimated


class BestOfN(ExpertIteration):
    """Distilled best-of-n: imitation of the best of n responses by the reference.

    As :class:`ExpertIteration`, except that every iteration samples from π_ref instead of the policy, so that the
    policy converges to the best-of-n policy of its reference:

        y_1 … y_n ~ π_ref(·|x)
        b = argmax_i score_i

        L = mean_bt[ −log π(y_bt|s_bt) − c_H·H(π(·|s_bt)) ]

    n is ``samples_per_prompt`` (16 by default), c_H is ``ent_coef``, mean_bt the mean over all response tokens of a
    minibatch. The KL in the reward compares the sampler with the reference and is therefore 0, unless top-k or top-p is
    set. Passes, minibatches and optimiser are those of :class:`ExpertIteration`.

    ``rollout/best_score`` is the score of best-of-n sampling itself. Its KL to the reference is at most
    log n − (n − 1)/n (Beirami 2024, arXiv 2401.01879), so that n alone decides how far the policy moves. The logged
    ratio to the sampler drifts away from 1 as the policy leaves the reference; it enters no loss.
    """

    settings: BestOfNSettings
    settings_class = BestOfNSettings
    on_policy = False

    def new_session(self) -> Session:
        """Return a session of the reference, which samples in place of the policy."""
        return reference_session(self.policy, self.reference, self.n_rows)
