"""Checks for NaN and infinity: training stops, if possible before the step, and such weights are never saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
