"""Guards of training: errors that stop it, and warnings.

Training stops if a number is not finite, before the step if possible, and if the trained policy is not the one that
sampled. It warns, once for each kind, if the policy moves so far that it is probably collapsing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class TrainingError(RuntimeError):
    """Error that ends training: a number is not finite, or the trained policy is not the one that sampled.

    Saved checkpoints are left as they are.

    Attributes:
        batch: the training data of that moment, if known: an iteration's :class:`textgym.types.Episodes`, or rows of
            texts.
    """

    batch: Any = None


@contextmanager
def naming_batch(batch: Any) -> Iterator[None]:
    """Attach ``batch`` to a :class:`TrainingError` that leaves the block."""
    try:
        yield
    except TrainingError as error:
        error.batch = batch
        raise


# --- finite numbers --------------------------------------------------------------------------------------------


def not_finite(module: nn.Module) -> list[str]:
    """Return the names of parameters that hold a NaN or an infinity."""
    return [name for name, parameter in module.named_parameters() if not torch.isfinite(parameter).all()]


def check_loaded(module: nn.Module, argument: str) -> None:
    """Check that a model comes with finite weights; ``argument`` names it in the error.

    Raises:
        ValueError: some weights are not finite.
    """
    broken = not_finite(module)
    if broken:
        raise ValueError(
            f"{argument} has weights that are not finite (NaN or infinite) in {_several(broken)}: its training "
            "diverged, or its file is damaged; use an earlier checkpoint"
        )


def check_step(loss: float, gradient_norm: float, learning_rate: float) -> None:
    """Check that a gradient step would keep the weights finite.

    Raises:
        TrainingError: the loss or the norm is not finite.
    """
    if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        raise TrainingError(
            f"training diverged: the loss is {loss:.3g} and the norm of its gradient {gradient_norm:.3g} (learning "
            f"rate {learning_rate:.3g}); the step was not taken. Likely causes: a learning rate that is too high, "
            "huge rewards or coefficients, half precision. Restart with smaller ones, from an earlier checkpoint or "
            "from the beginning"
        )


def check_trained(module: nn.Module, learning_rate: float, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Check that the weights, and the moments of the optimiser if it is given, are finite.

    Raises:
        TrainingError: some are not.
    """
    broken = not_finite(module)
    if not broken and optimizer is not None and not all(map(_is_finite, moments(optimizer))):
        broken = ["the optimiser's moments"]
    if broken:
        raise TrainingError(
            f"training diverged: weights are not finite (NaN or infinite) in {_several(broken)} (learning rate "
            f"{learning_rate:.3g}). They were not saved; restart with a lower learning rate, or smaller rewards and "
            "coefficients, from an earlier checkpoint or from the beginning"
        )


