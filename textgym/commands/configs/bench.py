"""Settings of ``textgym bench``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.numbers import check, check_given, check_words, count, random_seed


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
    """Number of seeds: each run is repeated with seeds 0, 1, … A seed also draws the instance of a task that has
    several. Default: the experiment's; an interval needs 3."""
    seed: int | None = None
    """One seed alone, in place of --seeds."""
    tuned: Path | None = None
    """Tuned file of 'textgym bench tune'. Default: each algorithm's own settings, at the experiment's learning rate."""
    settings: dict[str, int | float] = field(default_factory=dict)
    """Experiment settings to override, e.g. 'tokens 100000'."""
    jobs: int = 1
    """Number of parallel processes, each with one thread. No result depends on it."""
    out: Path | None = None
    """Results file, JSON Lines; the runs in it are not repeated. Default: bench/EXPERIMENT.jsonl."""

    def __post_init__(self) -> None:
        check(self, count, "jobs")
        check_given(self, count, "seeds")
        check_given(self, random_seed, "seed")
        check_words(self, "experiment")
        if self.seeds is not None and self.seed is not None:
            raise ValueError(f"seeds={self.seeds}, seed={self.seed}; expected one of them")


@dataclass(frozen=True)
class BenchTune:
    """Try several settings of each algorithm on development instances, and write the best of each into a file."""

    experiment: tyro.conf.Positional[str]
    """Name of the experiment; 'textgym bench list' tells which have instances to tune on."""
    algorithms: tuple[str, ...] | None = None
    """Algorithms, as for 'textgym bench run'. Default: the experiment's."""
    trials: int = 8
    """Number of settings of each algorithm: the published one, and others that are drawn from its search space."""
    seed: int = 0
    """Random seed of the draw."""
    settings: dict[str, int | float] = field(default_factory=dict)
    """Experiment settings to override, e.g. 'tokens 100000'."""
    jobs: int = 1
    """Number of parallel processes, each with one thread. No result depends on it."""
    out: Path | None = None
    """Tuned file, JSON; the runs are kept beside it as .jsonl, and are not repeated. Default:
    bench/EXPERIMENT-tuned.json."""

    def __post_init__(self) -> None:
        check(self, count, "jobs")
        check(self, count, "trials", least=2)
        check(self, random_seed, "seed")
        check_words(self, "experiment")
        if self.out is not None and self.out.suffix != ".json":
            raise ValueError(f"out={str(self.out)!r}; expected a name that ends in .json")


@dataclass(frozen=True)
class BenchReport:
    """Write report.html from results files; its tables also as CSV, and as Markdown in report.md."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Results files of 'textgym bench run', .jsonl, and tuned files of 'textgym bench tune', .json."""
    out: Path
    """Directory of the report."""


@dataclass(frozen=True)
class BenchList:
    """List the experiments, the question each answers, its settings, and the instances that it is tuned on, if any."""


@dataclass(frozen=True)
class BenchConfig:
    """Run experiments that compare algorithms. Measure speed with 'python -m textgym.benchmarks.throughput'."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[BenchRun, tyro.conf.subcommand("run")]
        | Annotated[BenchTune, tyro.conf.subcommand("tune")]
        | Annotated[BenchReport, tyro.conf.subcommand("report")]
        | Annotated[BenchList, tyro.conf.subcommand("list")]
    ]
