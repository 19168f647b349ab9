"""Settings of ``textgym reward-model``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textgym.numbers import LARGEST_RATE, check, check_words, count, finite, random_seed
from textgym.types import Combine, Service, SpecialTokens, Truncation


@dataclass(frozen=True)
class RewardModelConfig:
    """Train a reward model, or an ensemble, on what labellers preferred."""

    out: Path
    """The run's directory: configuration, metrics, evaluation, the model (in 'checkpoint'), report. Use it as a reward
    by 'rm:OUT'."""
    data: Path
    """JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields 'prompt, completions, ranks'
    (0 is the best), 'prompt, chosen, rejected', 'chosen, rejected' (whose common beginning is the prompt) or 'prompt,
    completion, label'."""
    task: str | None = None
    """A task's id, such as textgym/Reviews-v0; gives a base model, the gold reward to compare with and reference texts
    that score 0."""
    model: str | None = None
    """The causal language model to begin from, usually fine-tuned on demonstrations: a directory, a run or a hub id.
    Default: the task's base model."""
    validation: Path | None = None
    """What is held out, in a file like 'data'."""
    heldout: float = 0.1
    """Share of the prompts of 'data' that is held out, where no 'validation' is given."""
    demonstrations: Path | None = None
    """A file with the fields 'prompt' and 'completion', which are to score 0 on average. Default: the task's reference
    texts."""
    gold: str | None = None
    """The true reward to compare with: 'module:function', 'path/to/file.py:function', 'rm:DIR' or a NAME. Default: the
    task's."""
    prompts: Path | None = None
    """A file like that of 'textgym train', whose further fields reach the gold reward. Default: the task's prompts."""
    ensemble: int = 1
    """How many models to train, each with a head and an order of the data of its own."""
    combine: Combine = "mean"
    """How an ensemble's scores become one: 'mean', 'min', or 'uncertainty' (mean less weighted variance)."""
    uncertainty_weight: float = 0.1
    """λ, the price of the members' variance, for 'uncertainty'."""
    learning_rate: float = 1e-4
    """At its peak, after a short warm-up; it then falls to 0."""
    epochs: int = 1
    """Passes over the data. More than one overfits quickly."""
    batch_size: int = 8
    """Prompts in one step; each brings all of its completions."""
    truncation: Truncation = "error"
    """Treatment of rows with more tokens than the model reads: 'error' (they are bad rows), 'left' (their prompt loses
    its beginning, completions stay whole) or 'drop' (they are left out and counted)."""
    skip_bad: int = 0
    """How many bad rows may be left out: malformed, blank, with equal completions, too long. 'skipped.jsonl' lists
    them. Where there are more, nothing is trained."""
    special_tokens: SpecialTokens = "text"
    """Reading of special-token strings, such as '<eos>', in the data: as 'text', or 'parse' for special tokens,
    where a chat template has rendered the prompts already."""
    log: tuple[Service, ...] = ()
    """Services that get the metrics while the run goes on, each through its own client: 'tensorboard', 'wandb',
    'trackio'; several are separated by spaces. See docs/watching.md."""
    seed: int = 0
    """Of everything random."""
    overwrite: bool = False
    """Replace the run that stands in 'out'."""
    resume: bool = False
    """Keep the run that stands in 'out' if it is complete, and do it again from its beginning if it was cut off."""

    def __post_init__(self) -> None:
        check(self, count, "ensemble", "epochs", "batch_size")
        check(self, finite, "heldout", above=0, below=1)
        check(self, finite, "uncertainty_weight", low=0)
        check(self, finite, "learning_rate", above=0, high=LARGEST_RATE)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "gold")
