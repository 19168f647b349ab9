"""Results of several algorithms on several tasks, as arrays over seeds and tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from textgym.benchmarks.analysis.statistics import FEWEST_SEEDS, mean_estimate
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.intervals import Estimate
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Figure, Findings
from textgym.types import FloatArray

_POINTS = 25


@dataclass(frozen=True)
class SuiteScores:
    """Scores of the seeds that have every task.

    Attributes:
        tasks: their names.
        by_algorithm: ``[n_seeds, n_tasks]`` each, of the seeds that have every task.
        seeds: ``[n_seeds]`` of each.
        left_out: algorithms that have no such seed.
    """

    tasks: tuple[str, ...]
    by_algorithm: Mapping[str, FloatArray]
    seeds: Mapping[str, tuple[int, ...]]
    left_out: tuple[str, ...]

    def remark(self, findings: Findings) -> Findings:
        """Add the algorithms that were left out to the headline."""
        if not self.left_out:
            return findings
        text = f"Left out, as no seed has every task yet: {', '.join(self.left_out)}."
        return replace(findings, headline=f"{findings.headline} {text}")


def suite_scores(results: Results, score: Callable[[Job, Result], float]) -> SuiteScores:
    """Return results as scores of whole suites; algorithms and tasks in their first order."""
    whole = whole_suites(results)
    found = {name: np.array([[score(*run) for run in of_seed] for of_seed in seeds]) for name, seeds in whole.items()}
    left_out = tuple(name for name in by_algorithm(results) if name not in whole)
    seeds = {name: tuple(of_seed[0][0].seed for of_seed in rows) for name, rows in whole.items()}
    return SuiteScores(tasks_of(results), found, seeds, left_out)


def whole_suites(results: Results) -> dict[str, list[list[tuple[Job, Result]]]]:
    """Return the seeds of each algorithm that have every task, as runs in the order of :func:`tasks_of`.

    Means over tasks compare algorithms only where the tasks are the same; one without such a seed is left out.
    """
    tasks, found = tasks_of(results), {}
    for name, group in by_algorithm(results).items():
        # A seed with a missing task would change the mean by the task's difficulty, so only whole suites count.
        known = {(job.seed, job.task): (job, result) for job, result in group}
        seeds = [seed for seed in seeds_of(group) if all((seed, task) in known for task in tasks)]
        if seeds:
            found[name] = [[known[seed, task] for task in tasks] for seed in seeds]
    return found


def by_algorithm(results: Results) -> Mapping[str, list[tuple[Job, Result]]]:
    """Group results by algorithm, in their first order."""
    groups: dict[str, list[tuple[Job, Result]]] = {}
    for job, result in results:
        groups.setdefault(job.label, []).append((job, result))
    return groups


def tasks_of(results: Results) -> tuple[str, ...]:
    """Return the tasks that occur, in their first order."""
    return tuple(dict.fromkeys(job.task for job, _ in results))


def seeds_of(results: Results) -> list[int]:
    """Return the seeds that occur, in order."""
    return sorted({job.seed for job, _ in results})


def over_seeds(values: ArrayLike) -> Estimate | float:
    """Return the mean of one number per seed, with its interval if there are enough seeds."""
    sample = np.asarray(values, np.float64)
    return mean_estimate(sample) if len(sample) >= FEWEST_SEEDS else float(sample.mean())


def curves_figure(results: Results, x_label: str, y_label: str, note: str = "") -> tuple[Figure, ...]:
    """Draw :func:`learning_curves`; no figure if no run has a curve."""
    curves = learning_curves(results)
    if not curves:
        return ()
    banded = any(line.low is not None for line in curves.values())
    bands = "; bands are 95 % intervals over seeds" if banded else ""
    caption = f"Mean reward of sampled responses, over all tasks{bands}. {note}"
    return (Figure("Learning curves", line_plot(curves, x_label, y_label), caption.strip()),)


def learning_curves(results: Results) -> dict[str, PlotLine]:
    """Return each algorithm's mean curve over all tasks, with intervals over the seeds that have every task."""
    whole = whole_suites([(job, result) for job, result in results if len(result.get("curve", ())) > 1])
    return {
        name: _band([[np.asarray(result["curve"]) for _, result in of_seed] for of_seed in seeds])
        for name, seeds in whole.items()
    }


def _band(curves: Sequence[Sequence[FloatArray]]) -> PlotLine:
    """Return the mean line of the curves of each seed and task, with a band."""
    flat = [curve for of_seed in curves for curve in of_seed]
    # Only the range that all curves cover; outside of it np.interp would repeat the last value.
    tokens = np.linspace(max(curve[0, 0] for curve in flat), min(curve[-1, 0] for curve in flat), _POINTS)
    means = np.array([np.mean([np.interp(tokens, *curve.T) for curve in of_seed], 0) for of_seed in curves])
    if len(means) < FEWEST_SEEDS:
        return PlotLine(tokens, means.mean(0))
    estimates = [mean_estimate(column) for column in means.T]
    low, high = ([getattr(one, side) for one in estimates] for side in ("low", "high"))
    return PlotLine(tokens, means.mean(0), low, high)
