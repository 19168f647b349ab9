"""The style of all charts, and figures as SVG that can be part of a page.

Text stays text and takes the page's font; colours are the page's CSS variables, so a picture can follow a dark
theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from textgym.env.rendering import printable

# matplotlib needs a colour, the page a CSS variable: each placeholder colour is replaced in the finished SVG.
LINE_COLOUR, TEXT_COLOUR, GRID_COLOUR, INK_COLOUR, GOOD_COLOUR, BAD_COLOUR = (f"#00000{digit}" for digit in range(1, 7))
SERIES_COLOURS = tuple(f"#0000{number}" for number in range(10, 21))  # as many as there are algorithms
VARIABLES = {
    LINE_COLOUR: "var(--line)",
    TEXT_COLOUR: "var(--muted)",
    GRID_COLOUR: "var(--rule)",
    INK_COLOUR: "var(--ink)",
    GOOD_COLOUR: "var(--good)",
    BAD_COLOUR: "var(--bad)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES_COLOURS)},
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "textgym",  # equal data give equal bytes
    "font.size": 10,
    "text.color": TEXT_COLOUR,
    "axes.edgecolor": GRID_COLOUR,
    "axes.labelcolor": TEXT_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.8,
    "xtick.color": GRID_COLOUR,
    "ytick.color": GRID_COLOUR,
    "xtick.labelcolor": TEXT_COLOUR,
    "ytick.labelcolor": TEXT_COLOUR,
    "ytick.major.size": 0,
}


def picture(draw: Callable[[Axes], None], label: str, size: tuple[float, float] = (4.4, 2.3)) -> str:
    """Draw on empty axes in the reports' style, and return an ``<svg>`` element.

    Args:
        draw: draws; where it names colours, they are those of ``VARIABLES``.
        label: names the picture for screen readers.
        size: width and height in inches, which set how large text is beside the picture.
    """
    with svg_style():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        return svg(figure, label)


SMALLEST_SPAN = 0.02
"""Of an axis, as a share of the largest number on it: a change of a hundredth of a per cent fills no picture."""


def widen(axes: Axes) -> None:
    """Keep the vertical axis from exaggerating a change that is tiny beside the numbers themselves."""
    low, high = axes.get_ylim()
    least = SMALLEST_SPAN * max(abs(low), abs(high))
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


class _PlainNumbers(ScalarFormatter):
    """Labels as text, in the page's font; matplotlib's are formulas, and half of a picture's time is their parsing."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return str(super().__call__(x, pos)).removeprefix(r"$\mathdefault{").removesuffix("}$")


def plain_numbers() -> ScalarFormatter:
    """Return a formatter of plain numbers; very small and very large ones get a power of ten, none an offset."""
    formatter = _PlainNumbers(useOffset=False, useMathText=True)
    formatter.set_powerlimits((-3, 4))
    return formatter


LONGEST_NAME = 32


def shown_name(name: str) -> str:
    """Return a name for a chart: one line, shortened in the middle if it is long, its dollars escaped."""
    line = " ".join(printable(name).split())
    if len(line) > LONGEST_NAME:
        end = LONGEST_NAME // 4
        line = f"{line[: LONGEST_NAME - end]}…{line[1 - end :]}"
    return line.replace("$", r"\$")


def svg_style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the page's style."""
    return matplotlib.rc_context(STYLE)


def svg(figure: Figure, label: str) -> str:
    """Return a figure as an ``<svg>`` element; ``label`` names it for screen readers."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the page's font has it
        # No date, so that equal figures give equal bytes.
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Return the ``<svg>`` element alone, without the header of a file."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    # A page has many SVGs, whose ids would clash: only ids that are referred to are kept.
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(printable(label))}"', 1)
