"""Findings of ``textgym compare``: a headline, tables with intervals, differences seed by seed, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.special import stdtr

from textgym.benchmarks.analysis.compare_runs import (
    ABSENT,
    CURVES_OF_SCORES,
    MEASURES,
    ComparedRun,
    Group,
    Measurement,
    describe_measure,
    settings_table,
)
from textgym.benchmarks.analysis.seeds import with_bounds
from textgym.intervals import Estimate, half_width
from textgym.reports.before_after import Metric, gold_is_the_reward, metric
from textgym.reports.charts.suites import PlotLine, interval_plot, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.reports.formatting import count_of, decimals, number
from textgym.reports.run import DIAGNOSTICS, TOKENS_KEY, column
from textgym.types import FloatArray

LEADING = ("gold", "score", *MEASURES)
"""Measures that a headline may be about, the first that all groups have."""
FIRST_COLUMNS = ("gold", "score", *MEASURES, "kl", "length")
_POINTS = 60  # of a curve over tokens, whose iterations differ in length
MOST_LETTERS = 40  # longest unit in an axis label
_MOST_LINES = 11  # as many as there are colours
CURVES: Mapping[str, Metric] = {
    "rollout/components/gold": metric("gold"),
    "rollout/score": metric("score"),
    "rollout/kl": metric("kl"),
    "rollout/length": metric("length"),
    "train/entropy": DIAGNOSTICS["train/entropy"],
    "validation/gold": Metric("Gold of samples", "the true objective of the task"),
    "validation/score": Metric("Score of samples", "the reward of a response"),
    "validation/accuracy": Metric("Held-out accuracy", "share of pairs; chance is 0.5"),
    "validation/margin": Metric("Held-out margin", "implicit rewards, preferred less other"),
    "validation/loss": Metric("Held-out loss", "nats"),
    "train/loss": Metric("Training loss", "nats"),
}
"""Curves that are drawn where two runs have them, in order."""


def compare_groups(groups: Sequence[Group]) -> Findings:
    """Return the findings about groups of runs; see :func:`textgym.benchmarks.analysis.compare_runs.grouped`."""
    measures = shared_measures(groups)
    tables = [
        _summary(groups, measures),
        *_differences(groups, measures),
        _every_run(groups, measures),
        *_settings(groups),
    ]
    notices = [f"{run.path}: {note}" for group in groups for run in group.runs for note in _notes(run)]
    return Findings(_headline(groups, measures), tuple(tables), tuple(_figures(groups, measures)), tuple(notices))


def _notes(run: ComparedRun) -> list[str]:
    return [*([run.note] if run.note else []), *run.notices]


def shared_measures(groups: Sequence[Group]) -> list[str]:
    """Return the measures that at least two runs have, the most important first."""
    runs = [run for group in groups for run in group.finished]
    names = dict.fromkeys(name for run in runs for name in run.measured)
    if runs and all(_gold_is_score(run) for run in runs):
        names.pop("score")
    # Unknown measures come last, in the order of the runs.
    rank = {name: place for place, name in enumerate(FIRST_COLUMNS)}
    common = [name for name in names if sum(name in run.measured for run in runs) > 1 or len(runs) == 1]
    return sorted(common, key=lambda name: rank.get(name, len(rank)))


def _gold_is_score(run: ComparedRun) -> bool:
    return gold_is_the_reward({name: {"mean": one.mean} for name, one in run.measured.items()})


# -- Numbers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pooled:
    """A measure of a group, over its seeds.

    Attributes:
        cell: the mean over seeds, with its 95 % interval where there is one.
        over: the units that the interval is over, in words.
        seeds: number of seeds that have the measure.
    """

    cell: Estimate | float
    over: str
    seeds: int

    @property
    def mean(self) -> float:
        return self.cell.value if isinstance(self.cell, Estimate) else self.cell


def pooled(group: Group, measure: str) -> Pooled | None:
    """Return a measure over the seeds of a group, or over the evaluation of a single seed; None if no run has it."""
    runs = [run for run in group.runs if measure in run.measured]
    if not runs:
        return None
    if len(runs) == 1:
        one, behind = runs[0].measured[measure], "prompts" if measure in MEASURES else "episodes"
        known = one.low is not None and one.n is not None
        return Pooled(_cell(one), f"{number(one.n)} {behind} of one seed" if known else "one seed: none", 1)
    values = np.array([run.measured[measure].mean for run in runs])
    mean, half = float(values.mean()), half_width(float(values.std(ddof=1) / np.sqrt(len(values))), len(values))
    cell = mean if half is None else Estimate(mean, mean - half, mean + half)
    return Pooled(cell, f"{len(values)} seeds", len(values))


def _cell(one: Measurement) -> Estimate | float:
    return one.mean if one.low is None or one.high is None else Estimate(one.mean, one.low, one.high)


@dataclass(frozen=True)
class Difference:
    """The difference of two groups in one measure.

    Attributes:
        mean: mean of the differences.
        half: half-width of Student's 95 % interval; None without one.
        p: probability of so large a difference by chance; None without an interval.
        basis: the kind of comparison, in words.
    """

    mean: float
    half: float | None
    p: float | None
    basis: str

    def clear(self, comparisons: int = 1) -> bool:
        """Return True if the difference is significant at 5 %, with Bonferroni's correction for so many comparisons."""
        return self.p is not None and self.p * comparisons < 0.05


