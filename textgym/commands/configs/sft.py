"""Settings of ``textgym sft``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.shared import (
    DemonstrationCount,
    EvalEpisodes,
    Log,
    Model,
    Overwrite,
    ReadTokens,
    Resume,
    Seed,
    SkipBad,
    TaskParameters,
    Truncated,
)
from textgym.numbers import MOST_TOKENS, check, check_given, check_words, count, random_seed


@dataclass(frozen=True)
class SFTConfig:
    """Fine-tune a language model on demonstrations: prompts with completions to imitate."""

    out: Path
    """Directory of the run: configuration, metrics, samples, the model of the best epoch, report."""
    data: Path | None = None
    """Demonstrations: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields 'prompt,
    completion' or 'messages'. Of comparisons the preferred completion is learned; of rows with 'text' every token."""
    task: str | None = None
    """Id of a task, such as textgym/Reviews-v0. Its reference texts are the demonstrations unless 'data' is given; it
    also gives a base model, a gold reward and metrics."""
    parameters: TaskParameters = field(default_factory=dict)
    count: DemonstrationCount = None
    model: Model = None
    validation: Path | None = None
    """Demonstrations to validate on, in a file like 'data'. Default: the task's validation split, or a tenth of the
    prompts of 'data'."""
    reward: str | None = None
    """Reward that scores samples after each epoch and chooses the epoch to keep: 'rm:DIR', 'gold' (of the task),
    'module:function' or 'path/to/file.py:function'. Default: validation loss chooses, which over-fits early."""
    eval_episodes: EvalEpisodes = 256
    max_new_tokens: int | None = None
    """Maximum length of sampled responses, in tokens. Default: the task's, or that of the longest demonstration."""
    truncation: Truncated = "error"
    skip_bad: SkipBad = 0
    special_tokens: ReadTokens = "text"
    log: Log = ()
    seed: Seed = 0
    overwrite: Overwrite = False
    resume: Resume = False
    settings: Annotated[SFTSettings, tyro.conf.arg(name="")] = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        check(self, count, "eval_episodes")
        check_given(self, count, "count")
        check_given(self, count, "max_new_tokens", most=MOST_TOKENS)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "reward")
