"""Numbers that are not finite: they stop training, before a step where that can be known, and are never saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class TrainingError(RuntimeError):
    """Training cannot go on: it is not on what was sampled, or a number is not finite. Checkpoints stay as they are.

    Attributes:
        batch: what was trained on then, where it is known: an iteration's :class:`textgym.types.Episodes`, or rows of
            texts.
    """

    batch: Any = None


@contextmanager
def naming_batch(batch: Any) -> Iterator[None]:
    """Put what is trained on in the block into the :class:`TrainingError` that ends it."""
    try:
        yield
    except TrainingError as error:
        error.batch = batch
        raise


def not_finite(module: nn.Module) -> list[str]:
    """Names of the parameters that hold a NaN or an infinity."""
    return [name for name, parameter in module.named_parameters() if not torch.isfinite(parameter).all()]


def check_loaded(module: nn.Module, argument: str) -> None:
    """ValueError where a model comes with weights that are not finite; ``argument`` is what it was given as."""
    broken = not_finite(module)
    if broken:
        raise ValueError(
            f"{argument} has weights that are not finite (NaN or infinite) in {_several(broken)}; it has diverged, or "
            "its file is damaged: expected a checkpoint from before that"
        )


def check_step(loss: float, gradient_norm: float, learning_rate: float) -> None:
    """Refuses a gradient step that would make weights NaN.

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
    """Refuses weights that a step made NaN or infinite, and moments of the optimiser.

    Raises:
        TrainingError: some are.
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
    """Yield what an optimiser keeps of each parameter."""
    states = optimizer.state.values()
    return (value for state in states for value in state.values() if isinstance(value, torch.Tensor))


def _is_finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
