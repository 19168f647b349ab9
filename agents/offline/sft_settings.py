"""What fine-tuning is told, and what it tells of each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from textgym.numbers import LARGEST_RATE, check, check_given, count, finite

EpochRow: TypeAlias = dict[str, float]
"""One epoch's numbers: ``iteration`` (the epoch; 0 is before training), ``train/…``, ``validation/…``."""


@dataclass(frozen=True)
class SFTSettings:
    """How a model is fine-tuned."""

    epochs: int = 16
    """Passes over the demonstrations, at most: the best epoch is kept. Published: 16 (Ouyang 2022)."""
    stop_patience: int | None = None
    """Train no further after so many epochs in a row that are no better than the best before them, by the figure that
    chooses the epoch."""
    learning_rate: float = 1e-4
    """Adam's initial rate; a cosine takes it to 10 %. Published: 9.65e-6 (Ouyang 2022, 1.3 billion parameters)."""
    batch_size: int = 32
    """Demonstrations per gradient step. Published: 32."""
    accumulate: int = 1
    """Parts that a batch is cut into, where it does not fit into memory as a whole."""
    residual_dropout: float = 0.0
    """Dropout on the output of every attention and feed-forward part, the only one there is. Published: 0.2."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass; weights and Adam stay fp32."""

    def __post_init__(self) -> None:
        check(self, count, "epochs", "batch_size", "accumulate")
        check(self, finite, "learning_rate", above=0, high=LARGEST_RATE)
        check(self, finite, "max_grad_norm", above=0)
        check(self, finite, "residual_dropout", low=0, below=1)
        check_given(self, count, "stop_patience")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision={self.precision!r} is not one of 'fp32', 'bf16', 'fp16'")
