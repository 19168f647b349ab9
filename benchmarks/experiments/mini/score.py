"""Normalised gold over the mini suite, its cost, and learning curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textgym.benchmarks.analysis.suite_findings import suite_findings
from textgym.benchmarks.analysis.suite_scores import (
    by_algorithm,
    curves_figure,
    over_seeds,
    suite_scores,
    tasks_of,
    whole_suites,
)
from textgym.benchmarks.experiments.mini.objective import objective_score
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.findings import Cell, Findings, Table

_NOT_METRICS = ("score", "gold", "kl", "length")


def mini_score(job: Job, result: Result) -> float:
    """Return :func:`objective_score` of a run."""
    return objective_score(result, job.settings["beta"])


def mini_findings(results: Results) -> Findings:
    """Return normalised gold after training over the suite, gold itself, its cost, and learning curves."""
    scores = suite_scores(results, mini_score)
    gold = gold_table(results)
    if not scores.by_algorithm:
        return scores.remark(Findings("No algorithm has every task yet.", (gold,)))
    found = suite_findings(scores.by_algorithm, scores.tasks, np.random.default_rng(0))
    figures = (*found.figures, *curves_figure(results, "tokens", "gold reward"))
    return scores.remark(replace(found, tables=(*found.tables, gold, cost_table(results)), figures=figures))


def gold_table(results: Results) -> Table:
    """Return the gold reward after training of each algorithm on each task, below that of the base model."""
    tasks = tasks_of(results)

    def golds(group: Results, stage: str) -> list[list[float]]:
        return [[result[stage]["gold"] for job, result in group if job.task == task] for task in tasks]

    # The base model writes the same in every run: those are no samples of anything.
    rows: list[tuple[Cell, ...]] = [("base model", *(float(np.mean(values)) for values in golds(results, "before")))]
    for name, group in by_algorithm(results).items():
        rows.append((name, *(over_seeds(values) if values else None for values in golds(group, "after"))))
    note = (
        "Means over seeds, on validation prompts. The scores above are normalised: 0 is the base model, 1 a gold of 1."
    )
    return Table("Gold reward", ("algorithm", *tasks), tuple(rows), note)


def cost_table(results: Results) -> Table:
    """Return a row for each algorithm: means over tasks, with intervals over the seeds that have every task."""
    first = results[0][1]["after"]
    metrics = [name for name in first if name not in _NOT_METRICS and all(name in r["after"] for _, r in results)]
    columns = ("algorithm", "gold before", "gold after", "gain", *metrics, "KL", "length", "tokens", "CPU s")
    rows: list[tuple[Cell, ...]] = []
    for name, seeds in whole_suites(results).items():
        table = np.array([np.mean([_numbers(run, metrics) for _, run in of_seed], 0) for of_seed in seeds])
        means = table.mean(0)
        gold = (float(means[0]), over_seeds(table[:, 1]), over_seeds(table[:, 2]))
        rows.append((name, *gold, *map(float, means[3:-2]), round(means[-2]), float(means[-1])))
    tasks = "Means over all tasks, of the seeds that have every task. " if len(tasks_of(results)) > 1 else ""
    note = f"{tasks}KL to the base model in nats per response, length in tokens, CPU seconds of training."
    return Table("Cost", columns, tuple(rows), note)


def _numbers(result: Result, metrics: list[str]) -> list[float]:
    """Return one run's numbers, in the order of the columns."""
    before, after = result["before"], result["after"]
    gold = [before["gold"], after["gold"], after["gold"] - before["gold"]]
    return [*gold, *(after[m] for m in metrics), after["kl"], after["length"], result["tokens"], result["cpu_seconds"]]