def moments(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    """Yield the tensors of an optimiser's state."""
    states = optimizer.state.values()
    return (value for state in states for value in state.values() if isinstance(value, torch.Tensor))


def _is_finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


# --- the policy that sampled -----------------------------------------------------------------------------------

RATIO_BOUND = 1e-2
"""Allowed |ratio − 1| in fp32. Cached and whole passes differ by about 1e-5; real errors are far larger."""
HALF_PRECISION_STEPS = 64
"""The bound in bf16 and fp16, in multiples of the dtype's eps: two passes with logits of magnitude up to 32 have a
rounding error of 32·eps each. That is 0.5 in bf16 (measured on three small models: 0.05 to 0.23) and 0.0625 in fp16
(0.006 to 0.023)."""


def ratio_bound(model: nn.Module) -> float:
    """Return the allowed |ratio − 1| of the first minibatch, given the coarsest dtype of a model's parameters."""
    eps = max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
    return max(RATIO_BOUND, HALF_PRECISION_STEPS * eps) if eps > torch.finfo(torch.float32).eps else RATIO_BOUND


def check_first_ratio(error: float, model: nn.Module) -> None:
    """Check that the responses were sampled from the policy that is trained.

    Args:
        error: max |π(a|s)/π_rollout(a|s) − 1| over the first minibatch of an iteration, before its step.
        model: the policy's language model.

    Raises:
        TrainingError: the error is above the bound, or not a number.
    """
    bound = ratio_bound(model)
    if not error <= bound:
        raise TrainingError(
            f"the first minibatch's ratio is {error:.3g} away from 1, and at most {bound:.3g} is allowed: the policy "
            "being trained is not the one that sampled the responses, so that the gradient would be wrong. Likely "
            "causes: layers that behave differently in training (dropout, batch statistics, random routing); weights "
            "changed after the rollout, for example by a callback; a model or attention kernel whose results depend on "
            "padding or the cache; half precision; a wrapper that edits observations; sampling settings changed after "
            "construction"
        )


# --- warnings --------------------------------------------------------------------------------------------------

FAR = 0.1
"""Bound on ``approx_kl`` in nats per token, averaged over an iteration. A ratio at PPO's clip of 0.2 has 0.02."""
FAR_PER_RESPONSE = 4.0
"""The same bound in nats per response. Tasks of a few tokens are learned well even at 0.5 nats per token."""
CLIPPED = 0.5
"""Bound on the share of tokens beyond the clip range, where most gradients are 0; used beyond FAR_PER_RESPONSE only.
Healthy runs have 0.05 to 0.2."""
COLLAPSED = 0.1
"""Bound on the entropy as a share of the first iteration's, unless the score has risen: on a task with one answer the
entropy falls while the score rises."""
EXPLODED = 30.0
"""Bound on the KL to the reference in nats per response, if it also exceeds EXPLODED_PER_TOKEN per token."""
EXPLODED_PER_TOKEN = 0.5


class TrainingWarning(UserWarning):
    """Warning that the policy moves so far that it is probably collapsing."""


def alarms(row: Mapping[str, float], first: Mapping[str, float]) -> dict[str, str]:
    """Return the warnings that an iteration's metrics give rise to.

    Args:
        row: the logged metrics; an absent metric gives no warning.
        first: the metrics of the run's first iteration.

    Returns:
        Messages by kind (``"approx_kl"``, ``"clip_fraction"``, ``"entropy"``, ``"kl"``), each with the number, its
        threshold, and the setting to change.
    """
    kl, length = row.get("rollout/kl", 0.0), row.get("rollout/length", 1.0)
    moved, clipped = row.get("train/approx_kl", 0.0), row.get("train/clip_fraction", 0.0)
    entropy, start = (each.get("train/entropy", 1.0) for each in (row, first))
    # Best-of-n moves away from its sampler, the reference, by design: distances to it are no alarm.
    on_policy = row.get("train/first_minibatch_ratio_error", 0.0) < 1
    far = on_policy and moved * length > FAR_PER_RESPONSE
    rate = f"learning_rate ({row.get('train/learning_rate', math.nan):.2g} now)"
    nearer = f"Lower {rate}, set target_kl (such as 0.02), or take fewer n_epochs"
    found: dict[str, str] = {}
    if far and moved > FAR:
        found["approx_kl"] = (
            f"approx_kl is {moved:.3g} nats per token (above {FAR}): one iteration took the policy far from the one "
            f"that sampled its responses. {nearer}"
        )
    if far and clipped > CLIPPED:
        found["clip_fraction"] = (
            f"clip_fraction is {clipped:.2f} (above {CLIPPED}): most tokens are beyond clip_range and hardly learn. "
            f"{nearer}"
        )
    if entropy < COLLAPSED * start and not _rose(row, first):
        found["entropy"] = (
            f"entropy fell to {entropy:.2g} nats per token from {start:.2g} (below {COLLAPSED:.0%} of it), and the "
            "score did not rise: the policy writes the same text whatever it scores. Raise the KL coefficient, or "
            f"lower {rate}"
        )
    if kl > EXPLODED and kl > EXPLODED_PER_TOKEN * length:
        found["kl"] = (
            f"KL to the reference is {kl:.3g} nats per response (above {EXPLODED:.0f}) and {kl / length:.2g} per "
            "token: such responses are very unlikely under the reference. Look at samples; raise the KL coefficient "
            f"({row.get('train/beta', math.nan):.2g} now), or lower {rate}"
        )
    return found


def _rose(row: Mapping[str, float], first: Mapping[str, float]) -> bool:
    """Return True if the score is above the first iteration's by more than two standard errors of the difference."""
    there, here = (each.get("rollout/score", 0.0) for each in (first, row))
    error = math.hypot(*(each.get("rollout/score_sem", 0.0) for each in (first, row)))
    return here > there + 2 * error


class Watch:
    """Observer of a run's metrics that gives each kind of warning once."""

    def __init__(self) -> None:
        self.first: Mapping[str, float] | None = None
        self.warned: set[str] = set()

    def __call__(self, iteration: int, row: Mapping[str, float]) -> None:
        """Give a :class:`TrainingWarning` for each new kind of alarm in an iteration's metrics."""
        self.first = row if self.first is None else self.first
        for kind, message in alarms(row, self.first).items():
            if kind not in self.warned:
                self.warned.add(kind)
                warnings.warn(f"iteration {iteration + 1}: {message}", TrainingWarning, stacklevel=4)
