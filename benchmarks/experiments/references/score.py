"""Curves of the references experiment: the score over references, and over calls of the reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textgym.benchmarks.analysis.seeds import mean_line, with_bounds
from textgym.benchmarks.analysis.suite_scores import over_seeds, tasks_of
from textgym.benchmarks.entries import SFT
from textgym.benchmarks.experiments.mini.objective import objective_score
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table


@dataclass(frozen=True)
class Point:
    """One arm of a curve.

    Attributes:
        line: the curve that it belongs to.
        seen: references, or calls of the reward.
        tokens: trained or generated tokens.
        updates: gradient steps.
        scores: means over tasks, one for each seed that has every task.
    """

    line: str
    seen: float
    tokens: float
    updates: float
    scores: list[float]


def references_findings(results: Results) -> Findings:
    """Return both curves as a figure and a table, and the best end of each in one sentence."""
    points = curve_points(results)
    if not points:
        return Findings("No arm has a seed with every task yet.")
    ends = {point.line: over_seeds(point.scores) for point in sorted(points, key=lambda point: point.seen)}
    said = "; ".join(f"{line} ends at {with_bounds(value)}" for line, value in ends.items())
    return Findings(f"{said}.", (_table(points),), (_figure(points),))


def curve_points(results: Results) -> list[Point]:
    """Return a point for each arm, over the seeds that have every task."""
    tasks, groups = tasks_of(results), dict[tuple[str, int], dict[tuple[int, str], Result]]()
    for job, result in results:
        seen = job.arm["references"] if job.algorithm == SFT else result["scored"]
        groups.setdefault(_arm(job), {})[job.seed, job.task] = {**result, "score": _score(job, result), "seen": seen}
    points = []
    for (line, _), runs in groups.items():
        seeds = [seed for seed in sorted({seed for seed, _ in runs}) if all((seed, task) in runs for task in tasks)]
        if seeds:
            whole = [[runs[seed, task] for task in tasks] for seed in seeds]
            # References are a round number, which the budgets of the tasks share; calls differ a little by length.
            mean = {key: float(np.mean([[run[key] or 0 for run in row] for row in whole])) for key in _COUNTED}
            scores = [float(np.mean([run["score"] for run in row])) for row in whole]
            points.append(Point(line, mean["seen"], mean["tokens"], mean["updates"], scores))
    return points


_COUNTED = ("seen", "tokens", "updates")


def _arm(job: Job) -> tuple[str, int]:
    """Return the curve of a run, and its place on it."""
    if job.algorithm == SFT:
        passes = job.arm["epochs"]
        return f"{SFT}, {passes} {'pass' if passes == 1 else 'passes'}", job.arm["references"]
    return job.algorithm, job.arm["tokens"]


def _score(job: Job, result: Result) -> float:
    return objective_score(result, job.settings["beta"])


def _table(points: list[Point]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (p.line, round(p.seen), round(p.tokens), round(p.updates), over_seeds(p.scores), len(p.scores)) for p in points
    ]
    note = (
        "Seen: reference texts of imitation, calls of the reward of RL. Tokens: trained ones of references, in every"
        " pass, or generated ones. The score is that of the mini suite."
    )
    return Table(
        "References and calls", ("algorithm", "seen", "tokens", "updates", "score", "seeds"), tuple(rows), note
    )


def _figure(points: list[Point]) -> Figure:
    lines: dict[str, PlotLine] = {}
    for line in dict.fromkeys(point.line for point in points):
        own = sorted((point for point in points if point.line == line), key=lambda point: point.seen)
        count = min(len(point.scores) for point in own)
        y = np.array([point.scores[:count] for point in own]).T
        x = np.broadcast_to([point.seen for point in own], y.shape)
        lines[line] = mean_line(x, y)
    caption = (
        "A reference is a text by a perfect writer, a call is one score of an own text: what one is worth in the other"
        " is for the reader to say. Bands are 95 % intervals over instances."
    )
    return Figure("References and calls", line_plot(lines, "references, or calls of the reward", "score"), caption)
