"""Settings of ``textgym distill``: those of ``textgym train`` with a teacher, less those without a meaning for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro

from textgym.agents.settings import Common, DistillationSettings, KLEstimator
from textgym.commands.configs.hyperparameters import cautious, hyperparameters_class
from textgym.commands.configs.train import TrainConfig

ALGORITHM = "distill"
Value = TypeVar("Value")
Hidden: TypeAlias = Annotated[Value, tyro.conf.Fixed, tyro.conf.Suppress]
"""A setting that is no flag."""


@dataclass(frozen=True)
class DistillHyperparameters(hyperparameters_class(ALGORITHM)):  # type: ignore[misc]  # a class made for the algorithm
    """Hyperparameters of distillation; β and the place of the KL have no meaning there."""

    beta: Hidden[float] = Common.beta
    kl_target: Hidden[float | None] = Common.kl_target
    value: Hidden[str] = Common.value
    kl_in_loss: Hidden[bool] = DistillationSettings.kl_in_loss
    kl_estimator: Hidden[KLEstimator] = DistillationSettings.kl_estimator


def _cautious() -> Any:
    return DistillHyperparameters(warmup_iterations=cautious(ALGORITHM).warmup_iterations)


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """Train a student to write as its teacher, another language model with the same tokens, on the student's samples.

    In each state of its own responses the student learns the teacher's whole distribution (Agarwal 2023). No reward is
    needed: one that is given, or a task's gold, is only measured. The run is that of 'textgym train --algorithm distill
    --reference TEACHER', and each command resumes the other's.
    """

    reference: Annotated[
        str,
        tyro.conf.arg(
            name="teacher",
            help="Teacher: a directory, a run or a hub id of a model with the same tokens, of any architecture and "
            "size; or 'without-adapters', the model below the adapters of 'model'.",
        ),
    ] = field(kw_only=True)
    reward: Annotated[
        str | None,
        tyro.conf.arg(
            help="Reward that is measured and not trained on, in the form of 'textgym train'. Default: the task's gold "
            "reward, or none."
        ),
    ] = None
    algorithm: Hidden[str] = ALGORITHM
    missing_end_score: Hidden[float | None] = None
    kl_horizon: Hidden[float | None] = None
    hyperparameters: Annotated[DistillHyperparameters, tyro.conf.arg(name="")] = field(default_factory=_cautious)
