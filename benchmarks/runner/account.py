"""Account of a results file: the commands that make its runs, their cost, and where they ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textgym.benchmarks.runner.experiment import Experiment, Job, Results
from textgym.reports.findings import Table

Origin = Mapping[str, Any]
SHOWN = ("commit", "torch", "transformers", "python", "cpu", "threads")


def runs_table(experiment: Experiment, results: Results, origins: Sequence[Origin | None]) -> Table:
    """Return a table of one row: the number of runs, CPU minutes of training, versions and machine; the commands below.

    Args:
        experiment: the experiment.
        results: its results.
        origins: the provenance of each row; None for rows of versions that recorded none.
    """
    minutes = sum(float(result.get("cpu_seconds") or 0) for _, result in results) / 60
    known = [origin for origin in origins if origin is not None]
    told = tuple(_values([origin.get(name) for origin in known]) for name in SHOWN)
    commands = "; ".join(commands_of(experiment, [job for job, _ in results]))
    columns = ("runs", "CPU minutes", *SHOWN)
    return Table("Runs", columns, ((len(results), round(minutes), *told),), f"Made by: {commands}")


def _values(values: Sequence[Any]) -> str:
    """Return the values that occur, sorted; "unknown" without any."""
    return ", ".join(sorted({str(value) for value in values})) or "unknown"


def commands_of(experiment: Experiment, jobs: Sequence[Job]) -> list[str]:
    """Return the commands that make these runs, one for all tasks that have the same algorithms and seeds."""
    plan = experiment.plan
    planned = [job for job in jobs if job.task in plan.tasks or job.algorithm in plan.algorithms]
    trained = [name for name in dict.fromkeys(job.algorithm for job in planned) if name in _names(experiment, planned)]
    groups: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = {}
    for task in dict.fromkeys(job.task for job in planned):
        own = [job for job in planned if job.task == task]
        algorithms = tuple(name for name in trained if any(job.algorithm == name for job in own))
        groups.setdefault((algorithms, tuple(sorted({job.seed for job in own}))), []).append(task)
    return [
        " ".join(_command(experiment, jobs, algorithms, tasks, chosen))
        for (algorithms, seeds), tasks in groups.items()
        for chosen in _seed_words(seeds, plan.seeds)
    ]


def _seed_words(seeds: Sequence[int], planned: Sequence[int]) -> list[list[str]]:
    """Return the options that choose seeds: none for the plan's, else one for 0, 1, 2, …, or one for each seed."""
    if list(seeds) == list(planned):
        return [[]]
    if list(seeds) == list(range(len(seeds))):
        return [["--seeds", str(len(seeds))]]
    return [["--seed", str(seed)] for seed in seeds]


def _names(experiment: Experiment, jobs: Sequence[Job]) -> set[str]:
    """Return the algorithms of runs that train something: others have no settings, or no name of one word."""
    return {job.algorithm for job in jobs if job.settings and " " not in job.algorithm} | set(
        experiment.plan.algorithms
    )


def _command(
    experiment: Experiment, jobs: Sequence[Job], algorithms: Sequence[str], tasks: Sequence[str], seeds: Sequence[str]
) -> list[str]:
    plan, words = experiment.plan, ["textgym", "bench", "run", experiment.name]
    if set(algorithms) != set(plan.algorithms):
        words += ["--algorithms", *algorithms]
    if set(tasks) != set(plan.tasks):
        words += ["--tasks", *tasks]
    words += seeds
    changed = {name: value for name, value in _budget(jobs).items() if plan.settings.get(name, value) != value}
    tuned = any(job.settings.get("trials") for job in jobs)
    if tuned:
        # What a tuned file gives may be alike for all algorithms, too; the rest is the experiment's.
        changed = {name: value for name, value in changed.items() if name in (*experiment.shared, *BUDGET)}
    if changed:
        words += ["--settings", *(str(part) for pair in changed.items() for part in pair)]
    if tuned:
        words += ["--tuned", f"{experiment.name}-tuned.json"]
    return words


BUDGET = ("tokens", "budgets")
"""Settings that stand in the arm of a run."""


def _budget(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the settings that all runs share, and the largest budget of tokens."""
    shared = {
        name: value
        for name, value in jobs[0].settings.items()
        if all(job.settings.get(name, value) == value for job in jobs)
    }
    budgets = sorted({job.arm["tokens"] for job in jobs if "tokens" in job.arm}, reverse=True)
    if budgets:
        return {**shared, "tokens": budgets[0], "budgets": len(budgets)}
    return shared
