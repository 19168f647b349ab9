"""From runs to findings: gold reward, what it costs, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from textgym.benchmarks.experiment import Cell, Figure, Findings, Result, Results, Table
from textgym.benchmarks.figures import Line, lines
from textgym.benchmarks.suite import by_algorithm, learning_curves, over_seeds, seeds_of, suite_scores
from textgym.benchmarks.summary import summary

OTHERS = ("score", "gold", "kl", "length")


def normalised(result: Result) -> float:
    """The share of the way from the base model's gold to the reference texts', which is 1 in every task."""
    before, after = (float(result[stage]["gold"]) for stage in ("before", "after"))
    return (after - before) / (1 - before)


def findings(results: Results) -> Findings:
    """Normalised gold after training over the suite, gold itself, its price, and learning curves."""
    scores = suite_scores(results, normalised)
    tables = (gold_table(results), cost_table(results))
    figures = _curves_figure(learning_curves(results))
    if not scores.by_algorithm:
        return scores.remark(Findings("No algorithm has every task yet.", tables, figures))
    found = summary(scores.by_algorithm, scores.tasks, np.random.default_rng(0))
    return scores.remark(replace(found, tables=(*found.tables, *tables), figures=(*found.figures, *figures)))


def _curves_figure(curves: Mapping[str, Line]) -> tuple[Figure, ...]:
    if not curves:
        return ()
    caption = "Mean over tasks of the responses that were learned from; bands are 95 % intervals over seeds."
    return (Figure("Learning curves", lines(curves, "tokens", "gold reward"), caption),)


def gold_table(results: Results) -> Table:
    """The gold reward after training, of each algorithm on each task, below that of the base model."""
    tasks = tuple(dict.fromkeys(job.task for job, _ in results))

    def row(name: str, group: Results, stage: str) -> tuple[Cell, ...]:
        golds = [[result[stage]["gold"] for job, result in group if job.task == task] for task in tasks]
        return (name, *(over_seeds(values) if values else None for values in golds))

    rows = [row("base model", results, "before"), *(row(n, g, "after") for n, g in by_algorithm(results).items())]
    note = (
        "Means over seeds, on validation prompts. The scores above are the share of the way from the base model to 1."
    )
    return Table("Gold reward", ("algorithm", *tasks), tuple(rows), note)


def cost_table(results: Results) -> Table:
    """A row for each algorithm: means over its tasks, with intervals over seeds."""
    first = results[0][1]["after"]
    metrics = [name for name in first if name not in OTHERS and all(name in r["after"] for _, r in results)]
    columns = ("algorithm", "gold before", "gold after", "gain", *metrics, "KL", "length", "tokens", "CPU s")
    rows: list[tuple[Cell, ...]] = []
    for name, group in by_algorithm(results).items():
        values = [_numbers(result, metrics) for _, result in group]
        by_seed = [
            [v for (job, _), v in zip(group, values, strict=True) if job.seed == seed] for seed in seeds_of(group)
        ]
        table = np.array([np.mean(of_seed, 0) for of_seed in by_seed])
        means = table.mean(0)
        gold = (float(means[0]), over_seeds(table[:, 1]), over_seeds(table[:, 2]))
        rows.append((name, *gold, *map(float, means[3:-2]), round(means[-2]), float(means[-1])))
    note = "KL in nats a response to the base model, length in tokens; CPU seconds are those of a run's training."
    return Table("What it costs", columns, tuple(rows), note)


def _numbers(result: Result, metrics: list[str]) -> list[float]:
    """One run's numbers, in the order of the columns."""
    before, after = result["before"], result["after"]
    gold = [before["gold"], after["gold"], after["gold"] - before["gold"]]
    return [*gold, *(after[m] for m in metrics), after["kl"], after["length"], result["tokens"], result["cpu_seconds"]]
