"""Algorithms that take a person's feedback for the advantage: COACH, E-COACH and Deep COACH.

Feedback on a token is the dense reward of the environment: TAMER's Ĥ (``tamer:DIR``), a simulated person
(:class:`textgym.rewards.Watched`), or any reward with a number for each token. The reward of a whole response is
feedback at its last token.
"""

from __future__ import annotations

from textgym.agents.functional.objectives import Advantages, traced
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Scored
from textgym.agents.ppo import ClippedAlgorithm
from textgym.agents.settings import COACHSettings, DeepCOACHSettings, ECOACHSettings


class COACH(SequenceAlgorithm):
    """COACH (MacGlashan 2017, arXiv 1701.06049): policy gradient with feedback as the advantage.

    An iteration samples one response y_1 … y_T to each of ``episodes_per_iteration`` prompts from π_old, without a
    critic. One shuffled pass over them (``n_epochs`` = 1), in minibatches of ``minibatch_size`` responses, takes a
    gradient step on L for each minibatch:

        f_t = feedback_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        A_t = f_t + λ·A_{t+1},  A_{T+1} = 0

        L   = mean_t[ −A_t·log π(y_t|s_t) − c_H·H(π(·|s_t)) ]

    mean_t is taken over the response tokens of the minibatch (``normalisation="token"``).

    - feedback_t is the reward that the environment pays for y_t. It has no baseline: 0 means that a token was as good
      as the policy's others, which is how people were seen to judge. With feedback A^π, the advantage under the present
      policy, and λ = 0, the expected step is the policy gradient.
    - λ is ``trace_lambda``, the decay of the eligibility trace; with λ = 1 and feedback at the end the step is
      REINFORCE's, without its whitening. β is the present value of ``beta``, and the KL estimator is k1; 0 < λ < 1
      decays the price of later KL as it decays later feedback.
    - c_H is ``ent_coef``, 0 by default. All distributions are behaviour distributions, after temperature and masks of
      ``sampling``.

    In a conversation, t runs over the tokens that the policy chose. Optimiser, warm-up, ``normalisation`` and
    ``kl_in_loss`` are those of :class:`textgym.agents.ppo.PPO`.

    Differences: the paper updates at every step, while the response goes on; here the steps of a response, and of a
    minibatch of responses, are summed first. Its delay in steps is part of the feedback here: see
    :func:`textgym.rewards.credit_weights`.
    """

    settings: COACHSettings
    settings_class = COACHSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Let an eligibility trace hand feedback on to earlier tokens."""
        return traced(scored.shaped, scored.episodes.own, self.settings.trace_lambda)


class ECOACH(SequenceAlgorithm):
    """Episodic COACH (Shah 2021, arXiv 2109.07054): COACH for a discounted objective, with γ^t for the t-th token.

    Iterations, feedback, optimiser and symbols are those of :class:`COACH`; the trace does not decay, and feedback
    weighs the less the later it comes in a response:

        f_t = γ^t·( feedback_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t)) ),  t = 0, 1, …
        A_t = Σ_{u ≥ t} f_u

        L   = mean_t[ −A_t·log π(y_t|s_t) − c_H·H(π(·|s_t)) ]

    γ is ``gamma``. This is the only algorithm here with a discount: it maximises E[Σ_t γ^t·(r_t − β·KL_t)] where
    feedback is the reward r_t. COACH leaves γ out: with λ = 1 it maximises the sum without a discount, and prefers a
    large reward that comes late to a small one at once, whatever γ is. With γ = 1 the two are the same at λ = 1.

    The paper shows convergence for feedback that is a reward, an advantage, or 1 for the trainer's choice and 0
    otherwise; the last in tasks that do not end, since a longer response also collects more of it.
    """

    settings: ECOACHSettings
    settings_class = ECOACHSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Sum the discounted feedback that follows each token."""
        return traced(scored.shaped, scored.episodes.own, 1.0, self.settings.gamma)


class DeepCOACH(ClippedAlgorithm):
    """Deep COACH (Arumugam 2019, arXiv 1902.04257): COACH with an importance ratio and an entropy bonus.

    Iterations, feedback and symbols are those of :class:`COACH`; ``n_epochs`` passes over the responses, reshuffled for
    each pass, replay them:

        A_t = f_t + λ·A_{t+1}
        ρ_t = π(y_t|s_t) / π_old(y_t|s_t)

        L   = mean_t[ −min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε')·A_t) − c_H·H(π(·|s_t)) ]

    λ is ``trace_lambda``, c_H is ``ent_coef``; ε is ``clip_range``; ε' is ``clip_range_high``, or ε where that is None.
    ``target_kl`` is that of :class:`textgym.agents.ppo.PPO`.

    Differences: the paper replays windows of the steps before each feedback, from all of training; here it is whole
    responses, of one iteration. Its ratio is not clipped: PPO's clip bounds what several passes do.
    """

    settings: DeepCOACHSettings
    settings_class = DeepCOACHSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Let an eligibility trace hand feedback on to earlier tokens."""
        return traced(scored.shaped, scored.episodes.own, self.settings.trace_lambda)
