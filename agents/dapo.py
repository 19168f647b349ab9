"""DAPO: GRPO with clip-higher, token means, and further prompts for those whose responses all score the same."""

from __future__ import annotations

import numpy as np

from textgym.agents.functional.objectives import uninformative
from textgym.agents.grpo import Standardised
from textgym.agents.loop.episodes import OnStep, Scored, collect, joined
from textgym.agents.ppo import ClippedAlgorithm
from textgym.agents.settings import DAPOSettings
from textgym.lm.guards import TrainingError, naming_batch
from textgym.types import Episodes


class DAPO(Standardised, ClippedAlgorithm):
    """Decoupled clip and dynamic sampling policy optimisation (Yu 2025, arXiv 2503.14476).

    An iteration samples k = ``samples_per_prompt`` responses to each prompt, as :class:`textgym.agents.grpo.GRPO`
    does. A prompt whose responses all score the same teaches nothing: it is discarded and the next prompts are played
    in its place, until ``episodes_per_iteration`` responses are left to train on, in at most ``max_resamples`` further
    collections. Discarded responses count towards the token budget; ``rollout/discarded_tokens`` is their number.

        A_i  = (R_i − mean(R_1 … R_k)) / (std(R_1 … R_k) + 1e-4)
        ρ_it = π(y_it|s_it) / π_old(y_it|s_it)

        L = mean_it[ −min(ρ_it·A_i, clip(ρ_it, 1 − ε, 1 + ε')·A_i) + β·KL_it − c_H·H(π(·|s_it)) ]

    - mean_it goes over all tokens of the minibatch (``normalisation="token"``), so that long responses count as much
      per token as short ones.
    - ε is ``clip_range``, ε' is ``clip_range_high``: unlikely tokens have more room to grow.
    - The KL is that of GRPO, by ``kl_estimator``; the paper has none (``beta=0``).

    Sources: section 3 of Yu 2025; the clip ranges are those of its section 4.1.

    Differences: the paper's penalty for overlong responses is part of a reward, not of this algorithm. An iteration
    whose tries are used up trains on the prompts that were found; if none was, training ends. TRL's loss of this name
    divides by the tokens of all responses that were generated together, not by the minibatch's; by default ε' is ε
    there, and no prompt is discarded.
    """

    settings: DAPOSettings
    settings_class = DAPOSettings

    def play(self, on_step: OnStep) -> Episodes | None:
        """Play prompts until enough of them have responses of different scores.

        Returns:
            All responses, the discarded ones included. None if ``on_step`` stopped them, or no prompt of a policy that
            has been trained had responses of different scores; ``ended`` then says so.

        Raises:
            TrainingError: no prompt had any in the first iteration; its ``batch`` holds all responses.
        """
        wanted, k = self.settings.episodes_per_iteration // self.group, self.group
        played: list[Episodes] = []
        found = 0
        for _ in range(1 + self.settings.max_resamples):
            plan = self.plan(sum(map(len, played)), (wanted - found) * k)
            episodes = collect(self._slots, self._session, plan, on_step)
            if episodes is None:
                return None
            played.append(episodes)
            found += int((~uninformative(episodes.rewards.sum(1), k)).sum())
            if found == wanted:
                break
        everything = joined(played)
        if found:
            return everything
        reason = (
            f"DAPO found no prompt whose {k} responses differ in score, in {len(played)} collections of {wanted} "
            f"prompts each, with a mean score of {everything.rewards.sum(1).mean():.4g}: the task is solved, or "
            "hopeless, for this policy"
        )
        if self.iteration:
            self.ended = reason
            return None
        with naming_batch(everything):
            raise TrainingError(
                f"{reason}; use another reward or prompts, more samples_per_prompt, or an algorithm that does not "
                "discard"
            )

    def select(self, scored: Scored) -> Scored:
        """Return the prompts whose responses differ in score, and record the number of discarded tokens."""
        k = self.settings.samples_per_prompt
        useless = np.repeat(uninformative(scored.episodes.rewards.sum(1), k), k)
        self.logger.record("rollout/discarded_tokens", int(scored.episodes.lengths[useless].sum()))
        return scored.take(np.flatnonzero(~useless))
