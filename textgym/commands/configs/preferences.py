"""Settings of the commands that learn from preferences: ``textgym dpo`` and ``textgym kto``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.agents.offline.preference_settings import DPOSettings, KTOSettings, PreferenceSettings
from textgym.commands.configs.shared import (
    EvalEpisodes,
    Log,
    MaxNewTokens,
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
class PreferenceConfig:
    """Learn from preferences without sampling."""

    out: Path
    """Directory of the run: configuration, metrics, samples, model, report."""
    data: Path
    """Preferences: JSON Lines, a JSON array, Parquet or a directory saved by datasets."""
    model: Model = None
    task: str | None = None
    """Id of a task, such as textgym/Reviews-v0; gives a base model, a gold reward and metrics to evaluate by."""
    parameters: TaskParameters = field(default_factory=dict)
    validation: Path | None = None
    """Preferences to validate on, in a file like 'data'. Default: a tenth of the prompts of 'data'."""
    reward: str | None = None
    """Reward that scores samples before and after; nothing learns from it. 'rm:DIR', 'gold', 'module:function' or
    'path/to/file.py:function'. Default: the task's gold reward, or none."""
    eval_episodes: EvalEpisodes = 256
    max_new_tokens: MaxNewTokens = None
    truncation: Truncated = "error"
    skip_bad: SkipBad = 0
    special_tokens: ReadTokens = "text"
    log: Log = ()
    seed: Seed = 0
    overwrite: Overwrite = False
    resume: Resume = False
    settings: Annotated[PreferenceSettings, tyro.conf.arg(name="")] = field(default_factory=PreferenceSettings)

    def __post_init__(self) -> None:
        check(self, count, "eval_episodes")
        check_given(self, count, "max_new_tokens", most=MOST_TOKENS)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "reward")


@dataclass(frozen=True)
class DPOConfig(PreferenceConfig):
    """Learn from comparisons by direct preference optimisation (Rafailov 2023) or IPO (Azar 2023)."""

    data: Path
    """Comparisons: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields 'prompt, chosen,
    rejected'; 'chosen, rejected', whose common beginning is the prompt; or 'prompt, completions, ranks', of which every
    pair of different rank counts."""
    settings: Annotated[DPOSettings, tyro.conf.arg(name="")] = field(default_factory=DPOSettings)


@dataclass(frozen=True)
class KTOConfig(PreferenceConfig):
    """Learn from completions labelled good or bad, by Kahneman–Tversky optimisation (Ethayarajh 2024)."""

    data: Path
    """Labelled completions: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields
    'prompt, completion, label', where label is true or false. Comparisons as 'textgym dpo' reads them count as one good
    and one bad completion each."""
    settings: Annotated[KTOSettings, tyro.conf.arg(name="")] = field(default_factory=KTOSettings)
