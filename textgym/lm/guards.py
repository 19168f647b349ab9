"""Guards of training: what stops it, and what it warns of.

Training stops where a number is not finite, before a step where that can be known, and where it is no longer on what
was sampled. It warns, once for each kind, where the policy moves so far that it is probably being destroyed.
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
    """Training cannot continue: the policy differs from the one that sampled, or a number is not finite.

    Checkpoints are unchanged.

    Attributes:
        batch: the training batch, if known: an iteration's :class:`textgym.types.Episodes`, or rows of texts.
    """

    batch: Any = None


@contextmanager
def naming_batch(batch: Any) -> Iterator[None]:
    """Attach the training batch to a :class:`TrainingError` that the block raises."""
    try:
        yield
    except TrainingError as error:
        error.batch = batch
        raise


def not_finite(module: nn.Module) -> list[str]:
    """Return the names of the parameters that hold a NaN or an infinity."""
    return [name for name, parameter in module.named_parameters() if not torch.isfinite(parameter).all()]


def check_loaded(module: nn.Module, argument: str) -> None:
    """Check that a loaded model's weights are finite; ``argument`` names it in the message.

    Raises:
        ValueError: some weights are not finite.
    """
    broken = not_finite(module)
    if broken:
        raise ValueError(
            f"{argument} has weights that are not finite (NaN or infinite) in {_several(broken)}; it has diverged, or "
            "its file is damaged: expected a checkpoint from before that"
        )


def check_step(loss: float, gradient_norm: float, learning_rate: float) -> None:
    """Check loss and gradient before an optimiser step that would make weights NaN.

    Raises:
        TrainingError: the loss or the norm is not finite.
    """
    if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        raise TrainingError(
            f"training diverged: the loss is {loss:.3g} and the norm of its gradient {gradient_norm:.3g} (learning "
            f"rate {learning_rate:.3g}); the step was not taken. Likely causes: a learning rate that is too high, "
            "rewards or coefficients that are huge, half precision. Begin again with smaller ones, from an earlier "
            "checkpoint or from the start"
        )


def check_trained(module: nn.Module, learning_rate: float, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Check that weights, and the optimiser's moments, are finite after training.

    Raises:
        TrainingError: some are not.
    """
    broken = not_finite(module)
    if not broken and optimizer is not None and not all(map(_is_finite, moments(optimizer))):
        broken = ["the optimiser's moments"]
    if broken:
        raise TrainingError(
            f"training diverged: weights are not finite (NaN or infinite) in {_several(broken)} (learning rate "
            f"{learning_rate:.3g}). Nothing was saved of it; begin again with a lower learning rate, or smaller "
            "rewards and coefficients, from an earlier checkpoint or from the start"
        )


