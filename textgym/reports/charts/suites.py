"""Charts of benchmarks and comparisons, as ``<svg>`` elements in the style of :mod:`textgym.reports.charts.svg`.

An entry's place in a mapping chooses its colour: give several pictures the same order, and an algorithm looks the same
in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, zip_longest
from statistics import fmean, median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from textgym.intervals import Estimate
from textgym.reports.charts.svg import (
    BAD_COLOUR,
    GOOD_COLOUR,
    GRID_COLOUR,
    INK_COLOUR,
    SERIES_COLOURS,
    TEXT_COLOUR,
    plain_numbers,
    shown_name,
    svg,
    svg_style,
    widen,
)
from textgym.reports.formatting import decimals, number

HALF, WHOLE = 5.4, 11.0  # widths in inches: of half a page, of all of it
LETTERS_ABREAST = 130
"""Letters of column names that fit side by side above a table of all of a page's width; longer names are slanted."""
ROW = 0.32  # inches for a line of text
MARKED_POINTS = 15  # lines with at most this many points get markers
SHAPES = ("o", "s", "^", "D")  # of markers, by round through the colours
RADARS_PER_ROW = 4
FAILED = 0.5  # scores below it get the colour for bad
MOST_PLACES = 3  # of numbers with an interval
DEEPEST = 0.6  # how opaque the strongest colour behind a number may be
PALEST = 0.12  # and the weakest, where a colour says that there is a difference
MOST_LEVEL_NAMES = 10  # more names than that over a table are slanted


@dataclass(frozen=True)
class PlotLine:
    """One line of a picture.

    Attributes:
        x: ``[n]``.
        y: ``[n]``; NaN leaves a gap.
        low: ``[n]``, where the band around it begins; none is drawn without both ends.
        high: ``[n]``, where it ends.
        dashed: True for a line that was computed or fitted, not measured.
        follows: the line that it belongs to: it takes that one's colour, and the legend does not name it.
    """

    x: Sequence[float] | NDArray[np.float64]
    y: Sequence[float] | NDArray[np.float64]
    low: Sequence[float] | NDArray[np.float64] | None = None
    high: Sequence[float] | NDArray[np.float64] | None = None
    dashed: bool = False
    follows: str | None = None


