"""Settings of ``textgym bench``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.numbers import check, check_given, check_words, count


@dataclass(frozen=True)
class BenchRun:
    """Run an experiment's missing jobs and print its findings."""

    experiment: tyro.conf.Positional[str]
    """Name of the experiment; 'textgym bench list' lists them."""
    algorithms: tuple[str, ...] | None = None
    """Algorithms: names (ppo, nlpo, …, sft), classes of your own as package.module:Class or path/to/file.py:Class, or
    stock ones such as stable_baselines3:PPO. Default: the experiment's."""
    tasks: tuple[str, ...] | None = None
    """Tasks, by name. Default: the experiment's."""
    seeds: int | None = None
    """Number of seeds: each run is repeated with seeds 0, 1, … Default: the experiment's; an interval needs 3."""
    settings: dict[str, int | float] = field(default_factory=dict)
    """Experiment settings to override, e.g. 'tokens 100000'."""
    jobs: int = 1
    """Number of parallel processes, each with one thread. No result depends on it."""
    out: Path | None = None
    """Results file, JSON Lines; the runs in it are not repeated. Default: bench/EXPERIMENT.jsonl."""

    def __post_init__(self) -> None:
        check(self, count, "jobs")
        check_given(self, count, "seeds")
        check_words(self, "experiment")


@dataclass(frozen=True)
class BenchReport:
    """Write report.html from results files; its tables also as CSV, and as Markdown in report.md."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Results files of 'textgym bench run'."""
    out: Path
    """Directory of the report."""


@dataclass(frozen=True)
class BenchList:
    """List the experiments, the question each answers, and its settings."""


@dataclass(frozen=True)
class BenchConfig:
    """Run experiments that compare algorithms. Measure speed with 'python -m textgym.benchmarks.throughput'."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[BenchRun, tyro.conf.subcommand("run")]
        | Annotated[BenchReport, tyro.conf.subcommand("report")]
        | Annotated[BenchList, tyro.conf.subcommand("list")]
    ]
