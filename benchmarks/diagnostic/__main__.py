"""``python -m textgym.benchmarks.diagnostic``: an algorithm, one set of hyper-parameters, on every diagnostic task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.agents.names import find_algorithm
from textgym.benchmarks.diagnostic.runs import run_all
from textgym.benchmarks.diagnostic.score import score_table
from textgym.benchmarks.diagnostic.settings import Settings
from textgym.files import write_text
from textgym.tasks import DIAGNOSTIC


@dataclass(frozen=True)
class Experiment:
    """An algorithm with one set of hyper-parameters on the diagnostic tasks, scored by the distance to the optimum."""

    tasks: tuple[str, ...] = DIAGNOSTIC
    """Which tasks, by name."""
    seeds: int = 5
    """Seeds 0, 1, … of each task."""
    jobs: int = 2
    """Processes at once, of one thread each."""
    out: Path | None = None
    """A file for the table."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment and prints its table."""
    experiment = tyro.cli(Experiment, args=arguments, prog="python -m textgym.benchmarks.diagnostic")
    if experiment.seeds < 1 or experiment.jobs < 1:
        raise SystemExit(f"error: seeds={experiment.seeds}, jobs={experiment.jobs}; expected at least 1 of each")
    try:
        find_algorithm(experiment.settings.algorithm)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    started = time.perf_counter()
    runs = run_all(experiment.tasks, experiment.seeds, experiment.settings, experiment.jobs)
    shown = ", ".join(f"{name}={value}" for name, value in asdict(experiment.settings).items() if value is not None)
    wall = time.perf_counter() - started
    table = f"{score_table(runs)}\n{shown}. {wall:.0f} s on {experiment.jobs} processes.\n"
    print(table)
    if experiment.out is not None:
        write_text(experiment.out, table)


if __name__ == "__main__":
    main()
