"""Settings of ``textgym demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textgym.commands.configs.shared import Overwrite, Seed
from textgym.numbers import check, check_given, check_words, finite, random_seed


@dataclass(frozen=True)
class DemoConfig:
    """Watch a GPT learn.

    Imitate a few texts, rank samples, train a reward model on the rankings, and train the GPT against it.
    """

    out: Path = Path("runs/demo")
    """Directory of the run."""
    task: str = "textgym/Reviews-v0"
    """Id of the task."""
    beta: float | None = None
    """KL coefficient β: the price of one nat of KL to the fine-tuned model. Default: the demo's own."""
    seed: Seed = 0
    full: bool = False
    """Rank and train twice: the second reward model also sees samples of the first policy."""
    tiny: bool = False
    """Only check that everything runs: a few samples, a few updates."""
    overwrite: Overwrite = False

    def __post_init__(self) -> None:
        check_given(self, finite, "beta", low=0)
        check(self, random_seed, "seed")
        check_words(self, "task")
