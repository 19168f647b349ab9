"""Distillation: a student learns a teacher's distribution over the vocabulary, in the states of its own responses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from textgym.agents.functional.objectives import Advantages
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Minibatch, OnStep, Scored, collect, joined, take
from textgym.agents.policy.lm_policy import Evaluation, Session
from textgym.agents.settings import DistillationSettings
from textgym.rewards.kl import Divergence, FixedKL, jensen_shannon
from textgym.types import Episodes


class Distillation(SequenceAlgorithm):
    """On-policy distillation (Agarwal 2023, arXiv 2306.13649, "GKD"): the student's own samples, the teacher's words.

    An iteration samples ``episodes_per_iteration`` responses: a share of λ from the teacher π_T, the others from the
    student π_old. One shuffled pass over them (``n_epochs`` = 1), in minibatches of ``minibatch_size`` responses, takes
    a gradient step on L for each minibatch:

        m_t = s·π_T(·|s_t) + (1 − s)·π(·|s_t)
        D_t = s·KL(π_T(·|s_t) ‖ m_t) + (1 − s)·KL(π(·|s_t) ‖ m_t)
        D_t = KL(π(·|s_t) ‖ π_T(·|s_t)) for s = 1
        D_t = KL(π_T(·|s_t) ‖ π(·|s_t)) for s = 0

        L   = mean_t[ D_t − c_H·H(π(·|s_t)) ]

    mean_t is the mean over all response tokens of the minibatch (``normalisation="token"``).

    - π_T is ``reference``, which must be given. It needs the student's vocabulary; its architecture and size are free.
    - s is ``jsd``, 1 by default: the reverse KL. The ends are defined as KLs because the divergence falls to 0 there.
      λ is ``teacher_share``, 0 by default; c_H is ``ent_coef``.
    - The KLs are sums over the whole vocabulary. The states are held fixed: no gradient goes through the sampling of
      the responses, as published.
    - All distributions are behaviour distributions, after temperature and masks of ``sampling``. Top-k and top-p
      restrict the student alone; the forward KL would then be infinite, and a teacher's token might be none of the
      student's, so that both are refused.
    - The reward is logged, and is not trained on. ``kl_estimator`` has no effect, nor has ``beta``: β is 1.

    For s = 1 the sum of D_t over a response is an estimate of KL(π‖π_T) of whole responses. Its mean is logged as
    ``rollout/kl_exact``, of the student's own responses only, as are score and all other ``rollout/`` metrics. With
    R = 0 and β = 1 the objective E[R] − β·KL is −KL(π‖π_T), whose optimum of 0 is the teacher.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``.

    Sources: L is algorithm 1 of Agarwal 2023, D_t its equation 1.

    Differences: λ is the teacher's share, and 1 minus the paper's. The paper's data may be any set of responses; here
    they are the teacher's, sampled anew in each iteration. The published loss averages over the tokens of each
    response, then over responses (``normalisation="sequence"``).
    """

    settings: DistillationSettings
    settings_class = DistillationSettings

    @property
    def own_responses(self) -> int:
        """Number of an iteration's responses that the student writes; they come first."""
        return self.settings.episodes_per_iteration - self.settings.taught

    @property
    def divergence(self) -> Divergence:
        """The generalised Jensen–Shannon divergence of student and teacher."""
        return partial(jensen_shannon, share=self.settings.jsd)

    def token_loss(self, evaluation: Evaluation, batch: Minibatch) -> Tensor:
        """Return the divergence from the teacher at each token, ``[n, T]``."""
        assert evaluation.divergence is not None
        return evaluation.divergence

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Return advantages of 0, which the loss does not use: no reward is trained on."""
        zeros = np.zeros_like(scored.shaped)
        return Advantages(zeros, zeros)

    def described(self, scored: Scored) -> Scored:
        """Return the student's own responses."""
        return replace(scored, ref_states=None).take(np.arange(self.own_responses))

    # --- sampling ------------------------------------------------------------------------------------------

    def new_session(self) -> Session:
        """Return the student's session; the teacher gets one beside it, if it is to write responses."""
        if self.settings.taught:
            self._teacher = self.reference_session()
        return super().new_session()

    def play(self, on_step: OnStep) -> Episodes | None:
        """Play the student's responses, then the teacher's; None if ``on_step`` stopped them."""
        own = self.own_responses
        played = collect(self._slots, self._session, self.plan(0, own), on_step) if own else None
        if not self.settings.taught or (own and played is None):
            return played
        taught = collect(self._slots, self._teacher, self.plan(own, self.settings.taught), on_step)
        if taught is None:
            return None
        taught = self._as_own(taught)
        return taught if played is None else joined([played, taught])

    @torch.no_grad()
    def _as_own(self, episodes: Episodes) -> Episodes:
        """Return the teacher's episodes with the student's log-probabilities, to which its update is compared."""
        log_probs = np.zeros_like(episodes.log_probs)
        for rows in np.array_split(np.arange(len(episodes)), -(-len(episodes) // self.settings.minibatch_size)):
            part = take(episodes, rows)
            shown = (part.input_ids, part.attention_mask, part.own)
            ids, mask, own = (torch.from_numpy(array).to(self.device) for array in shown)
            kept = None if part.kept is None else torch.from_numpy(part.kept).to(self.device)
            log_probs[rows] = self.policy.evaluate(ids, mask, kept, own=own).log_probs.cpu().numpy()
        return replace(episodes, log_probs=log_probs)

    def _note_episodes(self, episodes: Episodes) -> None:
        super()._note_episodes(take(episodes, np.arange(self.own_responses)))

    # --- checks --------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._check()
        self.kl = FixedKL(1.0)  # the KL is the objective, and not the price of a reward
        super()._setup_model()

    def _check(self) -> None:
        """Check that there is a teacher, and that its divergence from the student is finite.

        Raises:
            ValueError: there is none, or it is not.
        """
        if self.reference_source is None:
            raise ValueError("reference is None, and distillation needs a teacher; pass reference=DIRECTORY_OR_MODEL")
        restricted = "top_k and top_p exclude tokens for the student and not for the teacher"
        if self.sampling.truncates and self.settings.jsd == 0:
            raise ValueError(
                f"jsd=0 is the forward KL(teacher‖student), which would be infinite: {restricted}; pass jsd above 0, "
                "or leave out top_k and top_p"
            )
        if self.sampling.truncates and self.settings.taught:
            raise ValueError(
                f"teacher_share={self.settings.teacher_share} trains on the teacher's tokens, and {restricted}, so "
                "that some would be impossible; pass teacher_share=0, or leave out top_k and top_p"
            )
