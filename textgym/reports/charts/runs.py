"""Charts of runs and pipelines, in the style of :mod:`textgym.reports.charts.svg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from textgym.intervals import SampleMean, half_width
from textgym.reports.charts.svg import GRID_COLOUR, LINE_COLOUR, TEXT_COLOUR, picture, plain_numbers, shown_name, widen

_SMALL, _LARGE = (4.4, 2.3), (7.4, 4.9)


def stage_steps(estimates: Mapping[str, SampleMean | None], label: str, places: int, large: bool = False) -> str:
    """Draw a metric from stage to stage: dots with 95 % whiskers and their numbers, joined by a line.

    Args:
        estimates: by the name of the stage, in order; None where the stage did not measure the metric.
        label: names the picture for screen readers.
        places: decimal places of the numbers.
        large: True for the main chart of the page.
    """
    known = {i: estimate for i, estimate in enumerate(estimates.values()) if estimate is not None}
    x, y = list(known), [estimate.mean for estimate in known.values()]

    def draw(axes: Axes) -> None:
        halves = [estimate.half or 0.0 for estimate in known.values()]
        axes.plot(x, y, color=LINE_COLOUR, linewidth=1.4, alpha=0.35)
        axes.errorbar(x, y, yerr=halves, fmt="o", color=LINE_COLOUR, markersize=8 if large else 5, linewidth=2)
        for i, estimate in known.items():
            axes.annotate(
                f"{estimate.mean:.{places}f}".replace("-", "−"),
                (i, estimate.high),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                color=LINE_COLOUR,
                fontsize=14 if large else 10,
                fontweight="bold",
            )
        axes.set_xticks(range(len(estimates)), [shown_name(name) for name in estimates], fontsize=12 if large else 10)
        axes.set_xlim(-0.4, len(estimates) - 0.6)
        axes.margins(y=0.22)
        axes.yaxis.set_major_locator(MaxNLocator(5 if large else 3, steps=[1, 2, 2.5, 5, 10]))

    return picture(draw, label, _LARGE if large else _SMALL)


def epoch_curves(curves: Mapping[str, Sequence[float]], kept: int | None, label: str) -> str:
    """Draw numbers by epoch: the first curve solid, further ones dashed, the kept epoch marked.

    Args:
        curves: ``[epochs]`` values by name, from epoch 0; NaN leaves a gap.
        kept: the epoch whose model was kept; None where that is not known.
        label: names the picture for screen readers.
    """

    def draw(axes: Axes) -> None:
        for i, (name, values) in enumerate(curves.items()):
            axes.plot(
                range(len(values)),
                values,
                color=LINE_COLOUR if i == 0 else TEXT_COLOUR,
                linewidth=1.8 if i == 0 else 1.4,
                linestyle="-" if i == 0 else "--",
                marker="o",
                markersize=3.5,
                label=shown_name(name),
            )
        if kept is not None:
            axes.axvline(kept, color=TEXT_COLOUR, linewidth=1, linestyle=":")
            axes.text(
                kept, 1.0, " kept ", transform=axes.get_xaxis_transform(), ha="right", va="top", color=TEXT_COLOUR
            )
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=TEXT_COLOUR)
        axes.set_xlabel("epochs")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.margins(x=0.04, y=0.12)
        widen(axes)

    return picture(draw, label)


def calibration_plot(bins: Sequence[Mapping[str, float]], label: str) -> str:
    """Draw the true share of pairs won over the predicted one; a calibrated model lies on the diagonal.

    Args:
        bins: ``predicted`` and ``actual`` win rate in [0, 1], and the ``count`` of pairs, which sets a dot's area.
        label: names the picture for screen readers.
    """
    largest = max(entry["count"] for entry in bins)

    def draw(axes: Axes) -> None:
        predicted, actual = ([100 * entry[key] for entry in bins] for key in ("predicted", "actual"))
        axes.plot([0, 100], [0, 100], color=TEXT_COLOUR, linewidth=1, linestyle=":")
        axes.plot(predicted, actual, color=LINE_COLOUR, linewidth=1.4, alpha=0.35)
        areas = [12 + 90 * entry["count"] / largest for entry in bins]
        axes.scatter(predicted, actual, s=areas, color=LINE_COLOUR, linewidths=0)
        axes.set_xlabel("predicted, %")
        axes.set_xlim(-4, 104)
        axes.set_ylim(-8, 108)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_yticks([0, 50, 100])
        axes.tick_params(axis="x", color=GRID_COLOUR)

    return picture(draw, label)


def training_curve(
    x: Sequence[float],
    y: Sequence[float],
    sem: Sequence[float] | None = None,
    label: str = "",
    x_label: str = "tokens",
    n: float | None = None,
) -> str:
    """Draw ``y`` over ``x`` as an ``<svg>`` element, with Student's 95 % band where standard errors are given.

    Args:
        x: ``[n]`` horizontal positions.
        y: ``[n]`` values; NaN leaves a gap.
        sem: ``[n]`` standard errors of ``y``; NaN leaves a gap in the band.
        label: names the picture for screen readers.
        x_label: label of the horizontal axis.
        n: values behind each of the means; None for many.
    """

    def draw(axes: Axes) -> None:
        half = half_width(1.0, n) if sem is not None else None
        band = None if half is None else half * np.asarray(sem, float)
        _draw(axes, np.asarray(x, float), np.asarray(y, float), band)
        axes.set_xlabel(x_label)

    return picture(draw, label)


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, half: np.ndarray | None) -> None:
    few = np.isfinite(y).sum() <= 12
    axes.plot(x, y, color=LINE_COLOUR, linewidth=1.8, marker="o" if few else None, markersize=3.5)
    if half is not None:
        axes.fill_between(x, y - half, y + half, color=LINE_COLOUR, alpha=0.18, linewidth=0)
    whole = bool(np.equal(np.mod(x[np.isfinite(x)], 1), 0).all())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M
    axes.yaxis.set_major_formatter(plain_numbers())
    axes.margins(x=0.02, y=0.1)
    widen(axes)