def line_plot(series: Mapping[str, PlotLine], x_label: str, y_label: str) -> str:
    """Draw lines by name over a common axis, with bands where they have them.

    Raises:
        ValueError: there is none, the numbers of a line are not equally many, or it follows one that is not there.
    """
    _expect_some("series", series)
    colours = _colours(name for name, line in series.items() if line.follows is None)
    shapes = _shapes(colours)
    with svg_style():
        figure = Figure(figsize=(HALF, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, line in series.items():
            leader = name if line.follows is None else line.follows
            if leader not in colours:
                raise ValueError(f"series[{name!r}] follows {leader!r}; expected one of {', '.join(colours)}")
            _draw_line(axes, name, line, colours[leader], shapes[leader])
        largest = max(float(np.nanmax(np.abs(np.asarray(line.x, float)))) for line in series.values())
        whole = all(np.equal(np.mod(line.x, 1), 0).all() for line in series.values())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if largest >= 1000 else plain_numbers())
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(plain_numbers())
        axes.margins(x=0.02, y=0.06)
        widen(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(colours) > 1:
            figure.legend(loc="outside right upper", frameon=False, fontsize=9, handlelength=1.4, labelcolor=INK_COLOUR)
        return svg(figure, f"{y_label} over {x_label}")


def _draw_line(axes: Axes, name: str, line: PlotLine, colour: str, shape: str) -> None:
    arrays = {part: np.asarray(getattr(line, part), float) for part in ("x", "y", "low", "high")}
    shapes = {part: array.shape for part, array in arrays.items() if getattr(line, part) is not None}
    if set(shapes.values()) != {arrays["x"].shape} or arrays["x"].ndim != 1 or not arrays["x"].size:
        raise ValueError(f"series[{name!r}] has shapes {shapes}; expected one length, at least 1, for all of them")
    # After the last colour comes the first again: those lines are told apart by their marks.
    few = arrays["x"].size <= MARKED_POINTS
    marker = shape if not line.dashed and (few or shape != SHAPES[0]) else None
    every = 1 if few else arrays["x"].size // 6
    style = (0, (4, 2)) if line.dashed else "-"
    label = _legend_name(name) if line.follows is None else "_nolegend_"
    axes.plot(
        arrays["x"], arrays["y"], label=label, color=colour, lw=1.7, ls=style, marker=marker, markevery=every, ms=3.5
    )
    if line.low is not None and line.high is not None:
        axes.fill_between(arrays["x"], arrays["low"], arrays["high"], color=colour, alpha=0.13, linewidth=0)


def _legend_name(name: str) -> str:
    """Return a name for the legend; matplotlib leaves out names that begin with an underscore."""
    shown = shown_name(name)
    return f"\u200b{shown}" if shown.startswith("_") else shown


def interval_plot(estimates: Mapping[str, Estimate], label: str, lowest_first: bool = False) -> str:
    """Draw a dot and a whisker for each name, the best on top, the number beside it.

    An estimate whose ends are NaN has no interval: its dot is hollow. The best is the highest, or the lowest if
    ``lowest_first``.

    Raises:
        ValueError: there is none.
    """
    _expect_some("estimates", estimates)
    colours, places = _colours(estimates), typical_places(estimates.values())
    ranked = sorted(
        estimates.items(), key=lambda item: item[1].value if lowest_first else -item[1].value
    )  # stable: ties keep their order
    with svg_style():
        figure = Figure(figsize=(HALF, ROW * len(ranked) + 0.7), layout="constrained")
        axes = figure.subplots()
        for row, (name, estimate) in enumerate(ranked):
            whisker = ([estimate.low, estimate.high], [row, row])
            axes.plot(*whisker, color=colours[name], lw=5, alpha=0.35, solid_capstyle="round")
            fill = "full" if math.isfinite(estimate.low + estimate.high) else "none"
            axes.plot([estimate.value], [row], color=colours[name], marker="o", ms=6.5, ls="none", fillstyle=fill)
        axes.set_yticks(range(len(ranked)), [shown_name(name) for name, _ in ranked], color=INK_COLOUR, fontsize=10)
        # A second axis at the right, whose tick labels are the numbers.
        values = axes.secondary_yaxis("right")
        values.set_yticks(
            range(len(ranked)),
            [number(estimate.value, places) for _, estimate in ranked],
            color=TEXT_COLOUR,
            fontsize=9,
        )
        values.spines["right"].set_visible(False)
        values.tick_params(length=0)
        axes.set_ylim(len(ranked) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(plain_numbers())
        axes.grid(axis="x")
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return svg(figure, f"{label} with 95 % intervals, the best first: {', '.join(name for name, _ in ranked)}")


def typical_places(estimates: Iterable[Estimate]) -> int:
    """Return the decimal places for the typical interval, at most 3, which also holds if no interval has a width."""
    halves = [half for one in estimates if (half := (one.high - one.low) / 2) > 0]
    return min(decimals(median(halves)), MOST_PLACES) if halves else MOST_PLACES


def heatmap(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Draw scores as a coloured table, a row for each name and a column for each of its entries.

    A score of 1 has the deepest good colour, 0 the deepest bad one, and 0.5 none.

    Raises:
        ValueError: there is none, or the rows have different columns.
    """
    columns = _columns(scores)
    with svg_style():
        figure = Figure(figsize=(WHOLE, 0.4 * len(scores) + 0.6), layout="constrained")
        axes = figure.subplots()
        for row, by_column in enumerate(scores.values()):
            for column, score in enumerate(by_column[name] for name in columns):
                strength = DEEPEST * min(abs(2 * score - 1), 1)
                colour = GOOD_COLOUR if score > FAILED else BAD_COLOUR
                axes.add_patch(_cell(column, row, colour, strength))
                axes.text(column, row, number(score, 2), color=INK_COLOUR, ha="center", va="center", fontsize=10)
        _frame_table(axes, [shown_name(name) for name in columns], [shown_name(name) for name in scores])
        return svg(figure, f"Scores of {', '.join(scores)} on {', '.join(columns)}")


def pair_matrix(names: Sequence[str], differences: ArrayLike, surely: ArrayLike) -> str:
    """Draw the differences between all pairs, row less column, the best row on top.

    A pair that is told apart has a filled cell and a bold number, the others have a pale number alone. The largest
    difference has the deepest colour, the good one where the row is higher.

    Args:
        names: ``[n]``.
        differences: ``[n, n]`` row less column, in the order of the names.
        surely: ``[n, n]`` True where a difference is significant.

    Raises:
        ValueError: fewer than two names, or matrices of another shape.
    """
    gaps, told_apart = np.asarray(differences, np.float64), np.asarray(surely, bool)
    size = len(names)
    if size < 2 or not gaps.shape == told_apart.shape == (size, size):
        raise ValueError(
            f"differences has shape {gaps.shape} and surely {told_apart.shape}; expected [n, n] for {size} names, at"
            " least two"
        )
    ranked = np.argsort(-gaps.mean(1), kind="stable").tolist()  # a mean difference to all ranks as the mean score does
    largest = float(np.abs(gaps).max()) or 1.0
    with svg_style():
        figure = Figure(figsize=(WHOLE, max(0.36 * size + 0.9, 2.0)), layout="constrained")
        axes = figure.subplots()
        for row, i in enumerate(ranked):
            for column, j in enumerate(ranked):
                if i != j:
                    _draw_difference(axes, column, row, float(gaps[i, j]), largest, bool(told_apart[i, j]))
        shown = [shown_name(names[i]) for i in ranked]
        _frame_table(axes, shown, shown)
        axes.tick_params(axis="x", labelrotation=45 if size > MOST_LEVEL_NAMES else 0)
        if size > MOST_LEVEL_NAMES:
            for text in axes.get_xticklabels():
                text.set_horizontalalignment("left")
                text.set_rotation_mode("anchor")
        return svg(figure, f"Differences between all pairs of {', '.join(names[i] for i in ranked)}, row less column")


def _draw_difference(axes: Axes, column: int, row: int, gap: float, largest: float, told_apart: bool) -> None:
    if told_apart:
        colour, strength = GOOD_COLOUR if gap > 0 else BAD_COLOUR, DEEPEST * abs(gap) / largest
        axes.add_patch(_cell(column, row, colour, max(strength, PALEST)))
    axes.text(
        column,
        row,
        number(gap, 2, sign=True),
        color=INK_COLOUR if told_apart else TEXT_COLOUR,
        fontweight="bold" if told_apart else "normal",
        ha="center",
        va="center",
        fontsize=9 if told_apart else 8,
    )


def _cell(column: int, row: int, colour: str, strength: float) -> Rectangle:
    return Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, facecolor=colour, alpha=strength, linewidth=0)


def _frame_table(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Name the columns, on top, and the rows of a coloured table."""
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    crowded = len(columns) * max(map(len, columns)) > LETTERS_ABREAST
    slant: dict[str, Any] = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(len(columns)), columns, color=TEXT_COLOUR, **slant)
    axes.set_yticks(range(len(rows)), rows, color=INK_COLOUR)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def radars(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Draw a small radar for each name: its scores as a polygon, from 0 in the middle to 1 on the rim.

    The one with the highest mean comes first. Scores below 0 are drawn at the centre. A spoke below one half is named
    in the colour for bad.

    Raises:
        ValueError: there is none, or they have different spokes.
    """
    spokes, colours = _columns(scores), _colours(scores)
    columns = min(len(scores), RADARS_PER_ROW)
    rows = -(-len(scores) // columns)
    with svg_style():
        figure = Figure(figsize=(WHOLE * columns / RADARS_PER_ROW, 2.75 * rows), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"}).flat
        for axes, name in zip_longest(places, sorted(scores, key=lambda name: -fmean(scores[name].values()))):
            if name is None:
                axes.set_visible(False)
            else:
                _draw_radar(axes, name, {spoke: scores[name][spoke] for spoke in spokes}, colours[name])
        return svg(figure, f"Scores of {', '.join(scores)}, one radar each, over {', '.join(spokes)}")


def _draw_radar(axes: PolarAxes, name: str, by_spoke: Mapping[str, float], colour: str) -> None:
    angles = np.linspace(0, 2 * np.pi, len(by_spoke), endpoint=False)
    # A negative radius would be drawn on the opposite side.
    radii = np.maximum(list(by_spoke.values()), 0.0)
    axes.fill(angles, radii, facecolor=colour, alpha=0.25, linewidth=0)
    axes.plot(np.append(angles, angles[0]), np.append(radii, radii[0]), color=colour, lw=1.7)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_ylim(0, max(1.0, float(radii.max())))
    axes.set_yticks([0.5, 1.0], [])
    axes.set_xticks(angles, [shown_name(name) for name in by_spoke], fontsize=7.5)
    axes.tick_params(axis="x", pad=-1)
    axes.grid(visible=True, axis="both", color=GRID_COLOUR, linewidth=0.7)
    axes.spines["polar"].set_visible(False)
    for text, angle, score in zip(axes.get_xticklabels(), angles, by_spoke.values(), strict=True):
        side = np.sin(angle)
        text.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
        text.set_color(BAD_COLOUR if score < FAILED else TEXT_COLOUR)
    axes.set_title(shown_name(name), color=colour, fontsize=11, fontweight="bold", pad=6)


def _colours(names: Iterable[str]) -> Mapping[str, str]:
    return dict(zip(names, cycle(SERIES_COLOURS)))


def _shapes(names: Iterable[str]) -> Mapping[str, str]:
    """Return the mark of each line: another one for each round through the colours."""
    return {name: SHAPES[place // len(SERIES_COLOURS) % len(SHAPES)] for place, name in enumerate(names)}


def _columns(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the entries that all names have, in the order of the first."""
    _expect_some("scores", scores)
    first = next(iter(scores.values()))
    for name, entries in scores.items():
        if set(entries) != set(first) or not entries:
            raise ValueError(f"scores[{name!r}] has {sorted(entries)}; expected those of the first: {sorted(first)}")
    return list(first)


def _expect_some(argument: str, mapping: Mapping[str, object]) -> None:
    if not mapping:
        raise ValueError(f"{argument} is empty; expected at least one entry to draw")
