"""Trust region policy optimisation (Schulman 2015, arXiv 1502.05477)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from textgym.agents.settings import TRPOSettings
from textgym.lm.behaviour import chosen_before
from textgym.rewards.kl import exact_kl

LINE_SEARCH_STEPS = 10
SHRINKING = 0.8


def behaviour_logits(policy: LMPolicy, batch: Minibatch) -> Tensor:
    """Compute behaviour logits ``[m, V]`` at the m chosen tokens; ``[m, M]`` over the kept ones, if any were stored."""
    p, own = policy.prompt_length, batch.own
    states = policy.trunk.hidden_states(batch.input_ids, batch.attention_mask, p, batch.prefix)[:, :-1]
    head = policy.trunk.head(states[own])
    return policy.behaviour.kept_logits(head, chosen_before(own)[own], None if batch.kept is None else batch.kept[own])


class TrustRegion:
    """Mean KL(π_old‖π) over the states of an iteration, its curvature at π_old, and the step within its bound.

    Args:
        policy: the policy before its step, which is π_old.
        batches: all minibatches of the iteration.
        parameters: the parameters that the step changes.
        curvature_share: share of the minibatches used to estimate the curvature, at least one minibatch. Each product
            with the curvature differentiates twice, and a tenth of the data serves as well (Schulman 2015, appendix C).
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
        """Yield each of the first ``count`` minibatches' contribution to their mean KL."""
        batches = self.batches[:count]
        n_tokens = sum(int(batch.own.sum()) for batch in batches)
        for batch, old in zip(batches, self.old, strict=False):
            yield exact_kl(old, behaviour_logits(self.policy, batch)).sum() / n_tokens

    @torch.no_grad()
    def kl(self) -> float:
        """Compute the mean KL(π_old‖π) over all states of the iteration, in nats per token."""
        return float(sum(float(kl) for kl in self._kls(len(self.batches))))

    def curvature(self, damping: float) -> Callable[[Tensor], Tensor]:
        """Return the function v ↦ F·v + ``damping``·v, F the Fisher matrix. Schulman 2015, appendix C.

        Raises:
            RuntimeError: the model's attention cannot be differentiated twice.
        """
        # F is the Hessian of the KL at π_old. F·v is the gradient of ∇KL·v, so that F itself is never built; the graph
        # of the first derivatives serves every product.
        kls = self._kls(self.curved)
        gradients = [flatten(torch.autograd.grad(kl, self.parameters, create_graph=True)) for kl in kls]

        def product(vector: Tensor) -> Tensor:
            parts = [torch.autograd.grad(g @ vector, self.parameters, retain_graph=True) for g in gradients]
            return sum(map(flatten, parts), damping * vector)

        return product

    def direction(self, gradient: Tensor, target: float, steps: int, damping: float) -> Tensor:
        """Return the natural-gradient step whose KL, to second order, equals the target.

        Args:
            gradient: the direction to go in parameter space before preconditioning, flat.
            target: bound on the KL, in nats per token.
            steps: iterations of the conjugate gradient.
            damping: added to the curvature.
        """
        devices = [gradient.device] if gradient.is_cuda else []
        with twice_differentiable(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)  # the solver draws its starting point near 0 from the global generator
            product = self.curvature(damping)
            natural = conjugate_gradient_solver(product, gradient, max_iter=steps)
            length = natural @ product(natural)
        # The KL of a step s is about ½·sᵀFs, which is set equal to the target.
        return natural * torch.sqrt(2 * target / length.clamp(min=1e-12))

    @torch.no_grad()
    def search(self, step: Tensor, target: float, surrogate: Callable[[], float]) -> tuple[float, float]:
        """Take the longest shortened step whose KL is within the target and whose surrogate loss is lower.

        Args:
            step: the full step, flat; it is tried at 1, 0.8, 0.8², … of its length, ten times at most.
            target: bound on the KL, in nats per token.
            surrogate: computes the loss at the present parameters.

        Returns:
            The fraction of the step that was taken, and the KL there. Both are 0 if no fraction qualified; the
            parameters are then as before.
        """
        before, origin = surrogate(), [p.clone() for p in self.parameters]
        pieces = split(step, self.parameters)
        for fraction in SHRINKING ** np.arange(LINE_SEARCH_STEPS):
            for p, start, piece in zip(self.parameters, origin, pieces, strict=True):
                p.copy_(start + float(fraction) * piece)
            kl = self.kl()
            if kl <= target and surrogate() < before:
                return float(fraction), kl
        for p, start in zip(self.parameters, origin, strict=True):  # no fraction qualified
            p.copy_(start)
        return 0.0, 0.0


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Compute attention by plain matrix products, since fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector into tensors shaped like those of ``like``: the inverse of :func:`flatten`."""
    ends = np.cumsum([0, *(tensor.numel() for tensor in like)]).tolist()
    return [vector[a:b].view_as(tensor) for (a, b), tensor in zip(pairwise(ends), like, strict=True)]


class TRPO(SequenceAlgorithm):
    """Trust region policy optimisation (Schulman 2015, arXiv 1502.05477) with a KL penalty in the reward.

    An iteration samples one response y_1 … y_T to each of ``episodes_per_iteration`` prompts from π_old and takes one
    natural-gradient step on the policy, bounded in KL(π_old‖π); then the critic is fitted:

        r_t = score_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        δ_t = r_t + V_old(s_{t+1}) − V_old(s_t)
        Â_t = Σ_l λ^l·δ_{t+l}
        G_t = Â_t + V_old(s_t)
        A_t = (Â_t − mean(Â)) / (std(Â) + 1e-8)

        L(θ) = mean_t[ −π_θ(y_t|s_t)/π_old(y_t|s_t)·A_t − c_H·H(π_θ(·|s_t)) ]
        D(θ) = mean_t[ KL(π_old(·|s_t) ‖ π_θ(·|s_t)) ]
        g    = ∇L(θ_old),  F = ∇²D(θ_old)
        x    = (F + μI)⁻¹·(−g)                    by the conjugate gradient method
        Δ    = x·√(2·δ_KL / xᵀ(F + μI)x)
        θ    = θ_old + 0.8^m·Δ     for the smallest m in 0 … 9 with
                                     D(θ) ≤ δ_KL and L(θ) < L(θ_old); else θ_old

        L_V  = c_V·mean_t[ ½·max((V(s_t) − G_t)², (V'_t − G_t)²) ]
        V'_t = V_old(s_t) + clip(V(s_t) − V_old(s_t), −ε_V, ε_V)

    mean_t of L, D and the advantages goes over all response tokens of the iteration. D is exact over the vocabulary, or
    over the tokens that top-k or top-p kept. The discount γ is 1.

    - score_t is the reward of the environment, usually the whole score at the last token; β is the present value of
      ``beta``, and the KL estimator in r_t is k1. λ is ``gae_lambda``, c_H is ``ent_coef``.
    - δ_KL is ``target_kl`` in nats per token, μ is ``cg_damping``; the conjugate gradient makes ``cg_steps``
      iterations. F is estimated on a ``curvature_share`` of the minibatches, at least one; D in the line search on all.
    - ``n_epochs`` shuffled passes of Adam (ε = 1e-5) over minibatches of ``minibatch_size`` responses descend L_V in
      the critic's own parameters alone, with gradients scaled down to a norm of ``max_grad_norm``; ε_V is
      ``clip_range_vf``, c_V is ``vf_coef``. ``learning_rate``, its decay and its warm-up concern the critic only.

    ``normalisation`` and ``kl_in_loss`` change the weights in L and the place of the KL as described at
    :class:`textgym.agents.ppo.PPO`; ``pretraining`` adds its loss to L.

    Sources: the constrained problem is equation 14 of Schulman 2015; conjugate gradient and line search are its
    appendix C.

    Differences from sb3-contrib's TRPO: it bounds KL(π‖π_old) instead of KL(π_old‖π), makes 15 conjugate-gradient
    iterations by default and uses all data for the curvature. The solver is the same one.
    """

    settings: TRPOSettings
    settings_class = TRPOSettings
    critic = True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Compute generalised advantages, whitened over the iteration, and value targets."""
        return whitened_gae(scored, self.settings)

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the unclipped surrogate loss −ρ·A of each token, ``[n, T]``."""
        return -batch.log_ratio(log_probs).exp() * batch.advantages

    def update(self, scored: Scored, estimated: Advantages) -> list[dict[str, float]]:
        """Take one step of the policy in its trust region, then fit the critic for ``n_epochs``; return the logs."""
        order, size = np.random.default_rng([self.seed or 0, self.iteration]), self.settings.minibatch_size
        logged = [self._step(list(minibatches(scored, estimated, size, 1, order, self.device)))]
        fits = map(self._fit_critic, minibatches(scored, estimated, size, self.settings.n_epochs, order, self.device))
        logged[0]["value_loss"] = float(np.mean(list(fits)))
        self._n_updates += 1
        return logged

    def _surrogate(self, batch: Minibatch, total: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a minibatch's contribution to the loss over the iteration, and its logs.

        ``total`` is the sum of the minibatches' weights.
        """
        evaluation = self.evaluate(batch)
        share = weight(self.settings.normalisation, batch.own) / total
        return share * self.actor_loss(evaluation, batch)[0], self.watch(evaluation, batch)

    def _objective(self, batches: list[Minibatch], total: int) -> float:
        """Return the loss over the iteration that the line search must lower, pretraining text included."""
        return sum((float(self._surrogate(one, total)[0]) for one in batches), float(self.pretraining_loss()[0]))

    def _step(self, batches: list[Minibatch]) -> dict[str, float]:
        """Take the policy's step of an iteration, and return its logs."""
        settings, parameters = self.settings, [p for p in self.policy.lm.parameters() if p.requires_grad]
        region = TrustRegion(self.policy, batches, parameters, settings.curvature_share)
        anchor, text = self.pretraining_loss()
        gradient = flatten(torch.autograd.grad(anchor, parameters)) if anchor.requires_grad else anchor
        loss, watched, total = 0.0, [], sum(weight(settings.normalisation, batch.own) for batch in batches)
        # The gradient is that of the whole iteration; minibatches only bound the memory.
        for batch in batches:
            part, logs = self._surrogate(batch, total)
            self.check_ratio(logs)
            gradient = gradient + flatten(torch.autograd.grad(part, parameters))
            loss += float(part.detach())
            watched.append({name: float(value.detach()) for name, value in {**logs, **text}.items()})
        step = region.direction(-gradient, settings.target_kl, settings.cg_steps, settings.cg_damping)
        fraction, kl = region.search(step, settings.target_kl, lambda: self._objective(batches, total))
        means = {name: float(np.mean([logs[name] for logs in watched])) for name in watched[0]}
        return {**means, "policy_loss": loss, "step_kl": kl, "step_fraction": fraction}

    def _fit_critic(self, batch: Minibatch) -> float:
        """Take a gradient step on the critic alone, and return its loss; a trunk shared with the policy stays fixed."""
        policy, shown = self.policy, (batch.input_ids, batch.attention_mask)
        assert policy.value is not None
        with torch.no_grad():  # or a step of the critic would move the policy out of its trust region
            states = policy.trunk.hidden_states(*shown, policy.prompt_length, batch.prefix)
        values = policy.value(states, *shown, policy.prompt_length)[:, :-1]
        policy.optimizer.zero_grad()
        (self.settings.vf_coef * (loss := self.value_loss(values, batch))).backward()
        self.take_step(loss, policy.value)
        return float(loss.detach())
