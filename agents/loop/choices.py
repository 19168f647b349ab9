"""What an algorithm chooses, and the loss and the update that follow from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from textgym.agents.functional.advantages import Advantages
from textgym.agents.functional.losses import Normalise, clipped_value_loss, masked_mean, policy_gradient
from textgym.agents.loop.batches import Minibatch, Scored, minibatches
from textgym.agents.loop.guards import check_first_ratio
from textgym.agents.offline.pretraining import Pretraining
from textgym.agents.policy.lm_policy import Evaluation, LMPolicy
from textgym.agents.settings import CriticSettings, Settings
from textgym.lm.finite import check_step
from textgym.rewards.kl import KLController, k3


class Choices(ABC):
    """The half of :class:`textgym.agents.loop.algorithm.SequenceAlgorithm` that algorithms change; the other is the loop."""

    settings_class: ClassVar[type[Settings]] = Settings
    critic: ClassVar[bool] = False
    """Whether there is a value function; without one no value is computed."""
    greedy_companion: ClassVar[bool] = False
    """Whether each prompt also gets a response of the most probable tokens, which is not trained on."""
    on_policy: ClassVar[bool] = True
    """True if the policy writes what it is trained on; its ratio is then 1 at an iteration's first minibatch."""
    settings: Settings
    policy: LMPolicy
    kl: KLController
    pretraining: Pretraining | None
    normalise: Normalise
    device: torch.device
    seed: int | None
    iteration: int
    _n_updates: int

    # --- choices -------------------------------------------------------------------------------------------

    @abstractmethod
    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Advantages and value targets of an iteration."""

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """``[n, T]`` the loss of each token, given the policy's log-probabilities: the plain policy gradient."""
        return policy_gradient(log_probs, batch.advantages)

    def select(self, scored: Scored) -> Scored:
        """Return the episodes that are trained on: all that were sampled."""
        return scored

    # --- what follows --------------------------------------------------------------------------------------

    def update(self, scored: Scored, estimated: Advantages) -> list[dict[str, float]]:
        """``n_epochs`` over the iteration's minibatches, a gradient step each; what to log of each.

        It ends early, before the step on a minibatch that :meth:`is_too_far`; that one is logged too.
        """
        order = np.random.default_rng([self.seed or 0, self.iteration])
        size, epochs = self.settings.minibatch_size, self.settings.n_epochs
        logged: list[dict[str, float]] = []
        for batch in minibatches(scored, estimated, size, epochs, order, self.device):
            evaluation = self.policy.evaluate(batch.input_ids, batch.attention_mask, batch.kept, batch.prefix)
            loss, logs = self.loss(evaluation, batch)
            if not logged:
                self.check_ratio(logs)
            if self.is_too_far(logs):
                logged.append(numbers({"loss": loss, **logs}))
                break
            self.policy.optimizer.zero_grad()
            loss.backward()
            text_loss, text_logs = self.pretraining_loss()
            if text_loss.requires_grad:  # its gradients join those that are there
                text_loss.backward()
            norm = self.take_step(loss, self.policy)
            self._n_updates += 1
            logged.append({**numbers({"loss": loss, **logs, **text_logs}), "grad_norm": norm})
        return logged

    def take_step(self, loss: Tensor, module: nn.Module) -> float:
        """The optimiser's step along a module's gradient, scaled down to ``max_grad_norm``; returns the norm it had.

        Raises:
            TrainingError: the loss or the norm is not finite; no step is taken then.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), self.settings.max_grad_norm))
        check_step(float(loss.detach()), norm, self.policy.optimizer.param_groups[0]["lr"])
        self.policy.optimizer.step()
        return norm

    def check_ratio(self, logs: Mapping[str, Tensor]) -> None:
        """Stop a run, before an iteration's first step, where the policy is not the one that wrote the responses.

        Args:
            logs: of a minibatch on which no step of the iteration was taken yet.
        """
        if self.on_policy:
            check_first_ratio(float(logs["ratio_error"]), self.policy.lm)

    def is_too_far(self, logs: Mapping[str, Tensor]) -> bool:
        """Return True if a minibatch, by what is logged of it, ends the iteration's update: never."""
        return False

    def pretraining_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """γ times the loss on the next update's pretraining text, 0 where there is none; what to log of it."""
        if self.pretraining is None:
            return torch.zeros((), device=self.device), {}
        loss = self.pretraining.loss(self.policy.trunk, self.seed or 0, self._n_updates)
        return self.pretraining.coefficient * loss, {"ptx_loss": loss}

    def loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, policy's and critic's and KL's, and what to log of it."""
        loss, logs = self.actor_loss(evaluation, batch)
        logs = {**logs, **self.watch(evaluation, batch)}
        if evaluation.values is not None:
            logs["value_loss"] = self.value_loss(evaluation.values[:, :-1], batch)
            assert isinstance(self.settings, CriticSettings)
            loss = loss + self.settings.vf_coef * logs["value_loss"]
        return loss, logs

    def actor_loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss less the entropy bonus, and the KL's where it stands in the loss; what to log of them."""
        log_probs = evaluation.log_probs
        loss = policy_loss = self.normalise(self.policy_loss(log_probs, batch), batch.valid)
        logs = {"policy_loss": policy_loss}
        if self.settings.ent_coef:
            loss = loss - self.settings.ent_coef * self.normalise(evaluation.entropy, batch.valid)
        if self.settings.kl_in_loss:
            logs["kl_loss"] = self.normalise(k3(log_probs, batch.ref_log_probs), batch.valid)
            loss = loss + self.kl.beta * logs["kl_loss"]
        return loss, logs

    def value_loss(self, values: Tensor, batch: Minibatch) -> Tensor:
        """Return the critic's loss; ``values [n, T]``."""
        assert isinstance(self.settings, CriticSettings)
        clip = self.settings.clip_range_vf
        return masked_mean(clipped_value_loss(values, batch.values, batch.returns, clip), batch.valid)

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        """How far the policy is from the one that sampled."""
        log_ratio = batch.log_ratio(evaluation.log_probs)
        ratio = log_ratio.exp()
        return {
            "ratio_error": (ratio - 1).abs().max(),
            "approx_kl": masked_mean(ratio - 1 - log_ratio, batch.valid),
            "entropy": masked_mean(evaluation.entropy, batch.valid),
        }


def numbers(logs: Mapping[str, Tensor]) -> dict[str, float]:
    """Convert logged tensors to plain numbers."""
    return {name: float(value.detach()) for name, value in logs.items()}
