"""The frontier of gold over KL."""

from __future__ import annotations

import numpy as np

from textgym.benchmarks.analysis.seeds import clearly_or_not, mean_line, with_bounds
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.experiments.kl_frontier.task import SAMPLED
from textgym.benchmarks.runner.experiment import Result, Results
from textgym.intervals import Estimate
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table

_COLUMNS = ("algorithm", "β or n", "gold", "KL, nats", "gold of best-of-n at this KL", "seeds")


def kl_frontier_findings(results: Results) -> Findings:
    """Return the findings about any part of the sweep, task by task."""
    tasks = list(dict.fromkeys(job.task for job, _ in results))
    by_task = {task: [(job, result) for job, result in results if job.task == task] for task in tasks}
    tables = tuple(_table(task, own) for task, own in by_task.items())
    figures = tuple(_figure(task, own) for task, own in by_task.items())
    sentences = [sentence for task, own in by_task.items() for sentence in _sentences(task, own)]
    return Findings(" ".join(sentences) or "No algorithm has been trained yet.", tables, figures)


def trained(results: Results) -> dict[str, dict[float, dict[int, Result]]]:
    """Group results by algorithm, β (rising) and seed."""
    found: dict[str, dict[float, dict[int, Result]]] = {}
    for job, result in sorted(
        ((j, r) for j, r in results if j.algorithm != SAMPLED), key=lambda row: row[0].arm["beta"]
    ):
        found.setdefault(job.label, {}).setdefault(float(job.arm["beta"]), {})[job.seed] = result
    return found


def pools(results: Results) -> list[Result]:
    """Return the results of best-of-n, one for each seed."""
    return [result for job, result in results if job.algorithm == SAMPLED]


def bought(results: Results, kl: float) -> Estimate | float | None:
    """Return gold of best-of-n at a KL, interpolated between the values of n by the bound of its KL.

    None beyond the largest n, or where none was sampled.
    """
    points = _best_of_n(results)
    if points is None or kl > points[0][-1]:
        return None
    return over_seeds([np.interp(max(kl, 0.0), points[0], golds) for golds in points[1]])


def _best_of_n(results: Results) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bound of KL ``[m]`` and gold ``[n_seeds, m]``."""
    found = pools(results)
    if not found:
        return None
    kl = np.array([point["kl"] for point in found[0]["best_of_n"]])
    return kl, np.array([[point["gold"] for point in result["best_of_n"]] for result in found])


def _after(runs: dict[int, Result], name: str) -> dict[int, float]:
    return {seed: float(run["after"][name]) for seed, run in runs.items()}


def _table(task: str, results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for algorithm, by_beta in trained(results).items():
        for beta, runs in by_beta.items():
            gold, kl = (list(_after(runs, name).values()) for name in ("gold", "kl"))
            same = bought(results, float(np.mean(kl)))
            rows.append((algorithm, beta, over_seeds(gold), over_seeds(kl), same, len(runs)))
    points = _best_of_n(results)
    if points is not None:
        counts = [point["n"] for point in pools(results)[0]["best_of_n"]]
        for n, kl_of_n, golds in zip(counts, points[0], points[1].T, strict=True):
            rows.append((SAMPLED, n, over_seeds(list(golds)), float(kl_of_n), None, len(golds)))
    note = (
        "KL of best-of-n is the bound log n − (n − 1)/n; the true KL is smaller where gold ties. The KL of trained "
        "policies is exact in every visited state."
    )
    return Table(f"Gold and KL on {task}", _COLUMNS, tuple(rows), note)


def _figure(task: str, results: Results) -> Figure:
    series: dict[str, PlotLine] = {}
    for algorithm, by_beta in trained(results).items():
        # A killed sweep leaves arms of unequal seeds: the first ones are those that all have.
        count = min(len(runs) for runs in by_beta.values())
        kl, gold = (
            np.array([list(_after(runs, name).values())[:count] for runs in by_beta.values()]).T
            for name in ("kl", "gold")
        )
        series[algorithm] = mean_line(kl, gold)
    points = _best_of_n(results)
    if points is not None:
        series[SAMPLED] = PlotLine(points[0], points[1].mean(0), dashed=True)
    caption = (
        "Each point is one β. Dashed: best-of-n by gold itself, at the bound of its KL, log n − (n − 1)/n nats; the "
        "true KL is smaller where gold ties."
    )
    return Figure(f"The frontier on {task}", line_plot(series, "KL to the base model, nats", "gold reward"), caption)


def _sentences(task: str, results: Results) -> list[str]:
    """Return a sentence for each algorithm: its β with the most gold, and best-of-n at the same KL."""
    sentences = []
    for algorithm, by_beta in trained(results).items():
        golds = {beta: _after(runs, "gold") for beta, runs in by_beta.items()}
        best, *others = sorted(golds, key=lambda beta: -float(np.mean(list(golds[beta].values()))))
        sure = f", {clearly_or_not(golds[best], golds[others[0]])} more than at β = {others[0]:g}" if others else ""
        kl = float(np.mean(list(_after(by_beta[best], "kl").values())))
        sentences.append(
            f"On {task}, {algorithm} reaches the most gold at β = {best:g}{sure}: "
            f"{with_bounds(over_seeds(list(golds[best].values())), 2)} at {kl:.1f} nats{_beside(results, kl)}."
        )
    return sentences


def _beside(results: Results, kl: float) -> str:
    """Return gold of best-of-n at the same KL, in words; empty if it was not sampled."""
    points, same = _best_of_n(results), bought(results, kl)
    if points is None:
        return ""
    if same is None:
        return f", beyond the KL of best-of-n, at most {points[0][-1]:.1f}"
    return f"; best-of-n reaches {with_bounds(same, 2)} at the same KL or less"
