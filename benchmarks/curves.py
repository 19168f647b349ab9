"""One training curve as an SVG that can stand inside a page.

Text stays text and takes the page's font; colours are the page's CSS variables, so a curve can follow a dark
theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

Z95 = 1.96  # half a 95 % interval, in standard errors

# matplotlib wants a colour, the page wants a variable: each stand-in is replaced in the finished SVG.
LINE, TEXT, GRID = "#000001", "#000002", "#000003"
VARIABLES = {LINE: "var(--line)", TEXT: "var(--muted)", GRID: "var(--rule)"}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "textgym",  # equal data give equal bytes
    "font.size": 10,
    "text.color": TEXT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "ytick.major.size": 0,
}


def curve(
    x: Sequence[float],
    y: Sequence[float],
    sem: Sequence[float] | None = None,
    label: str = "",
    x_label: str = "tokens",
) -> str:
    """``y`` over ``x`` as an ``<svg>`` element, with a 95 % band where standard errors are given.

    Args:
        x: ``[n]`` where the points stand.
        y: ``[n]`` values; NaN leaves a gap.
        sem: ``[n]`` standard errors of ``y``; NaN leaves a gap in the band.
        label: names the picture for screen readers.
        x_label: stands under the axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.3), layout="constrained")
        axes = figure.subplots()
        _draw(axes, np.asarray(x, float), np.asarray(y, float), None if sem is None else np.asarray(sem, float))
        axes.set_xlabel(x_label)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, sem: np.ndarray | None) -> None:
    few = np.isfinite(y).sum() <= 12
    axes.plot(x, y, color=LINE, linewidth=1.8, marker="o" if few else None, markersize=3.5)
    if sem is not None:
        axes.fill_between(x, y - Z95 * sem, y + Z95 * sem, color=LINE, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M
    formatter = ScalarFormatter(useOffset=False, useMathText=True)
    formatter.set_powerlimits((-3, 4))
    axes.yaxis.set_major_formatter(formatter)
    axes.margins(x=0.02, y=0.1)


def _inline(svg: str, label: str) -> str:
    """The ``<svg>`` element alone, without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    # Many curves share a page: only the ids that something points to may stay.
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
