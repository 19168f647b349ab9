"""``python -m textgym.benchmarks.family``: all algorithms with one set of defaults, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from textgym.agents.names import ALGORITHMS, find_algorithm
from textgym.benchmarks.family.runs import Job, diagnostic_job, gold_job, run
from textgym.benchmarks.family.tables import diagnostic_table, gold_table
from textgym.benchmarks.grid import run_grid
from textgym.files import write_text
from textgym.tasks import DIAGNOSTIC

TOKENS = 100_000
NEVER = 10**9


@dataclass(frozen=True)
class Experiment:
    """Algorithms side by side; a run that the results file holds already is not done again."""

    experiment: tyro.conf.Positional[Literal["diagnostic", "reviews", "nlpo-mask"]]
    """The diagnostic tasks, scored by their optimum; the gold reward of Reviews, 100k tokens; or on Reviews NLPO with
    a refreshed mask against one that stays as it was."""
    out: Path
    """The results file, JSON Lines."""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Which algorithms, by name; nlpo-mask has its own."""
    seeds: int = 5
    """Seeds 0, 1, … of each."""
    jobs: int = 2
    """Processes at once, of one thread each."""
    table: Path | None = None
    """A Markdown file for the table."""


def grid(experiment: Experiment) -> list[Job]:
    """The runs of an experiment, seed by seed, so that what was done of a killed one compares fairly."""
    seeds = range(experiment.seeds)
    if experiment.experiment == "nlpo-mask":
        arms: list[dict[str, Any]] = [{}, {"target_update": NEVER}]
        return [gold_job("Reviews", "nlpo", seed, TOKENS, **settings) for seed in seeds for settings in arms]
    if experiment.experiment == "reviews":
        return [gold_job("Reviews", name, seed, TOKENS) for seed in seeds for name in experiment.algorithms]
    return [diagnostic_job(task, name, seed) for seed in seeds for name in experiment.algorithms for task in DIAGNOSTIC]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, and prints the table."""
    experiment = tyro.cli(Experiment, args=arguments, prog="python -m textgym.benchmarks.family")
    if experiment.seeds < 1 or experiment.jobs < 1:
        raise SystemExit(f"error: seeds={experiment.seeds}, jobs={experiment.jobs}; expected at least 1 of each")
    try:
        for name in experiment.algorithms:
            find_algorithm(name)
        jobs = grid(experiment)
        results = list(zip(jobs, run_grid(jobs, run, experiment.out, experiment.jobs), strict=True))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    table = (diagnostic_table if experiment.experiment == "diagnostic" else gold_table)(results)
    print(table)
    if experiment.table is not None:
        write_text(experiment.table, table)


if __name__ == "__main__":
    main()