def difference(one: Group, other: Group, measure: str) -> Difference | None:
    """Return ``one`` less ``other``: paired by seed if seeds match, else by Welch's test; None without both."""
    a, b = one.values(measure), other.values(measure)
    if not a or not b:
        return None
    shared = sorted(a.keys() & b.keys())
    if len(shared) > 1:  # equal seeds share prompts and initial weights, so their difference varies less
        gaps = np.array([a[seed] - b[seed] for seed in shared])
        error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
        return _tested(float(gaps.mean()), error, len(gaps), f"paired, {len(gaps)} seeds")
    ours, theirs = np.array(list(a.values())), np.array(list(b.values()))
    gap = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Difference(gap, None, None, "one seed" if min(len(ours), len(theirs)) == 1 else ABSENT)
    parts = [(float(x.var(ddof=1)) / len(x), len(x)) for x in (ours, theirs)]
    # Welch–Satterthwaite degrees of freedom of a difference of two means.
    total = sum(square for square, _ in parts)
    lost = sum(square**2 / (n - 1) for square, n in parts)
    freedom = total**2 / lost if lost else min(len(ours), len(theirs)) - 1
    return _tested(gap, float(np.sqrt(total)), freedom + 1, f"unpaired, {len(ours)} and {len(theirs)} seeds")


def _tested(mean: float, error: float, n: float, basis: str) -> Difference:
    if error == 0:  # all agree: as probable as so many fair coins on the same side
        return Difference(mean, 0.0, 2.0 ** (1 - n) if mean else 1.0, basis)
    return Difference(mean, half_width(error, n), float(2 * stdtr(n - 1, -abs(mean / error))), basis)


# -- Words -----------------------------------------------------------------------------------------


def leading_measure(groups: Sequence[Group], measures: Sequence[str]) -> str | None:
    """Return the measure of the headline: the first of :data:`LEADING` that two groups have, or the only group."""
    enough = min(2, len(groups))
    for name in LEADING:
        if name in measures and sum(bool(group.values(name)) for group in groups) >= enough:
            return name
    return None


def _headline(groups: Sequence[Group], measures: Sequence[str]) -> str:
    runs = sum(len(group.runs) for group in groups)
    measure = leading_measure(groups, measures)
    if measure is None:
        finished = sum(len(group.finished) for group in groups)
        text = "none of them is finished" if not finished else "they share no measure that can be ranked"
        return f"{count_of(runs, 'run')} in {count_of(len(groups), 'group')}: {text}."
    described = describe_measure(measure)
    known = {group.name: (group, found) for group in groups if (found := pooled(group, measure))}
    ranked = sorted(known.values(), key=lambda pair: -described.better * pair[1].mean)
    best, value = ranked[0]
    label = described.label.lower()
    if len(ranked) == 1:
        return f"{best.name} reaches a {label} of {_with_bounds(value)}, over {value.over}."
    second, other = ranked[1]
    gap = difference(best, second, measure)
    most = "highest" if described.better > 0 else "lowest"
    text = f"{best.name} has the {most} {label}, {_with_bounds(value)}; {second.name} has {_with_bounds(other)}"
    if gap is None or gap.p is None:
        single = [one.name for one, pool in ranked[:2] if pool.seeds == 1]
        return f"{text}: with a single seed of {' and of '.join(single)}, other seeds may reverse the order."
    sure = "clearly" if gap.clear(comb(len(ranked), 2)) else "not clearly"
    return f"{text}: {sure} different ({gap.basis})."


