"""Settings of ``textgym dpo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.agents.offline.dpo_settings import DPOSettings
from textgym.numbers import MOST_TOKENS, check, check_given, check_words, count, random_seed
from textgym.types import Service, SpecialTokens, Truncation


@dataclass(frozen=True)
class DPOConfig:
    """Learn from comparisons without reward model and without sampling (Rafailov 2023)."""

    out: Path
    """The run's directory: configuration, metrics, samples, model, report."""
    data: Path
    """Comparisons in JSON Lines, a JSON array, Parquet or a directory saved by datasets: 'prompt, chosen, rejected';
    'chosen, rejected', whose common beginning is the prompt; or 'prompt, completions, ranks', of which every pair of
    different rank counts."""
    model: str | None = None
    """A causal language model with its tokenizer: a directory, a run or a hub id. Default: the task's base model."""
    task: str | None = None
    """A task's id, such as textgym/Reviews-v0; gives a base model, a gold reward and metrics to evaluate by."""
    validation: Path | None = None
    """Comparisons to measure on, in a file like 'data'. Default: a tenth of the prompts of 'data'."""
    reward: str | None = None
    """Scores samples before and after; nothing learns from it. 'rm:DIR', 'gold', 'module:function' or
    'path/to/file.py:function'. Default: the task's gold reward, or none."""
    eval_episodes: int = 256
    """Responses that are measured before and after: to the task's validation prompts, or else those held out."""
    max_new_tokens: int | None = None
    """The longest of these responses, in tokens. Default: the task's, or 48."""
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
    settings: Annotated[DPOSettings, tyro.conf.arg(name="")] = field(default_factory=DPOSettings)

    def __post_init__(self) -> None:
        check(self, count, "eval_episodes")
        check_given(self, count, "max_new_tokens", most=MOST_TOKENS)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "reward")
