"""Settings of TAMER's training; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

from textgym.numbers import check, finite
from textgym.rewards.models.settings import FitSettings

Fitted: TypeAlias = Literal["all", "head"]
STEPS = ("learning_rate", "epochs", "batch_size")
"""Settings of gradient steps."""


@dataclass(frozen=True)
class FeedbackSettings(FitSettings):
    """Settings of fitting Ĥ; see :func:`textgym.rewards.feedback.training.train_feedback_model`."""

    epochs: int = 4
    """Passes over the responses."""
    batch_size: int = 8
    """Responses per gradient step, each with all of its feedback."""
    fitted: Fitted = "all"
    """Weights that are trained: 'all', by gradient steps (Deep TAMER), or the linear 'head' alone, exactly, by weighted
    least squares (TAMER with linear features); the latter takes no epochs, batch size and learning rate."""
    heldout: float = 0.1
    """Share of the prompts that is held out for evaluation; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "heldout", low=0, below=1)
        if self.fitted not in get_args(Fitted):
            raise ValueError(f"fitted={self.fitted!r}; expected one of {', '.join(get_args(Fitted))}")
        changed = [own.name for own in fields(self) if own.name in STEPS and getattr(self, own.name) != own.default]
        if self.fitted == "head" and changed:
            raise ValueError(
                f"{changed[0]}={getattr(self, changed[0])} belongs to gradient steps, and fitted='head' solves for the "
                f"weights; leave {changed[0]} out, or pass fitted='all'"
            )
