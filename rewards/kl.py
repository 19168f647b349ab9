"""Kullback-Leibler divergence to the reference: estimators, reward shaping, and controllers of β.

The objective is ``E[R] − β·KL(π‖π_ref)``. Throughout, ``log_probs`` are of tokens *sampled from π*, and both models are
evaluated under the behaviour distribution (the same temperature and minimum length). Units are nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textgym.numbers import check, finite

Array = TypeVar("Array", NDArray[np.floating[Any]], Tensor)


def k1(log_probs: Array, ref_log_probs: Array) -> Array:
    """Compute ``log π − log π_ref`` per token: unbiased, high variance, may be negative.

    As a *reward* its policy gradient is that of the KL; as a *loss* its gradient is 0 in expectation.

    Args:
        log_probs: any shape, log π of the sampled tokens.
        ref_log_probs: the same shape, log π_ref of those tokens.

    Source: Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html.
    """
    return log_probs - ref_log_probs


def k2(log_probs: Array, ref_log_probs: Array) -> Array:
    """Compute ``½·(log π − log π_ref)²`` per token: never negative, biased. Arguments and source: see :func:`k1`."""
    return 0.5 * (log_probs - ref_log_probs) ** 2


def k3(log_probs: Array, ref_log_probs: Array) -> Array:
    """Compute ``(r − 1) − log r`` with ``r = π_ref/π``, per token: unbiased, never negative. See :func:`k1`."""
    log_ratio = ref_log_probs - log_probs
    # ``exp(x) − 1`` cancels for π near π_ref, where k3 is of second order; ``expm1`` does not.
    expm1 = torch.expm1(log_ratio) if isinstance(log_ratio, Tensor) else np.expm1(log_ratio)
    return expm1 - log_ratio


def exact_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Compute ``Σ_v p(v)·(log p(v) − log q(v))`` at each position.

    Args:
        logits_p: ``[..., V]``, of π; −inf marks tokens that are masked out, which contribute 0.
        logits_q: ``[..., V]``, of the reference.

    Returns:
        ``[...]``, differentiable in both; infinite if π gives probability to a token that the reference excludes.
    """
    return vocabulary_kl(logits_p.log_softmax(-1), logits_q.log_softmax(-1))


# --- divergences over the vocabulary ---------------------------------------------------------------------------

