"""Findings about several algorithms on the same tasks: aggregates, tables by task, and charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.benchmarks.analysis.statistics import (
    FEWEST_SEEDS,
    improvement,
    interquartile_mean,
    mean_estimate,
    performance_profile,
    probability_of_improvement,
    stratified_estimate,
)
from textgym.intervals import LEVEL, Estimate
from textgym.reports.charts.suites import PlotLine, heatmap, interval_plot, line_plot, radars
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.reports.formatting import number
from textgym.types import FloatArray

THRESHOLDS = 101
NO_INTERVAL = "too few seeds for an interval"


def suite_findings(scores: Mapping[str, FloatArray], tasks: Sequence[str], rng: np.random.Generator) -> Findings:
    """Compare algorithms by their scores.

    Args:
        scores: ``[n_seeds, n_tasks]`` of each algorithm; the numbers of seeds may differ. 1 should mean that a task is
            solved and 0 that nothing was learned.
        tasks: ``[n_tasks]`` names.
        rng: draws the resamples.

    Returns:
        A table of aggregates and one of each task, the best algorithm first; intervals and, of several tasks,
        performance profiles, a heat map and radars. An algorithm with fewer than 3 seeds gets no intervals, and its row
        says so.

    Raises:
        ValueError: no algorithm, no seed, scores of another shape than ``tasks``, or a score that is not finite.
    """
    if not scores:
        raise ValueError("scores is empty; expected at least one algorithm")
    suite = _easiest_first({name: _checked(name, array, tasks) for name, array in scores.items()}, tasks)
    # The order of the draws is fixed by the order of the algorithms, so equal results give equal intervals.
    iqm = {name: _with_interval(array, interquartile_mean, rng) for name, array in suite.scores.items()}
    ranked = sorted(iqm, key=lambda name: -_value(iqm[name]))
    best, *others = ranked
    # The leader was selected on the same runs, so its intervals must hold for every pair that could have been selected.
    level = 1 - (1 - LEVEL) / max(suite.pairs, 1)
    over = {name: _improvement(suite.scores[best], suite.scores[name], rng, level) for name in others}
    tables = (_overall(suite, ranked, iqm, over, rng), _each_task(suite, ranked))
    return Findings(_headline(suite, ranked, iqm, over), tables, _figures(suite, ranked, iqm))


@dataclass(frozen=True)
class _Suite:
    """Scores of a suite; they are ``[n_seeds, n_tasks]``, in the order of ``tasks``."""

    tasks: tuple[str, ...]
    scores: Mapping[str, FloatArray]

    @property
    def pairs(self) -> int:
        """The number of pairs of algorithms."""
        return math.comb(len(self.scores), 2)

    def means(self, name: str) -> dict[str, float]:
        """Return the mean over seeds of each task."""
        return dict(zip(self.tasks, self.scores[name].mean(0).tolist(), strict=True))

    def enough(self, name: str) -> bool:
        """Return True if there are enough seeds for an interval."""
        return len(self.scores[name]) >= FEWEST_SEEDS


def _checked(name: str, scores: FloatArray, tasks: Sequence[str]) -> FloatArray:
    array = np.asarray(scores, np.float64)
    if array.ndim != 2 or array.shape[1] != len(tasks) or not array.size:
        raise ValueError(f"scores[{name!r}] has shape {array.shape}; expected [n_seeds, {len(tasks)}], a column a task")
    if not np.isfinite(array).all():
        raise ValueError(f"scores[{name!r}] holds a number that is not finite; leave that seed out, or run it again")
    return array


def _easiest_first(scores: Mapping[str, FloatArray], tasks: Sequence[str]) -> _Suite:
    """Sort the tasks by their mean over all algorithms, the easiest first."""
    order = np.argsort(-np.mean([array.mean(0) for array in scores.values()], 0), kind="stable")
    return _Suite(tuple(tasks[task] for task in order), {name: array[:, order] for name, array in scores.items()})


# -- Numbers ---------------------------------------------------------------------------------------


def _with_interval(scores: FloatArray, statistic: Callable[..., Any], rng: np.random.Generator) -> Estimate | float:
    """Return a statistic of all scores together, with its interval if there are enough seeds."""
    if len(scores) < FEWEST_SEEDS:
        return float(statistic(scores))
    return stratified_estimate(scores, statistic, rng)


def _improvement(best: FloatArray, other: FloatArray, rng: np.random.Generator, level: float) -> Estimate | float:
    if min(len(best), len(other)) < FEWEST_SEEDS:
        return improvement(best, other)
    return probability_of_improvement(best, other, rng, level)


def _value(number: Estimate | float) -> float:
    return number.value if isinstance(number, Estimate) else number


# -- Words -----------------------------------------------------------------------------------------


def _headline(
    suite: _Suite,
    ranked: Sequence[str],
    iqm: Mapping[str, Estimate | float],
    over: Mapping[str, Estimate | float],
) -> str:
    """Return the leading algorithm, the certainty of its lead, and its worst task."""
    best = ranked[0]
    leads = "leads with" if over else "has"
    text = f"{best} {leads} an interquartile mean of {_with_bounds(iqm[best])}"
    if over:
        text += f", {_verdict(ranked[1], over[ranked[1]])}"
    if len(suite.tasks) == 1:
        return f"{text}, on {suite.tasks[0]}."
    means = suite.means(best)
    worst = min(means, key=means.__getitem__)
    # The best other algorithm there shows that the task can be solved.
    strongest = max(ranked, key=lambda name: suite.means(name)[worst])
    text += f"; it is at its worst on {worst} ({number(means[worst], 2)}"
    if strongest != best:
        text += f", where {strongest} has {number(suite.means(strongest)[worst], 2)}"
    return f"{text})."


def _verdict(second: str, over: Estimate | float) -> str:
    if not isinstance(over, Estimate):
        return f"ahead of {second} ({NO_INTERVAL})"
    sure = "clearly ahead of" if round(over.low, 2) > 0.5 else "not clearly ahead of"  # by the digits that are shown
    return f"{sure} {second}, whose runs it beats with probability {_with_bounds(over, 2)}"


def _with_bounds(estimate: Estimate | float, places: int = 3) -> str:
    text = number(_value(estimate), places)
    if isinstance(estimate, Estimate):
        text += f" [{number(estimate.low, places)}, {number(estimate.high, places)}]"
    return text


# -- Tables ----------------------------------------------------------------------------------------


def _overall(
    suite: _Suite,
    ranked: Sequence[str],
    iqm: Mapping[str, Estimate | float],
    over: Mapping[str, Estimate | float],
    rng: np.random.Generator,
) -> Table:
    best = ranked[0]
    rows = []
    for name in ranked:
        seeds = len(suite.scores[name])
        means = suite.means(name)
        worst = min(means, key=means.__getitem__)
        row: tuple[Cell, ...] = (
            name,
            iqm[name],
            _with_interval(suite.scores[name], np.mean, rng),
            over.get(name),
            f"{worst} {number(means[worst], 2)}",
            seeds if suite.enough(name) else f"{seeds}: {NO_INTERVAL}",
        )
        rows.append(row)
    over_tasks = f"Over {len(suite.tasks)} tasks" if len(suite.tasks) > 1 else f"On {suite.tasks[0]} alone"
    note = (
        f"{over_tasks}. IQM: mean of the middle half of all runs. P: probability that a run of {best}"
        " scores higher than a run of this algorithm on the same task. 95 % intervals by stratified bootstrap over"
        " seeds."
    )
    if suite.pairs > 1:
        note += (
            " The leader was selected on the same runs, so P's intervals are corrected for all"
            f" {suite.pairs} pairs of algorithms (Bonferroni)."
        )
    return Table(
        "Over all tasks", ("algorithm", "IQM", "mean", f"P({best} better)", "worst task", "seeds"), tuple(rows), note
    )


def _each_task(suite: _Suite, ranked: Sequence[str]) -> Table:
    rows = []
    for name in ranked:
        columns = suite.scores[name].T
        means = [mean_estimate(column) if suite.enough(name) else float(column.mean()) for column in columns]
        rows.append((name, *means))
    note = (
        "Means over seeds with Student's 95 % interval; tasks are sorted by mean score, the easiest first."
        f" {_unshown_doubt(suite)}"
    ).strip()
    return Table("By task", ("algorithm", *suite.tasks), tuple(rows), note)


def _unshown_doubt(suite: _Suite) -> str:
    """Return the chance of success that still gives only failures in one case of twenty, by number of seeds."""
    counts = sorted({len(scores) for name, scores in suite.scores.items() if suite.enough(name)})
    fits = "; ".join(f"0 of {n} seeds fit a success rate up to {1 - (1 - LEVEL) ** (1 / n):.2f}" for n in counts)
    return f"An interval of width 0 does not exclude rare successes: {fits} (one-sided, 95 %)." if fits else ""


# -- Figures ---------------------------------------------------------------------------------------


def _figures(suite: _Suite, ranked: Sequence[str], iqm: Mapping[str, Estimate | float]) -> tuple[Figure, ...]:
    known = {name: e if isinstance(e, Estimate) else Estimate(e, np.nan, np.nan) for name, e in iqm.items()}
    means = {name: suite.means(name) for name in suite.scores}
    how_well = Figure(
        "IQM with 95 % interval",
        interval_plot(known, "interquartile mean"),
        f"Bars are 95 % intervals over seeds. {_hollow(suite)}".strip(),
    )
    if len(suite.tasks) == 1:  # no tasks to compare, and bands of profiles from so few runs would hide the lines
        return (how_well,)
    return (
        how_well,
        Figure(
            "Performance profiles",
            line_plot(_profiles(suite), "score", "share of runs above it"),
            "Higher is better; bands are 95 % intervals. A line that drops at the left has failed runs.",
        ),
        Figure(
            "Score per task",
            heatmap({name: means[name] for name in ranked}),
            "Mean scores; the best algorithm at the top, the hardest task at the right. Green: near 1; orange: near 0.",
        ),
        Figure(
            "Scores by algorithm",
            radars(means),
            "Mean score per task, from 0 at the centre to 1 at the rim. Tasks named in orange score below 0.5.",
        ),
    )


def _hollow(suite: _Suite) -> str:
    return "" if all(map(suite.enough, suite.scores)) else f"Hollow dots: {NO_INTERVAL}."


def _profiles(suite: _Suite) -> Mapping[str, PlotLine]:
    """Return performance profiles from the lowest to the highest score, 0 and 1 included."""
    everything = np.concatenate([scores.ravel() for scores in suite.scores.values()])
    thresholds = np.linspace(min(everything.min(), 0.0), max(everything.max(), 1.0), THRESHOLDS)
    drawn = {}
    for name, scores in suite.scores.items():
        if suite.enough(name):
            profile = performance_profile(scores, thresholds)
            drawn[name] = PlotLine(thresholds, profile.fraction, profile.low, profile.high)
        else:
            drawn[name] = PlotLine(thresholds, (scores.ravel() > thresholds[:, None]).mean(1))
    return drawn
