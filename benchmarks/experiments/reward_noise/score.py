"""Gold after training over the noise of the reward."""

from __future__ import annotations

import numpy as np

from textgym.benchmarks.analysis.seeds import clearly_or_not, mean_line, with_bounds
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.runner.experiment import Results
from textgym.reports.charts.suites import line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table

Golds = dict[str, dict[float, dict[int, float]]]
"""Gold after training by algorithm, σ and seed."""


def reward_noise_findings(results: Results) -> Findings:
    """Return the findings about any part of the sweep, task by task."""
    by_task = {task: golds(task, results) for task in dict.fromkeys(job.task for job, _ in results)}
    return Findings(
        " ".join(_sentence(task, found) for task, found in by_task.items()) or "No run has been done yet.",
        tuple(_table(task, found) for task, found in by_task.items()),
        tuple(_figure(task, found) for task, found in by_task.items()),
    )


def golds(task: str, results: Results) -> Golds:
    """Return the task's results; σ rises."""
    found: Golds = {}
    own = [(job, result) for job, result in results if job.task == task]
    for job, result in sorted(own, key=lambda row: float(row[0].arm["sigma"])):
        sigma, gold = float(job.arm["sigma"]), float(result["after"]["gold"])
        found.setdefault(job.label, {}).setdefault(sigma, {})[job.seed] = gold
    return found


def _sigmas(found: Golds) -> list[float]:
    return sorted({sigma for by_sigma in found.values() for sigma in by_sigma})


def _table(task: str, found: Golds) -> Table:
    sigmas = _sigmas(found)
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            *(over_seeds(list(by_sigma[sigma].values())) if sigma in by_sigma else None for sigma in sigmas),
            min(len(values) for values in by_sigma.values()),
        )
        for name, by_sigma in found.items()
    ]
    columns = ("algorithm", *(f"σ = {sigma:g}" for sigma in sigmas), "seeds")
    return Table(f"Gold after training on noisy gold, {task}", columns, tuple(rows), "On validation prompts.")


def _figure(task: str, found: Golds) -> Figure:
    series = {}
    for name, by_sigma in found.items():
        # A killed sweep leaves arms of unequal seeds: the first ones are those that all have.
        count = min(len(values) for values in by_sigma.values())
        values = np.array([list(own.values())[:count] for own in by_sigma.values()]).T
        series[name] = mean_line(np.broadcast_to(np.array(list(by_sigma)), values.shape), values)
    return Figure(f"Gold over noise, {task}", line_plot(series, "σ of the noise", "gold reward"))


def _sentence(task: str, found: Golds) -> str:
    """Return the algorithms with the most and the least gold at the highest noise, and whether they stand out."""
    worst = _sigmas(found)[-1]
    at_worst = {name: by_sigma[worst] for name, by_sigma in found.items() if worst in by_sigma}
    ranked = sorted(at_worst, key=lambda name: -float(np.mean(list(at_worst[name].values()))))
    gold = {name: with_bounds(over_seeds(list(own.values())), 2) for name, own in at_worst.items()}
    best, least = ranked[0], ranked[-1]
    where = f"On {task} with noise of σ = {worst:g}, {best} reaches"
    if best == least:
        return f"{where} {gold[best]} of gold."
    ahead, behind = (
        clearly_or_not(at_worst[best], at_worst[ranked[1]]),
        clearly_or_not(at_worst[ranked[-2]], at_worst[least]),
    )
    return (
        f"{where} the most gold, {gold[best]}, {ahead} more than {ranked[1]}; {least} reaches the least, "
        f"{gold[least]}, {behind} less than {ranked[-2]}."
    )
