"""From results to findings: the frontier of gold against KL."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from textgym.benchmarks.experiment import Cell, Figure, Findings, Result, Results, Table
from textgym.benchmarks.figures import Line, lines
from textgym.benchmarks.kl_frontier.task import SAMPLED
from textgym.benchmarks.seed_curves import mean_line
from textgym.benchmarks.suite import over_seeds

COLUMNS = ("algorithm", "β or n", "gold", "KL, nats", "gold of best-of-n at this KL", "seeds")


def findings(results: Results) -> Findings:
    """What results of any part of the sweep say, task by task."""
    tasks = list(dict.fromkeys(job.task for job, _ in results))
    by_task = {task: [(job, result) for job, result in results if job.task == task] for task in tasks}
    tables = tuple(_table(task, own) for task, own in by_task.items())
    figures = tuple(_figure(task, own) for task, own in by_task.items())
    told = [sentence for task, own in by_task.items() for sentence in _told(task, own)]
    return Findings(" ".join(told) or "No algorithm has been trained yet.", tables, figures)


def trained(results: Results) -> dict[str, dict[float, list[Result]]]:
    """Results by algorithm and β, which rises."""
    found: dict[str, dict[float, list[Result]]] = {}
    for job, result in sorted(
        ((j, r) for j, r in results if j.algorithm != SAMPLED), key=lambda row: row[0].arm["beta"]
    ):
        found.setdefault(job.algorithm, {}).setdefault(float(job.arm["beta"]), []).append(result)
    return found


def pools(results: Results) -> list[Result]:
    """What best-of-n earned, one result for each seed."""
    return [result for job, result in results if job.algorithm == SAMPLED]


def bought(results: Results, kl: float) -> float | None:
    """Gold of best-of-n at a KL, between the n that there are; None beyond the largest, or where none was sampled."""
    points = _best_of_n(results)
    if points is None or kl > points[0][-1]:
        return None
    return float(np.interp(max(kl, 0.0), points[0], points[1].mean(0)))


def _best_of_n(results: Results) -> tuple[np.ndarray, np.ndarray] | None:
    """KL ``[m]`` and gold ``[n_seeds, m]``."""
    found = pools(results)
    if not found:
        return None
    kl = np.array([point["kl"] for point in found[0]["best_of_n"]])
    return kl, np.array([[point["gold"] for point in result["best_of_n"]] for result in found])


def _after(runs: list[Result], name: str) -> list[float]:
    return [float(run["after"][name]) for run in runs]


def _table(task: str, results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for algorithm, by_beta in trained(results).items():
        for beta, runs in by_beta.items():
            kl = _after(runs, "kl")
            gold = over_seeds(_after(runs, "gold"))
            rows.append((algorithm, beta, gold, over_seeds(kl), bought(results, float(np.mean(kl))), len(runs)))
    points = _best_of_n(results)
    if points is not None:
        counts = [point["n"] for point in pools(results)[0]["best_of_n"]]
        for n, kl_of_n, golds in zip(counts, points[0], points[1].T, strict=True):
            rows.append((SAMPLED, n, over_seeds(list(golds)), float(kl_of_n), None, len(golds)))
    note = "KL of best-of-n is its upper bound log n − (n − 1)/n; that of the others is exact in every visited state."
    return Table(f"Gold and KL on {task}", COLUMNS, tuple(rows), note)


def _figure(task: str, results: Results) -> Figure:
    series: dict[str, Line] = {}
    for algorithm, by_beta in trained(results).items():
        # A killed sweep leaves arms of unequal seeds: the first ones are those that all have.
        count = min(len(runs) for runs in by_beta.values())
        kl, gold = (np.array([_after(runs[:count], name) for runs in by_beta.values()]).T for name in ("kl", "gold"))
        series[algorithm] = mean_line(kl, gold)
    points = _best_of_n(results)
    if points is not None:
        series[SAMPLED] = Line(points[0], points[1].mean(0), dashed=True)
    caption = "Each point is one β; dashed: best-of-n by gold itself, at log n − (n − 1)/n nats."
    return Figure(f"The frontier on {task}", lines(series, "KL to the base model, nats", "gold reward"), caption)


def _told(task: str, results: Results) -> list[str]:
    """For each algorithm its β with the most gold, beside best-of-n at the same KL."""
    told = []
    for algorithm, by_beta in trained(results).items():
        means: Mapping[float, tuple[float, float]] = {
            beta: (float(np.mean(_after(runs, "gold"))), float(np.mean(_after(runs, "kl"))))
            for beta, runs in by_beta.items()
        }
        beta, (gold, kl) = max(means.items(), key=lambda item: item[1][0])
        same = bought(results, kl)
        beside = "beyond the reach of best-of-n" if same is None else f"where best-of-n earns {same:.2f}"
        beside = f", {beside}" if pools(results) else ""
        told.append(f"On {task}, {algorithm} earns most at β = {beta:g}: gold {gold:.2f} for {kl:.1f} nats{beside}.")
    return told
