"""Settings of ``textgym tamer``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.commands.configs.shared import Log, Model, Overwrite, ReadTokens, Seed, SkipBad, TaskParameters
from textgym.numbers import check, check_words, count, finite, random_seed
from textgym.rewards.feedback.settings import FeedbackSettings


@dataclass(frozen=True)
class TamerConfig:
    """Train a model of people's feedback on single tokens (TAMER, Deep TAMER); a dense reward."""

    out: Path
    """Directory of the run: configuration, metrics, evaluation, the model (in 'checkpoint'), report. Use it as a reward
    by 'tamer:OUT'."""
    data: Path
    """Feedback: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with the fields 'prompt,
    completion, tokens, shown, events'; 'shown' holds the seconds at which the texts 'tokens' appeared, 'events' pairs
    of seconds and value."""
    task: str | None = None
    """Id of a task, such as textgym/Reviews-v0; gives a base model."""
    parameters: TaskParameters = field(default_factory=dict)
    model: Model = None
    delay_low: float = 0.2
    """Shortest delay between a token and the feedback on it, in seconds. Published: 0.2 (Warnell 2018)."""
    delay_high: float = 4.0
    """Longest delay, in seconds; all between them are equally likely. Published: 4 (Warnell 2018)."""
    skip_bad: SkipBad = 0
    special_tokens: ReadTokens = "text"
    log: Log = ()
    seed: Seed = 0
    overwrite: Overwrite = False
    resume: bool = False
    """Keep the run in 'out' if it is complete, and repeat it from the beginning if it was cut off."""
    settings: Annotated[FeedbackSettings, tyro.conf.arg(name="")] = field(default_factory=FeedbackSettings)

    def __post_init__(self) -> None:
        check(self, finite, "delay_low", low=0)
        check(self, finite, "delay_high", above=self.delay_low)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model")
