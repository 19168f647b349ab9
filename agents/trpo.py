"""Trust region policy optimisation (Schulman 2015, arXiv 1502.05477)."""

from __future__ import annotations

import numpy as np
import torch

from textgym.agents.advantages import Advantages
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Minibatch, Scored, minibatches
from textgym.agents.losses import weight
from textgym.agents.ppo import whitened_gae
from textgym.agents.settings import TRPOSettings
from textgym.agents.trust_region import TrustRegion, flat


class TRPO(SequenceAlgorithm):
    """A critic, generalised advantages, and one natural gradient step per iteration, within a bound on the KL."""

    settings: TRPOSettings
    settings_class = TRPOSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        return whitened_gae(scored, self.settings.gae_lambda)

    def policy_loss(self, log_probs: torch.Tensor, batch: Minibatch) -> torch.Tensor:
        return -batch.log_ratio(log_probs).exp() * batch.advantages

    def update(self, scored: Scored, estimated: Advantages) -> list[dict[str, float]]:
        """One step of the policy in its trust region, then ``n_epochs`` of the critic."""
        order, size = np.random.default_rng([self.seed or 0, self.iteration]), self.settings.minibatch_size
        logged = [self._step(list(minibatches(scored, estimated, size, 1, order, self.device)))]
        fits = map(self._fit_critic, minibatches(scored, estimated, size, self.settings.n_epochs, order, self.device))
        logged[0]["value_loss"] = float(np.mean(list(fits)))
        self._n_updates += 1
        return logged

    def _surrogate(self, batch: Minibatch, total: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return a batch's share of the loss, whose weights sum to ``total``."""
        evaluation = self.policy.evaluate(batch.input_ids, batch.attention_mask, batch.kept, batch.prefix)
        share = weight(self.settings.normalisation, batch.valid) / total
        return share * self.actor_loss(evaluation, batch)[0], self.watch(evaluation, batch)

    def _objective(self, batches: list[Minibatch], total: int) -> float:
        return sum((float(self._surrogate(one, total)[0]) for one in batches), float(self.pretraining_loss()[0]))

    def _step(self, batches: list[Minibatch]) -> dict[str, float]:
        settings, parameters = self.settings, [p for p in self.policy.lm.parameters() if p.requires_grad]
        region = TrustRegion(self.policy, batches, parameters, settings.curvature_share)
        anchor, text = self.pretraining_loss()
        gradient = flat(torch.autograd.grad(anchor, parameters)) if anchor.requires_grad else anchor
        loss, watched, total = 0.0, [], sum(weight(settings.normalisation, batch.valid) for batch in batches)
        for batch in batches:
            part, logs = self._surrogate(batch, total)
            self.check_ratio(logs)
            gradient = gradient + flat(torch.autograd.grad(part, parameters))
            loss += float(part.detach())
            watched.append({name: float(value.detach()) for name, value in {**logs, **text}.items()})
        step = region.direction(-gradient, settings.target_kl, settings.cg_steps, settings.cg_damping)
        fraction, kl = region.search(step, settings.target_kl, lambda: self._objective(batches, total))
        means = {name: float(np.mean([logs[name] for logs in watched])) for name in watched[0]}
        return {**means, "policy_loss": loss, "step_kl": kl, "step_fraction": fraction}

    def _fit_critic(self, batch: Minibatch) -> float:
        """Return a gradient step that leaves the policy as it is, also where critic and policy share a trunk."""
        policy, shown = self.policy, (batch.input_ids, batch.attention_mask)
        assert policy.value is not None
        with torch.no_grad():
            states = policy.trunk.hidden_states(*shown, policy.prompt_length, batch.prefix)
        values = policy.value(states, *shown, policy.prompt_length)[:, :-1]
        policy.optimizer.zero_grad()
        (self.settings.vf_coef * (loss := self.value_loss(values, batch))).backward()
        self.take_step(loss, policy.value)
        return float(loss.detach())
