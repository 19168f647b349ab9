"""Findings about several algorithms on the same tasks: means, all pairs, tables by task, and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textgym.benchmarks.analysis.pairs import FEWEST_UNITS, Pairs, compare_pairs
from textgym.benchmarks.analysis.statistics import (
    FEWEST_SEEDS,
    interquartile_mean,
    mean_estimate,
    mean_over_these_tasks,
    performance_profile,
    stratified_estimate,
)
from textgym.intervals import LEVEL, Estimate
from textgym.reports.charts.suites import PlotLine, heatmap, interval_plot, line_plot, pair_matrix, radars
from textgym.reports.findings import Figure, Findings, Table
from textgym.reports.formatting import number
from textgym.types import FloatArray

THRESHOLDS = 101
NO_INTERVAL = "too few seeds for an interval"
MANY_SEEDS = 10
"""Seeds of one task from which on its interquartile mean is shown: there, outliers are noise and not a finding."""
NAMED = 4
"""Algorithms that a sentence names, at most; of more it gives the number."""


def suite_findings(
    scores: Mapping[str, FloatArray],
    tasks: Sequence[str],
    rng: np.random.Generator,
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> Findings:
    """Compare algorithms by their mean scores, and all pairs of them by instance.

    Args:
        scores: ``[n_seeds, n_tasks]`` of each algorithm; the numbers of seeds may differ. 1 should mean that a task is
            solved and 0 that nothing was learned.
        tasks: ``[n_tasks]`` names.
        rng: draws the resamples.
        seeds: ``[n_seeds]`` of each algorithm. A seed draws an instance, so pairs are compared at the seeds that both
            have. Default: 0, 1, 2, …

    Returns:
        A table of means, one of all pairs and one of each task, the best algorithm first; intervals and, of several
        tasks, a matrix of all pairs, performance profiles, a heat map and radars. Where there are too few seeds or
        tasks for an interval or a verdict, the row or the headline says so.

    Raises:
        ValueError: no algorithm, no seed, scores of another shape than ``tasks``, or a score that is not finite.
    """
    if not scores:
        raise ValueError("scores is empty; expected at least one algorithm")
    checked = {name: _checked(name, array, tasks) for name, array in scores.items()}
    numbered = {name: tuple(range(len(array))) for name, array in checked.items()}
    suite = _easiest_first(checked, tasks, numbered if seeds is None else seeds)
    means = {name: _suite_mean(array) for name, array in suite.scores.items()}
    ranked = sorted(means, key=lambda name: -_value(means[name]))
    pairs = _pairs(suite, ranked, rng)
    tables = (_overall(suite, ranked, means, rng), *_all_pairs(ranked, pairs), _each_task(suite, ranked))
    return Findings(_headline(suite, ranked, means, pairs), tables, _figures(suite, ranked, means, pairs))


@dataclass(frozen=True)
class _Suite:
    """Scores of a suite; they are ``[n_seeds, n_tasks]``, in the order of ``tasks``, with the seeds of their rows."""

    tasks: tuple[str, ...]
    scores: Mapping[str, FloatArray]
    seeds: Mapping[str, Sequence[int]]

    def common(self, names: Sequence[str]) -> FloatArray:
        """Return the scores at the seeds that all these algorithms have, ``[n_algorithms, n_seeds, n_tasks]``."""
        first, *others = (tuple(self.seeds[name]) for name in names)
        shared = [seed for seed in first if all(seed in other for other in others)]
        rows = {name: [tuple(self.seeds[name]).index(seed) for seed in shared] for name in names}
        return np.array([self.scores[name][rows[name]] for name in names])

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


def _easiest_first(
    scores: Mapping[str, FloatArray], tasks: Sequence[str], seeds: Mapping[str, Sequence[int]]
) -> _Suite:
    """Sort the tasks by their mean over all algorithms, the easiest first."""
    order = np.argsort(-np.mean([array.mean(0) for array in scores.values()], 0), kind="stable")
    sorted_scores = {name: array[:, order] for name, array in scores.items()}
    return _Suite(tuple(tasks[task] for task in order), sorted_scores, seeds)


# -- Numbers ---------------------------------------------------------------------------------------


def _suite_mean(scores: FloatArray) -> Estimate | float:
    """Return the mean score over a suite, with its interval for new instances of these tasks if there are enough."""
    return mean_over_these_tasks(scores) if len(scores) > 1 and scores.size >= FEWEST_SEEDS else float(scores.mean())


def _pairs(suite: _Suite, ranked: Sequence[str], rng: np.random.Generator) -> Pairs | None:
    """Compare all pairs at the seeds that all have; None for a single algorithm, or without such a seed."""
    if len(ranked) < 2:
        return None
    common = suite.common(ranked)
    return compare_pairs(common, rng) if common.shape[1] else None


def _value(number: Estimate | float) -> float:
    return number.value if isinstance(number, Estimate) else number


# -- Words -----------------------------------------------------------------------------------------


def _headline(suite: _Suite, ranked: Sequence[str], means: Mapping[str, Estimate | float], pairs: Pairs | None) -> str:
    """Return the leading algorithm, the certainty of its lead, and its worst task."""
    best = ranked[0]
    text = f"{best} {'leads with' if len(ranked) > 1 else 'has'} a mean score of {_with_bounds(means[best])}"
    if len(ranked) > 1:
        text += f", {_verdict(ranked, pairs)}"
    if len(suite.tasks) == 1:
        return f"{text}, on {suite.tasks[0]}."
    by_task = suite.means(best)
    worst = min(by_task, key=by_task.__getitem__)
    # The best other algorithm there shows that the task can be solved.
    strongest = max(ranked, key=lambda name: suite.means(name)[worst])
    text += f"; it is at its worst on {worst} ({number(by_task[worst], 2)}"
    if strongest != best:
        text += f", where {strongest} has {number(suite.means(strongest)[worst], 2)}"
    return f"{text})."


def _verdict(ranked: Sequence[str], pairs: Pairs | None) -> str:
    """Return whom the leader surely beats, and whom it may not."""
    if pairs is None or pairs.sample is None:
        units = 0 if pairs is None else pairs.units
        return f"ahead of {ranked[1]} (too few tasks or seeds for a verdict: {units} of {FEWEST_UNITS})"
    # Of seeds that not all have, the means may rank differently from the pairs.
    ahead = pairs.surely[0, 1:] & (pairs.difference[0, 1:] > 0)
    sure = [name for name, surely in zip(ranked[1:], ahead, strict=True) if surely]
    open_ = [name for name in ranked[1:] if name not in sure]
    if not sure:
        others = f"any of the {len(open_)} others" if len(open_) > 1 else open_[0]
        return f"not told apart from {others}"
    if not open_:
        return "surely ahead of all others" if len(sure) > 1 else f"surely ahead of {sure[0]}"
    return f"surely ahead of {_listed(sure)}, not told apart from {_listed(open_)}"


def _listed(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        return f"{len(names)} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _with_bounds(estimate: Estimate | float, places: int = 3) -> str:
    text = number(_value(estimate), places)
    if isinstance(estimate, Estimate):
        text += f" [{number(estimate.low, places)}, {number(estimate.high, places)}]"
    return text


# -- Tables ----------------------------------------------------------------------------------------


def _overall(
    suite: _Suite, ranked: Sequence[str], means: Mapping[str, Estimate | float], rng: np.random.Generator
) -> Table:
    many = len(suite.tasks) == 1 and all(len(scores) >= MANY_SEEDS for scores in suite.scores.values())
    rows = []
    for name in ranked:
        seeds = len(suite.scores[name])
        by_task = suite.means(name)
        worst = min(by_task, key=by_task.__getitem__)
        known = isinstance(means[name], Estimate)
        middle = (stratified_estimate(suite.scores[name], interquartile_mean, rng),) if many else ()
        count = seeds if known else f"{seeds}: {NO_INTERVAL}"
        rows.append((name, means[name], *middle, f"{worst} {number(by_task[worst], 2)}", count))
    several = len(suite.tasks) > 1
    over_seeds = (
        "Means over seeds" if any(len(scores) > 1 for scores in suite.scores.values()) else "Scores of one seed"
    )
    note = f"Means over {len(suite.tasks)} tasks." if several else f"{over_seeds}, on {suite.tasks[0]} alone."
    if any(isinstance(mean, Estimate) for mean in means.values()):
        note += f" Intervals, at 95 %, are about new instances{' of these tasks' if several else ''}."
    if many:
        note += " IQM: mean of the middle half of the seeds, which outliers do not rule."
    columns = ("algorithm", "mean", *(("IQM",) if many else ()), "worst task", "seeds")
    return Table("Over all tasks", columns, tuple(rows), note)


def _all_pairs(ranked: Sequence[str], pairs: Pairs | None) -> tuple[Table, ...]:
    """Return a row for each pair that is told apart, and a note about the others; nothing without a verdict."""
    if pairs is None or pairs.sample is None:
        return ()
    order = sorted(
        ((i, j) for i, j in np.ndindex(pairs.surely.shape) if pairs.surely[i, j] and pairs.difference[i, j] > 0),
        key=lambda pair: -pairs.difference[pair],
    )
    rows = []
    for i, j in order:
        difference = Estimate(*(float(one[i, j]) for one in (pairs.difference, pairs.low, pairs.high)))
        rows.append((ranked[i], ranked[j], difference, float(pairs.p[i, j])))
    above = np.triu_indices(len(ranked), 1)
    typical = float(np.median(pairs.detectable[above]))
    count = len(above[0])
    note = (
        f"{len(rows)} of {count} pairs are told apart, with {pairs.units} {pairs.sample} as the sample, paired by"
        f" instance. p-values and intervals hold for all pairs at once. In half of the pairs a true difference of"
        f" {number(typical, 2)} would be found with a probability of 0.8 or more: no verdict is no proof of equality."
    )
    return (Table("Pairs told apart", ("higher", "lower", "difference", "p, corrected"), tuple(rows), note),)


def _each_task(suite: _Suite, ranked: Sequence[str]) -> Table:
    rows = []
    for name in ranked:
        columns = suite.scores[name].T
        means = [mean_estimate(column) if suite.enough(name) else float(column.mean()) for column in columns]
        rows.append((name, *means))
    note = f"{_each_mean(suite)}; tasks are sorted by mean score, the easiest first. {_unshown_doubt(suite)}".strip()
    return Table("By task", ("algorithm", *suite.tasks), tuple(rows), note)


def _each_mean(suite: _Suite) -> str:
    """Return what the scores of a single task are, by the number of seeds."""
    counts = {len(scores) for scores in suite.scores.values()}
    if counts == {1}:
        return "Scores of one seed, without intervals"
    if max(counts) < FEWEST_SEEDS:
        number_of = max(counts) if len(counts) == 1 else f"at most {max(counts)}"
        return f"Means over {number_of} seeds, too few for an interval of a single task"
    if min(counts) < FEWEST_SEEDS:
        return f"Means over seeds, with Student's 95 % interval where there are at least {FEWEST_SEEDS}"
    return "Means over seeds with Student's 95 % interval"


def _unshown_doubt(suite: _Suite) -> str:
    """Return what intervals of a single task leave out: outcomes of all or nothing, and successes not met yet."""
    counts = sorted({len(scores) for name, scores in suite.scores.items() if suite.enough(name)})
    fits = "; ".join(f"0 of {n} seeds fit a success rate up to {1 - (1 - LEVEL) ** (1 / n):.2f}" for n in counts)
    if not fits:
        return ""
    return (
        "Where a seed wins or loses outright, Student's interval of 3 seeds holds the true mean in half of all cases, "
        "that of 10 in nine of ten (scripts/simulate_intervals.py); one of width 0 does not exclude rare successes: "
        f"{fits} (one-sided, 95 %)."
    )


# -- Figures ---------------------------------------------------------------------------------------


def _figures(
    suite: _Suite, ranked: Sequence[str], scores: Mapping[str, Estimate | float], pairs: Pairs | None
) -> tuple[Figure, ...]:
    known = {name: e if isinstance(e, Estimate) else Estimate(e, np.nan, np.nan) for name, e in scores.items()}
    means = {name: suite.means(name) for name in suite.scores}
    how_well = Figure(
        "Mean score with 95 % interval",
        interval_plot(known, "mean score"),
        _bars(known),
    )
    bands = "; bands are 95 % intervals" if any(suite.enough(name) for name in suite.scores) else ""
    if len(suite.tasks) == 1:  # no tasks to compare, and bands of profiles from so few runs would hide the lines
        return (how_well,)
    return (
        how_well,
        *_matrix(ranked, pairs),
        Figure(
            "Performance profiles",
            line_plot(_profiles(suite), "score", "share of runs above it"),
            f"Higher is better{bands}. A line that drops at the left has failed runs.",
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


def _bars(scores: Mapping[str, Estimate]) -> str:
    finite = [np.isfinite(one.low) for one in scores.values()]
    bars = "Bars are 95 % intervals for new instances." if any(finite) else ""
    return f"{bars} {'' if all(finite) else f'Hollow dots: {NO_INTERVAL}.'}".strip()


def _matrix(ranked: Sequence[str], pairs: Pairs | None) -> tuple[Figure, ...]:
    if pairs is None or pairs.sample is None:
        return ()
    caption = (
        "Mean score of the row less that of the column, on the same instances. Filled and bold: told apart at 5 %,"
        " corrected for all pairs."
    )
    return (Figure("All pairs", pair_matrix(ranked, pairs.difference, pairs.surely), caption),)


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
