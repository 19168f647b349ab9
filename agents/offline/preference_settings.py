"""Settings of learning from preferences without sampling: DPO, IPO and KTO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from textgym.numbers import LARGEST_RATE, SettingError, check, count, finite

PairLoss: TypeAlias = Literal["sigmoid", "ipo"]


@dataclass(frozen=True)
class PreferenceSettings:
    """Settings that all losses on preferences have."""

    beta: float = 0.1
    """KL coefficient β: the price of one nat of KL to the model before training."""
    epochs: int = 1
    """Passes over the data."""
    learning_rate: float = 1e-4
    """Initial learning rate of Adam; it decays linearly to 0."""
    batch_size: int = 32
    """Examples per gradient step."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradient; a larger one is scaled down."""

    def __post_init__(self) -> None:
        check(self, count, "epochs", "batch_size")
        check(self, finite, "beta", "max_grad_norm", above=0)
        check(self, finite, "learning_rate", above=0, high=LARGEST_RATE)


@dataclass(frozen=True)
class DPOSettings(PreferenceSettings):
    """Settings of direct preference optimisation (Rafailov 2023), and of IPO (Azar 2023)."""

    beta: float = 0.1
    """KL coefficient β: the price of one nat of KL to the model before training. Published: 0.1; 0.5 for summaries."""
    epochs: int = 1
    """Passes over the comparisons."""
    learning_rate: float = 1e-4
    """Initial learning rate of Adam; it decays linearly to 0. Published: 1e-6 (RMSprop, 2.8 billion parameters)."""
    batch_size: int = 32
    """Comparisons per gradient step. Published: 64."""
    loss: PairLoss = "sigmoid"
    """Loss of a comparison: 'sigmoid' is DPO's, 'ipo' regresses the log-ratio to 1/(2β), finite if all labels agree."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("sigmoid", "ipo"):
            raise SettingError(f"loss={self.loss!r} is not one of 'sigmoid', 'ipo'")


@dataclass(frozen=True)
class KTOSettings(PreferenceSettings):
    """Settings of Kahneman–Tversky optimisation (Ethayarajh 2024)."""

    beta: float = 0.1
    """β, the slope of the loss in log-ratios: the larger, the nearer to the model before training. Published: 0.1."""
    epochs: int = 1
    """Passes over the completions."""
    learning_rate: float = 1e-4
    """Initial learning rate of Adam; it decays linearly to 0."""
    batch_size: int = 32
    """Completions per gradient step, at least 2."""
    desirable_weight: float = 1.0
    """Weight λ_D of desirable completions. Published: 1; with uneven labels λ_D·n_D should be about λ_U·n_U."""
    undesirable_weight: float = 1.0
    """Weight λ_U of undesirable completions. Published: 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "desirable_weight", "undesirable_weight", above=0)
        if self.batch_size < 2:
            raise SettingError(
                f"batch_size={self.batch_size}; expected at least 2: KTO measures its KL by prompts with the "
                "completions of other rows of their batch"
            )
