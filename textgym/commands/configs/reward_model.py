"""Settings of ``textgym reward-model``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.commands.configs.shared import Log, Model, Overwrite, ReadTokens, Seed, SkipBad, TaskParameters, Truncated
from textgym.numbers import check, check_words, count, random_seed
from textgym.rewards.models.settings import RewardModelSettings


@dataclass(frozen=True)
class RewardModelConfig:
    """Train a reward model, or an ensemble, on preferences of labellers."""

    out: Path
    """Directory of the run: configuration, metrics, evaluation, the model (in 'checkpoint'), report. Use it as a reward
    by 'rm:OUT'."""
    data: Path
    """Preferences: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields 'prompt,
    completions, ranks' (0 is the best), 'prompt, chosen, rejected', 'chosen, rejected' (whose common beginning is the
    prompt) or 'prompt, completion, label'."""
    task: str | None = None
    """Id of a task, such as textgym/Reviews-v0; gives a base model, the gold reward to compare with and reference texts
    that score 0."""
    parameters: TaskParameters = field(default_factory=dict)
    model: Model = None
    validation: Path | None = None
    """Preferences held out for evaluation, in a file like 'data'. Default: the share 'heldout' of the prompts of
    'data'."""
    demonstrations: Path | None = None
    """Texts that score 0 on average, in a file with the fields 'prompt' and 'completion'. Default: the task's
    reference texts."""
    gold: str | None = None
    """True reward to compare with: 'module:function', 'path/to/file.py:function', 'rm:DIR' or a NAME. Default: the
    task's."""
    prompts: Path | None = None
    """Prompts in a file like that of 'textgym train', whose further fields reach the gold reward. Default: the task's
    prompts."""
    truncation: Truncated = "error"
    skip_bad: SkipBad = 0
    special_tokens: ReadTokens = "text"
    log: Log = ()
    seed: Seed = 0
    overwrite: Overwrite = False
    resume: bool = False
    """Keep the run in 'out' if it is complete, and repeat it from the beginning if it was cut off."""
    settings: Annotated[RewardModelSettings, tyro.conf.arg(name="")] = field(default_factory=RewardModelSettings)

    def __post_init__(self) -> None:
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "gold")
