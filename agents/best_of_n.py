"""Best-of-n sampling, and its distillation into one policy."""

from __future__ import annotations

from textgym.agents.expert_iteration import ExpertIteration
from textgym.agents.session import Session


class BestOfN(ExpertIteration):
    """Expert iteration that always samples from the reference, so it learns the best-of-n policy.

    ``rollout/best_score`` is what best-of-n sampling itself earns, at a KL of at most log n − (n−1)/n (Beirami 2024,
    arXiv 2401.01879). The ratio to the sampler drifts away from 1 as the policy leaves the reference.
    """

    def new_session(self) -> Session:
        return self.policy.session(self._slots.n, model=self.reference)