def _with_bounds(found: Pooled) -> str:
    if not isinstance(found.cell, Estimate):
        return number(found.mean)
    half = (found.cell.high - found.cell.low) / 2
    return with_bounds(found.cell, min(decimals(half), 3) if half else 3)


# -- Tables ----------------------------------------------------------------------------------------


def _column(measure: str) -> str:
    return describe_measure(measure).label


def _summary(groups: Sequence[Group], measures: Sequence[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    basis = leading_measure(groups, measures) or next(iter(measures), None)
    for group in groups:
        found = [pooled(group, measure) for measure in measures]
        over = None if basis is None else pooled(group, basis)
        cells = (None if one is None else one.cell for one in found)
        rows.append((group.name, *cells, len(group.finished), len(group.runs), "–" if over is None else over.over))
    note = (
        "Student's 95 % intervals, over seeds if there are at least two. For a single seed they are over its "
        "evaluation episodes or prompts, and say nothing about other seeds."
    )
    if any(isinstance(cell, Estimate) and cell.low == cell.high for row in rows for cell in row):
        note += " An interval of width 0 means that all values are equal, not that there is no doubt."
    if any("data" in (run.questions[0], *(run.pairs or ())[:1]) for group in groups for run in group.runs):
        note += " Each seed holds out different prompts of the data."
    units = "; ".join(
        f"{describe_measure(m).label}: {describe_measure(m).hint}" for m in measures if describe_measure(m).hint
    )
    columns = ("group", *map(_column, measures), "finished", "runs", "intervals over")
    return Table("Groups", columns, tuple(rows), f"{note} {units}.".strip() if units else note)


def _differences(groups: Sequence[Group], measures: Sequence[str]) -> list[Table]:
    """Return a table of the differences between every other group and the first."""
    first, *others = groups
    rows: list[tuple[Cell, ...]] = []
    for group in others:
        for measure in measures:
            gap = difference(group, first, measure)
            if gap is None:
                continue
            cell: Cell = gap.mean if gap.half is None else Estimate(gap.mean, gap.mean - gap.half, gap.mean + gap.half)
            verdict = "not known" if gap.p is None else "clear" if gap.clear() else "not clear"
            rows.append((group.name, _column(measure), cell, gap.basis, verdict))
    if not rows:
        return []
    note = (
        f"Each group less {first.name}, the first group: paired by seed if at least two seeds match, else by Welch's "
        "test. Intervals are not corrected for the number of comparisons: one in twenty looks clear by chance."
    )
    columns = ("group", "measure", "difference", "basis", "verdict")
    return [Table(f"Differences to {first.name}", columns, tuple(rows), note)]


def _every_run(groups: Sequence[Group], measures: Sequence[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        for run in group.runs:
            cells = (_cell(run.measured[m]) if m in run.measured else None for m in measures)
            rows.append((str(run.path), group.name, run.seed, *cells, run.note or "finished"))
    note = (
        "95 % intervals over the episodes or prompts that each run was evaluated on: Student's for means, Clopper and "
        "Pearson's for accuracies."
    )
    return Table("Runs", ("run", "group", "seed", *map(_column, measures), "state"), tuple(rows), note)


def _settings(groups: Sequence[Group]) -> list[Table]:
    rows = settings_table(groups)
    if not rows:
        return []
    note = f"{ABSENT}: a setting that the runs of a group do not have."
    return [Table("Settings that differ", ("setting", *(group.name for group in groups)), tuple(rows), note)]


# -- Figures ---------------------------------------------------------------------------------------


def _figures(groups: Sequence[Group], measures: Sequence[str]) -> list[Figure]:
    found = []
    measure = leading_measure(groups, measures)
    if measure is not None:
        described, shown = describe_measure(measure), {}
        for group in groups:
            if one := pooled(group, measure):
                shown[group.name] = one.cell if isinstance(one.cell, Estimate) else Estimate(one.mean, np.nan, np.nan)
        caption = f"{_sentence(described.hint)}Bars are Student's 95 % intervals; a hollow dot has no interval."
        svg = interval_plot(shown, _axis(described), lowest_first=described.better < 0)
        found.append(Figure(described.label, svg, caption))
    drawn = groups[:_MOST_LINES]
    left_out = f" The first {_MOST_LINES} of {len(groups)} groups are drawn." if len(groups) > _MOST_LINES else ""
    text = (
        "Bands are 95 % intervals over seeds; a line without a band is a single run. Axes span the data and need not "
        f"begin at 0.{left_out}"
    )
    for key, described in CURVES.items():
        if key in CURVES_OF_SCORES and measures and "score" not in measures:
            continue  # it is gold
        for unit in dict.fromkeys(run.unit for group in groups for run in group.runs):
            if key == "train/loss" and unit == "tokens":
                continue  # the loss of reinforcement falls for no better policy
            series = {group.name: line for group in drawn if (line := mean_curve(group, key, unit)) is not None}
            if series:
                svg = line_plot(series, unit, _axis(described))
                short = sum(_left_out(group, key, unit) for group in drawn)
                caption = f"{_sentence(described.hint)}{text}{_of_unfinished(short)}"
                found.append(Figure(f"{described.label} by {unit}", svg, caption))
    return found


def _of_unfinished(short: int) -> str:
    if not short:
        return ""
    return f" Unfinished runs are left out of the means of finished ones: {count_of(short, 'run')}."


def _axis(described: Metric) -> str:
    """Return a label, with its unit if that is short."""
    return f"{described.label}, {described.hint}" if 0 < len(described.hint) <= MOST_LETTERS else described.label


def _sentence(hint: str) -> str:
    return f"{hint[:1].upper()}{hint[1:]}. " if hint else ""


def mean_curve(group: Group, key: str, unit: str) -> PlotLine | None:
    """Return the mean of a metric over the seeds of a group, by training step, with a band for two seeds or more.

    Curves of different lengths are interpolated where all of them are known. Of a group in which a run is finished,
    the others are left out: they would shorten its curve.
    """
    curves = _curves(group, key, unit)
    if not curves:
        return None
    x = curves[0][0]
    # Iterations end at different tokens where responses differ in length.
    if any(not np.array_equal(own, x) for own, _ in curves):
        low, high = max(own[0] for own, _ in curves), min(own[-1] for own, _ in curves)
        if high < low:
            return None
        x = np.linspace(low, high, _POINTS) if high > low else np.array([low])
    y = np.array([np.interp(x, *curve) for curve in curves])
    if len(y) == 1:
        return PlotLine(x, y[0])
    half = (half_width(1.0, len(y)) or 0.0) * y.std(0, ddof=1) / np.sqrt(len(y))
    return PlotLine(x, y.mean(0), y.mean(0) - half, y.mean(0) + half)


def _curves(group: Group, key: str, unit: str) -> list[tuple[FloatArray, FloatArray]]:
    """Return the curves of the finished runs, or those of all runs if no finished run has one."""
    return _known(group.finished, key, unit) or _known(group.runs, key, unit)


def _left_out(group: Group, key: str, unit: str) -> int:
    return len(_known(group.runs, key, unit)) - len(_curves(group, key, unit))


def _known(runs: Sequence[ComparedRun], key: str, unit: str) -> list[tuple[FloatArray, FloatArray]]:
    return [curve for run in runs if run.unit == unit and (curve := _curve(run, key)) is not None]


def _curve(run: ComparedRun, key: str) -> tuple[FloatArray, FloatArray] | None:
    """Return the points of a metric that are numbers; None without any."""
    y = np.array(column(run.rows, key))
    x = np.array(column(run.rows, TOKENS_KEY if run.unit == "tokens" else "iteration"))
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return None
    order = np.argsort(x[known], kind="stable")
    return x[known][order], y[known][order]
