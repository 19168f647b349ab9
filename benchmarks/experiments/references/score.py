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

_AFTER_IMITATION = (
    f"{SFT}+… counts its calls of the reward alone; before them it spends up to half of its tokens on references."
)


@dataclass(frozen=True)
class Point:
    """One arm of a curve.

    Attributes:
        line: the curve that it belongs to.
        seen: references of imitation, or calls of the reward; ``sft+ALG`` counts its calls alone.
        shown: trained tokens of references; all of them for imitation, the first half for ``sft+ALG``, else 0.
        tokens: trained or generated tokens, those of references among them.
        updates: gradient steps.
        scores: means over tasks, one for each seed that has every task.
    """

    line: str
    seen: float
    shown: float
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
        counted = {"score": _score(job, result), "seen": seen, "shown": _shown(job, result)}
        groups.setdefault(_arm(job), {})[job.seed, job.task] = {**result, **counted}
    points = []
    for (line, _), runs in groups.items():
        seeds = [seed for seed in sorted({seed for seed, _ in runs}) if all((seed, task) in runs for task in tasks)]
        if seeds:
            whole = [[runs[seed, task] for task in tasks] for seed in seeds]
            # References are a round number, which the budgets of the tasks share; calls differ a little by length.
            mean = {key: float(np.mean([[run[key] or 0 for run in row] for row in whole])) for key in _COUNTED}
            scores = [float(np.mean([run["score"] for run in row])) for row in whole]
            points.append(Point(line, mean["seen"], mean["shown"], mean["tokens"], mean["updates"], scores))
    return points


_COUNTED = ("seen", "shown", "tokens", "updates")


def _arm(job: Job) -> tuple[str, int]:
    """Return the curve of a run, and its place on it."""
    if job.algorithm == SFT:
        passes = job.arm["epochs"]
        return f"{SFT}, {passes} {'pass' if passes == 1 else 'passes'}", job.arm["references"]
    return job.algorithm, job.arm["tokens"]


def _shown(job: Job, result: Result) -> float:
    """Return the tokens of references that a run was trained on; of ``sft+ALG`` the half that it may spend on them."""
    if job.algorithm == SFT:
        return float(result["tokens"])
    return job.arm["tokens"] // 2 if _continues(job.algorithm) else 0


def _continues(line: str) -> bool:
    """Return True for an algorithm that goes on after imitation: its calls are not all that it has seen."""
    return line.startswith(f"{SFT}+")


def _score(job: Job, result: Result) -> float:
    return objective_score(result, job.settings["beta"])


def _table(points: list[Point]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (p.line, *map(round, (p.seen, p.shown, p.tokens, p.updates)), over_seeds(p.scores), len(p.scores))
        for p in points
    ]
    note = (
        "Seen: reference texts of imitation, calls of the reward of RL. Tokens: trained ones of references, in every"
        " pass, and generated ones; the former alone stand under reference tokens. The score is that of the mini suite."
    )
    if any(_continues(point.line) for point in points):
        note += f" {_AFTER_IMITATION}"
    columns = ("algorithm", "seen", "reference tokens", "tokens", "updates", "score", "seeds")
    return Table("References and calls", columns, tuple(rows), note)


def _figure(points: list[Point]) -> Figure:
    lines: dict[str, PlotLine] = {}
    for line in dict.fromkeys(point.line for point in points):
        own = sorted((point for point in points if point.line == line), key=lambda point: point.seen)
        count = min(len(point.scores) for point in own)
        y = np.array([point.scores[:count] for point in own]).T
        x = np.broadcast_to([point.seen for point in own], y.shape)
        lines[f"{line}, its calls alone" if _continues(line) else line] = mean_line(x, y)
    caption = (
        "A reference is a text by a perfect writer, a call is one score of an own text: what one is worth in the other"
        " is for the reader to say."
    )
    if first := sorted({point.shown for point in points if _continues(point.line)}):
        tokens = ", ".join(f"{shown:,.0f}" for shown in first)
        caption += f" {_AFTER_IMITATION} From left to right these are {tokens} tokens."
    if any(line.low is not None for line in lines.values()):
        caption += " Bands are 95 % intervals over instances."
    return Figure("References and calls", line_plot(lines, "references, or calls of the reward", "score"), caption)