def moments(optimizer: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    """Yield the tensors that an optimiser keeps for its parameters."""
    states = optimizer.state.values()
    return (value for state in states for value in state.values() if isinstance(value, torch.Tensor))


def _is_finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


RATIO_BOUND = 1e-2
"""|ratio − 1| that is allowed in fp32. Cached and whole passes differ by about 1e-5 there, anything wrong by far
more."""
HALF_PRECISION_STEPS = 64
"""In bf16 and fp16 the bound is so many times the dtype's eps: two passes, each with logits up to 32 in size, which
carry a rounding error of 32·eps. That is 0.5 in bf16 (seen on three small models: 0.05 to 0.23) and 0.0625 in fp16
(0.006 to 0.023)."""

FAR = 0.1
"""``approx_kl`` in nats per token, over an iteration's updates. A ratio at PPO's clip of 0.2 is 0.02 nats away."""
FAR_PER_RESPONSE = 4.0
"""The same in nats per response. Tasks of a few tokens are learned well at 0.5 a token: there is little to destroy."""
CLIPPED = 0.5
"""Share of the tokens beyond the clip range, which have no gradient any more, where a response is also that far away.
Runs that go well have 0.05 to 0.2."""
COLLAPSED = 0.1
"""Entropy, as a share of the first iteration's, where the score has not risen. A score that rises while the entropy
falls is what learning a task with one answer looks like."""
EXPLODED = 30.0
"""KL to the reference in nats per response, where it is also more than EXPLODED_PER_TOKEN per token."""
EXPLODED_PER_TOKEN = 0.5


class TrainingWarning(UserWarning):
    """The policy moves so far that it is probably being destroyed."""


# --- what stops a run ------------------------------------------------------------------------------------------


def ratio_bound(model: nn.Module) -> float:
    """Return how far the first minibatch's ratio may be from 1, given the coarsest dtype of a model's parameters."""
    eps = max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
    return max(RATIO_BOUND, HALF_PRECISION_STEPS * eps) if eps > torch.finfo(torch.float32).eps else RATIO_BOUND


def check_first_ratio(error: float, model: nn.Module) -> None:
    """Refuses to train on responses that another distribution wrote.

    Args:
        error: max |π(a|s)/π_rollout(a|s) − 1| over the first minibatch of an iteration, before its step.
        model: the policy's.

    Raises:
        TrainingError: the error is above the bound, or not a number.
    """
    bound = ratio_bound(model)
    if not error <= bound:
        raise TrainingError(
            f"the first minibatch's ratio is {error:.3g} away from 1, and at most {bound:.3g} is allowed: the policy "
            "that is trained is not the one that wrote the responses, so their gradient would be wrong. Likely causes: "
            "layers that behave differently in training (dropout, batch statistics, random routing); weights that were "
            "changed after the rollout, as by a callback; a model or an attention kernel that computes something else "
            "under padding or with a cache; half precision; a wrapper that edits observations; sampling settings that "
            "were changed after construction"
        )


# --- what is warned of -----------------------------------------------------------------------------------------


def alarms(row: Mapping[str, float], first: Mapping[str, float]) -> dict[str, str]:
    """Find in an iteration's metrics what a user should be warned of.

    Args:
        row: as logged; a metric that is absent warns of nothing.
        first: the metrics of the run's first iteration.

    Returns:
        By kind (``"approx_kl"``, ``"clip_fraction"``, ``"entropy"``, ``"kl"``) the number, its threshold, and what to
        change.
    """
    kl, length = row.get("rollout/kl", 0.0), row.get("rollout/length", 1.0)
    moved, clipped = row.get("train/approx_kl", 0.0), row.get("train/clip_fraction", 0.0)
    entropy, start = (each.get("train/entropy", 1.0) for each in (row, first))
    on_policy = row.get("train/first_minibatch_ratio_error", 0.0) < 1  # best-of-n leaves what samples for it
    far = on_policy and moved * length > FAR_PER_RESPONSE
    rate = f"learning_rate ({row.get('train/learning_rate', math.nan):.2g} now)"
    nearer = f"Lower {rate}, set target_kl (such as 0.02), or take fewer n_epochs"
    found: dict[str, str] = {}
    if far and moved > FAR:
        found["approx_kl"] = (
            f"approx_kl is {moved:.3g} nats per token (above {FAR}): one iteration took the policy far from the one "
            f"that wrote its responses. {nearer}"
        )
    if far and clipped > CLIPPED:
        found["clip_fraction"] = (
            f"clip_fraction is {clipped:.2f} (above {CLIPPED}): most tokens are beyond clip_range and teach nothing. "
            f"{nearer}"
        )
    if entropy < COLLAPSED * start and not _rose(row, first):
        found["entropy"] = (
            f"entropy fell to {entropy:.2g} nats per token from {start:.2g} (below {COLLAPSED:.0%} of it), and the "
            "score did not rise: the policy writes the same whatever it earns. Raise the KL coefficient, or lower "
            f"{rate}"
        )
    if kl > EXPLODED and kl > EXPLODED_PER_TOKEN * length:
        found["kl"] = (
            f"KL to the reference is {kl:.3g} nats per response (above {EXPLODED:.0f}) and {kl / length:.2g} per "
            "token: the reference would hardly ever write such responses. Look at samples; raise the KL coefficient "
            f"({row.get('train/beta', math.nan):.2g} now), or lower {rate}"
        )
    return found


def _rose(row: Mapping[str, float], first: Mapping[str, float]) -> bool:
    """Return True if the score is above the first iteration's by more than two standard errors of the difference."""
    there, here = (each.get("rollout/score", 0.0) for each in (first, row))
    error = math.hypot(*(each.get("rollout/score_sem", 0.0) for each in (first, row)))
    return here > there + 2 * error


class Watch:
    """Warns of each kind of alarm once a run."""

    def __init__(self) -> None:
        self.first: Mapping[str, float] | None = None
        self.told: set[str] = set()

    def __call__(self, iteration: int, row: Mapping[str, float]) -> None:
        """Look at an iteration's metrics, and give a :class:`TrainingWarning` for what it finds."""
        self.first = row if self.first is None else self.first
        for kind, message in alarms(row, self.first).items():
            if kind not in self.told:
                self.told.add(kind)
                warnings.warn(f"iteration {iteration + 1}: {message}", TrainingWarning, stacklevel=4)
