"""Settings of ``textgym bench``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.numbers import check, check_given, check_words, count


@dataclass(frozen=True)
class BenchRun:
    """Do the runs of an experiment that its results file does not hold yet, and show what all say."""

    experiment: tyro.conf.Positional[str]
    """Its name; 'textgym bench list' tells them."""
    algorithms: tuple[str, ...] | None = None
    """By name (ppo, nlpo, …, sft), a class of your own as package.module:Class or path/to/file.py:Class, or a stock one
    such as stable_baselines3:PPO. Default: those of the experiment."""
    tasks: tuple[str, ...] | None = None
    """By name. Default: those of the experiment."""
    seeds: int | None = None
    """Seeds 0, 1, … of each run. Default: as many as the experiment asks for; an interval needs 3."""
    settings: dict[str, int | float] = field(default_factory=dict)
    """Numbers of the experiment that shall differ, such as 'tokens 100000'."""
    jobs: int = 1
    """Runs at once, each in a process of one thread. No result depends on it."""
    out: Path | None = None
    """The results file, JSON Lines; runs that it holds are not done again. Default: bench/EXPERIMENT.jsonl."""

    def __post_init__(self) -> None:
        check(self, count, "jobs")
        check_given(self, count, "seeds")
        check_words(self, "experiment")


@dataclass(frozen=True)
class BenchReport:
    """Write report.html from results files; its tables also as CSV, and as Markdown in report.md."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Files that 'textgym bench run' wrote."""
    out: Path
    """A directory."""


@dataclass(frozen=True)
class BenchList:
    """Tell the experiments, what each asks, and which of its numbers can be set."""


@dataclass(frozen=True)
class BenchConfig:
    """Compare algorithms. Speed is measured by 'python -m textgym.benchmarks.throughput', which has no seeds."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[BenchRun, tyro.conf.subcommand("run")]
        | Annotated[BenchReport, tyro.conf.subcommand("report")]
        | Annotated[BenchList, tyro.conf.subcommand("list")]
    ]
