"""Best-of-n sampling, and its distillation into one policy."""

from __future__ import annotations

from textgym.agents.expert_iteration import ExpertIteration
from textgym.agents.session import Session
from textgym.agents.settings import BestOfNSettings


class BestOfN(ExpertIteration):
    """Expert iteration that always samples from the reference, so it learns the best-of-n policy.

    ``rollout/best_score`` is what best-of-n sampling itself earns, at a KL of at most log n − (n−1)/n (Beirami 2024,
    arXiv 2401.01879). The ratio to the sampler drifts away from 1 as the policy leaves the reference.
    """

    settings: BestOfNSettings
    settings_class = BestOfNSettings
    on_policy = False

    def new_session(self) -> Session:
        if self.reference is None:
            raise ValueError(
                "BestOfN samples from a reference that stays as it is, but that of an adapted policy is its own trunk; "
                "pass reference=MODEL, a copy of what the adapters were added to"
            )
        return self.policy.session(self.n_rows, model=self.reference)
