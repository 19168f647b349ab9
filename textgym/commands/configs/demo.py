"""Settings of ``textgym demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textgym.numbers import check, check_given, check_words, finite, random_seed


@dataclass(frozen=True)
class DemoConfig:
    """Watch a GPT learn: imitate a few texts, rank samples, train a reward model on the rankings, train the GPT
    against it."""

    out: Path = Path("runs/demo")
    """The run's directory."""
    task: str = "textgym/Reviews-v0"
    """The task, by its id."""
    kl_coef: float | None = None
    """β, the price of one nat of KL to the fine-tuned model; by default the demo's own."""
    seed: int = 0
    """Of everything random."""
    full: bool = False
    """Rank and train twice: the second reward model sees samples of the first policy too."""
    tiny: bool = False
    """Only see that everything runs: a few samples, a few updates."""
    overwrite: bool = False
    """Replace the run that stands in 'out'."""

    def __post_init__(self) -> None:
        check_given(self, finite, "kl_coef", low=0)
        check(self, random_seed, "seed")
        check_words(self, "task")
