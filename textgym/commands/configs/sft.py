"""Settings of ``textgym sft``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.numbers import MOST_TOKENS, check, check_given, check_words, count, random_seed
from textgym.types import Service, SpecialTokens, Truncation


@dataclass(frozen=True)
class SFTConfig:
    """Fine-tune a language model on demonstrations: prompts with completions to imitate."""

    out: Path
    """The run's directory: configuration, metrics, samples, the model of the best epoch, report."""
    data: Path | None = None
    """JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields 'prompt, completion' or
    'messages'. Of comparisons the preferred completion is learned; of rows with 'text' every token."""
    task: str | None = None
    """A task's id, such as textgym/Reviews-v0. Its reference texts are the demonstrations, unless 'data' is given; it
    also gives a base model, a gold reward and metrics."""
    count: int | None = None
    """How many of the demonstrations to learn from, drawn by the seed. Default: all."""
    model: str | None = None
    """A causal language model with its tokenizer: a directory, a run or a hub id. Default: the task's base model."""
    validation: Path | None = None
    """Demonstrations to validate on, in a file like 'data'. Default: the task's validation split, or a tenth of the
    prompts of 'data'."""
    reward: str | None = None
    """Judges samples after each epoch and chooses the checkpoint that is kept: 'rm:DIR', 'gold' (of the task),
    'module:function' or 'path/to/file.py:function'. Without it, validation loss chooses, which over-fits early."""
    eval_episodes: int = 256
    """Responses to validation prompts that are measured before, after each epoch, and after."""
    max_new_tokens: int | None = None
    """The longest of these responses, in tokens. Default: the task's, or the longest demonstration."""
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
    """Continue the run that stands in 'out', after its last whole epoch."""
    settings: Annotated[SFTSettings, tyro.conf.arg(name="")] = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        check(self, count, "eval_episodes")
        check_given(self, count, "count")
        check_given(self, count, "max_new_tokens", most=MOST_TOKENS)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "reward")