Divergence: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``divergence(log_p [..., V], log_q [..., V]) -> [...]`` of normalised log-probabilities, -inf for probability 0."""


def vocabulary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute KL(p‖q) = ``Σ_v p(v)·(log p(v) − log q(v))``; infinite if q excludes a token that p does not."""
    # p·log p → 0 as p → 0, but 0 · (−inf) is NaN, in the gradient too; filled entries contribute 0 to both.
    difference = (log_p - log_q).masked_fill(log_p == -math.inf, 0.0)
    return (log_p.exp() * difference).sum(-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Compute the generalised Jensen–Shannon divergence: s·KL(q‖m) + (1 − s)·KL(p‖m), m = s·q + (1 − s)·p.

    As in Agarwal 2023 (arXiv 2306.13649), eq. 1, the ends are KLs: s = 1 is the reverse KL(p‖q), s = 0 the forward
    KL(q‖p), with p the student and q the teacher.

    Args:
        log_p: ``[..., V]``, of the student.
        log_q: ``[..., V]``, of the teacher.
        share: s in [0, 1].
    """
    if share == 1:
        return vocabulary_kl(log_p, log_q)
    if share == 0:
        return vocabulary_kl(log_q, log_p)
    # A token that both exclude adds nothing; filled, since the gradient of logaddexp(−inf, −inf) is NaN.
    neither = (log_p == -math.inf) & (log_q == -math.inf)
    p, q = (log.masked_fill(neither, 0.0) for log in (log_p, log_q))
    mixture = torch.logaddexp(p + math.log1p(-share), q + math.log(share)).masked_fill(neither, -math.inf)
    return share * vocabulary_kl(log_q, mixture) + (1 - share) * vocabulary_kl(log_p, mixture)


# --- the KL in the reward --------------------------------------------------------------------------------------


def shape_rewards(
    rewards: NDArray[np.floating[Any]],
    log_probs: NDArray[np.floating[Any]],
    ref_log_probs: NDArray[np.floating[Any]],
    valid: NDArray[np.bool_],
    beta: float,
) -> NDArray[np.floating[Any]]:
    """Add ``−β·(log π − log π_ref)`` to the reward of every valid token: the expected return is then the objective.

    Only :func:`k1` is correct here. A reward reaches the policy gradient as a factor of ``∇log π``; its own derivative
    does not enter. In expectation k1 then gives the gradient of the KL. k2 and k3 would give the gradient of a
    different divergence, and the exact KL of each state would ignore the effect of a token on the KL of later states.

    Args:
        rewards: ``[N, T]`` rewards from the environment.
        log_probs: ``[N, T]`` log π of the sampled tokens.
        ref_log_probs: ``[N, T]`` log π_ref of those tokens.
        valid: ``[N, T]`` True for response tokens; elsewhere the rewards are unchanged.
        beta: the KL coefficient, at least 0.

    Returns:
        ``[N, T]``, a new array of the dtype of ``rewards``. The sum of a row is the return − β·Σ_valid k1.

    Raises:
        ValueError: shapes differ, β is negative, or a valid token has an infinite or undefined log-probability.

    Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
    """
    shapes = {
        "rewards": rewards.shape,
        "log_probs": log_probs.shape,
        "ref_log_probs": ref_log_probs.shape,
        "valid": valid.shape,
    }
    if len(set(shapes.values())) > 1:
        raise ValueError(f"expected arrays of one shape [N, T], got {shapes}")
    finite("beta", beta, low=0)
    # Checked here because −inf − (−inf) is NaN, which would enter every return of the row.
    undefined = valid & ~(np.isfinite(log_probs) & np.isfinite(ref_log_probs))
    if undefined.any():
        row, token = np.argwhere(undefined)[0]
        raise ValueError(
            f"row {row}, token {token}: log π = {log_probs[row, token]}, "
            f"log π_ref = {ref_log_probs[row, token]}; a sampled token must have finite ones under both: "
            "use the same temperature and minimum length for policy and reference"
        )
    shaped = rewards.copy()
    shaped[valid] -= beta * k1(log_probs[valid], ref_log_probs[valid])
    return shaped


class KLController(Protocol):
    """Controller of the KL coefficient β, updated after each iteration."""

    @property
    def beta(self) -> float:
        """The present coefficient."""
        ...

    def update(self, kl_per_sequence: float, n_episodes: int) -> None:
        """Adjust β to the KL that was measured; see :meth:`AdaptiveKL.update`."""
        ...

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the state from a checkpoint."""
        ...


@dataclass
class FixedKL:
    """Constant KL coefficient β."""

    beta: float

    def __post_init__(self) -> None:
        check(self, finite, "beta", low=0)

    def update(self, kl_per_sequence: float, n_episodes: int) -> None:
        """Leave β unchanged."""

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.beta = finite("beta", state["beta"], low=0)


@dataclass
class AdaptiveKL:
    """KL coefficient that tracks a target KL: ``β ← β·(1 + clip(KL/target − 1, ±0.2)·n_episodes/horizon)``.

    Attributes:
        beta: the present coefficient, greater than 0 (updates multiply it, so 0 would stay 0).
        target: target KL in nats per *sequence*.
        horizon: episodes over which β can change by about 20 %.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2; values of their published code.
    """

    beta: float
    target: float = 6.0
    horizon: float = 10_000

    def __post_init__(self) -> None:
        check(self, finite, "beta", "target", "horizon", above=0)

    def update(self, kl_per_sequence: float, n_episodes: int) -> None:
        """Update β after an iteration.

        Args:
            kl_per_sequence: mean over the iteration's episodes of Σ_t (log π − log π_ref), in nats.
            n_episodes: number of those episodes.

        Raises:
            ValueError: the KL is not finite, or ``n_episodes`` is negative.
        """
        # A NaN would make β NaN for good, and all rewards after it.
        if not math.isfinite(kl_per_sequence) or n_episodes < 0:
            raise ValueError(
                f"expected a finite kl_per_sequence and n_episodes ≥ 0, got {kl_per_sequence}, {n_episodes}"
            )
        error = min(max(kl_per_sequence / self.target - 1, -0.2), 0.2)
        # A batch larger than the horizon counts as one horizon: the factor stays within ±20 %, so β stays positive.
        self.beta *= 1 + error * min(n_episodes / self.horizon, 1)

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.beta = finite("beta", state["beta"], low=0)
