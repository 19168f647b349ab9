"""The natural gradient step of TRPO: conjugate gradients on the exact KL, then a line search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from sb3_contrib.common.utils import conjugate_gradient_solver
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from textgym.agents.batches import Minibatch
from textgym.agents.policy import LMPolicy
from textgym.lm.sampling import restrict
from textgym.rewards.kl import exact_kl

LINE_SEARCH_STEPS = 10
SHRINKING = 0.8


def behaviour_logits(policy: LMPolicy, batch: Minibatch) -> Tensor:
    """``[m, V]`` of the behaviour distribution at the m valid tokens; over what was kept, ``[m, M]``."""
    p, valid = policy.prompt_length, batch.valid
    states = policy.trunk.hidden_states(batch.input_ids, batch.attention_mask, p, batch.prefix)[:, :-1]
    elapsed = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)[valid]
    head = policy.trunk.head(states[valid])
    logits = restrict(head, policy.sampling.shared, policy.n_actions, policy.end_token_ids, elapsed)
    if batch.kept is None:
        return logits
    kept = batch.kept[valid].long()
    return logits.gather(1, kept.clamp(min=0)).masked_fill(kept < 0, -torch.inf)


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
