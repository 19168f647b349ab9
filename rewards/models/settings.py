"""Settings of reward models' training; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.numbers import LARGEST_RATE, check, count, finite
from textgym.types import Combine


@dataclass(frozen=True)
class FitSettings:
    """Settings of fitting one reward model; see :func:`textgym.rewards.models.training.train_reward_model`."""

    learning_rate: float = 1e-4
    """Peak learning rate of Adam, after a short linear warm-up; it then decays to 0."""
    epochs: int = 1
    """Passes over the data. More than one overfits quickly."""
    batch_size: int = 8
    """Prompts per gradient step; each brings all of its completions."""

    def __post_init__(self) -> None:
        check(self, finite, "learning_rate", above=0, high=LARGEST_RATE)
        check(self, count, "epochs", "batch_size")


@dataclass(frozen=True)
class RewardModelSettings(FitSettings):
    """Settings of training a reward model, or an ensemble, and measuring it."""

    heldout: float = 0.1
    """Share of the prompts that is held out for evaluation."""
    ensemble: int = 1
    """Number of models to train, each with a head and an order of the data of its own."""
    combine: Combine = "mean"
    """Combination of an ensemble's scores: 'mean', 'min', or 'uncertainty' (mean less weighted variance)."""
    uncertainty_weight: float = 0.1
    """Weight λ of the members' variance, for 'uncertainty'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "ensemble")
        check(self, finite, "heldout", above=0, below=1)
        check(self, finite, "uncertainty_weight", low=0)
