"""Trust region policy optimisation (Schulman 2015, arXiv 1502.05477)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sb3_contrib.common.utils import conjugate_gradient_solver
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from textgym.agents.functional.objectives import Advantages, weight
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Minibatch, Scored, minibatches
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.agents.ppo import whitened_gae
from textgym.agents.settings import GAESettings
from textgym.numbers import check, count, finite
from textgym.rewards.kl import exact_kl

LINE_SEARCH_STEPS = 10
SHRINKING = 0.8


def behaviour_logits(policy: LMPolicy, batch: Minibatch) -> Tensor:
    """``[m, V]`` of the behaviour distribution at the m valid tokens; over what was kept, ``[m, M]``."""
    p, valid = policy.prompt_length, batch.valid
    states = policy.trunk.hidden_states(batch.input_ids, batch.attention_mask, p, batch.prefix)[:, :-1]
    elapsed = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)[valid]
    head = policy.trunk.head(states[valid])
    return policy.behaviour.kept_logits(head, elapsed, None if batch.kept is None else batch.kept[valid])


class TrustRegion:
    """KL(π_old‖π) in the states of an iteration, and its curvature at π_old.

    Args:
        policy: as it is now, which is π_old.
        batches: the iteration's.
        parameters: those that move.
        curvature_share: of the batches that the curvature is estimated on, at least one. It costs ``cg_steps`` second
            derivatives, and a tenth of the data serves as well (Schulman 2015, appendix C).
    """

    def __init__(
        self,
        policy: LMPolicy,
        batches: Sequence[Minibatch],
        parameters: Sequence[nn.Parameter],
        curvature_share: float = 1.0,
    ) -> None:
        self.policy = policy
        self.batches = batches
        self.parameters = parameters
        self.curved = max(1, round(curvature_share * len(batches)))
        with torch.no_grad():
            self.old = [behaviour_logits(policy, batch) for batch in batches]

    def _kls(self, count: int) -> Iterator[Tensor]:
        """The shares that the first ``count`` batches have in their mean."""
        batches = self.batches[:count]
        n_tokens = sum(int(batch.valid.sum()) for batch in batches)
        for batch, old in zip(batches, self.old, strict=False):
            yield exact_kl(old, behaviour_logits(self.policy, batch)).sum() / n_tokens

    @torch.no_grad()
    def kl(self) -> float:
        """Mean over the states, in nats."""
        return float(sum(float(kl) for kl in self._kls(len(self.batches))))

    def curvature(self, damping: float) -> Callable[[Tensor], Tensor]:
        """The product of the Fisher matrix with a vector, plus ``damping`` times the vector. Schulman 2015, appendix C.

        The first derivatives and their graph are made once and serve for every product.

        Raises:
            RuntimeError: the model's attention cannot be differentiated twice.
        """
        kls = self._kls(self.curved)
        gradients = [flat(torch.autograd.grad(kl, self.parameters, create_graph=True)) for kl in kls]

        def product(vector: Tensor) -> Tensor:
            parts = [torch.autograd.grad(g @ vector, self.parameters, retain_graph=True) for g in gradients]
            return sum(map(flat, parts), damping * vector)

        return product

    def direction(self, gradient: Tensor, target: float, steps: int, damping: float) -> Tensor:
        """Return the natural gradient at the length where the KL's second-order model meets the target."""
        devices = [gradient.device] if gradient.is_cuda else []
        with twice_differentiable(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)  # the solver begins near 0, at a place drawn from the global generator
            product = self.curvature(damping)
            natural = conjugate_gradient_solver(product, gradient, max_iter=steps)
            length = natural @ product(natural)
        return natural * torch.sqrt(2 * target / length.clamp(min=1e-12))

    @torch.no_grad()
    def search(self, step: Tensor, target: float, surrogate: Callable[[], float]) -> tuple[float, float]:
        """Goes as far along the step as the KL stays within the target and the surrogate loss falls.

        Returns:
            The share of the step that was taken, and the KL there.
        """
        before, origin = surrogate(), [p.clone() for p in self.parameters]
        pieces = split(step, self.parameters)
        for fraction in SHRINKING ** np.arange(LINE_SEARCH_STEPS):
            for p, start, piece in zip(self.parameters, origin, pieces, strict=True):
                p.copy_(start + float(fraction) * piece)
            kl = self.kl()
            if kl <= target and surrogate() < before:
                return float(fraction), kl
        for p, start in zip(self.parameters, origin, strict=True):
            p.copy_(start)
        return 0.0, 0.0


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by plain matrix products, since the fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector of them all."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the inverse of :func:`flat`."""
    ends = np.cumsum([0, *(tensor.numel() for tensor in like)]).tolist()
    return [vector[a:b].view_as(tensor) for (a, b), tensor in zip(pairwise(ends), like, strict=True)]


@dataclass(frozen=True)
class TRPOSettings(GAESettings):
    """Adam, its learning rate and ``n_epochs`` are the critic's alone; the policy takes one step an iteration.

    Attributes:
        target_kl: mean KL(π_old‖π) over the states of an iteration that a step may reach, in nats.
        cg_steps, cg_damping: of the conjugate gradient; the damping is added to the curvature.
        curvature_share: of the minibatches that the curvature is estimated on; the KL is bound on all.
    """

    target_kl: float = 0.01
    cg_steps: int = 10
    cg_damping: float = 0.1
    curvature_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "cg_steps")
        check(self, finite, "target_kl", "cg_damping", above=0)
        check(self, finite, "curvature_share", above=0, high=1)


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
