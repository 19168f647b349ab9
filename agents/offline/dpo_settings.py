"""Settings of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.numbers import LARGEST_RATE, check, count, finite


@dataclass(frozen=True)
class DPOSettings:
    """Settings of learning from comparisons."""

    beta: float = 0.1
    """β, the price of a nat of KL to the model as it was. Published: 0.1; 0.5 for summaries."""
    epochs: int = 1
    """Passes over the comparisons."""
    learning_rate: float = 1e-4
    """Adam's initial rate; it decays linearly to 0. Published: 1e-6 (RMSprop, 2.8 billion parameters)."""
    batch_size: int = 32
    """Comparisons per gradient step. Published: 64."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        check(self, count, "epochs", "batch_size")
        check(self, finite, "beta", "max_grad_norm", above=0)
        check(self, finite, "learning_rate", above=0, high=LARGEST_RATE)
