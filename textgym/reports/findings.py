"""Findings of an experiment or a comparison: a headline, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from textgym.intervals import Estimate

Cell: TypeAlias = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; ``note`` explains how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture, as an ``<svg>`` element, with its caption."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Findings:
    """The result of an experiment or a comparison.

    Attributes:
        headline: one sentence, with the number that matters most.
        tables: the first one is short enough for a README.
        figures: in the order of the page.
        notices: about the results themselves, such as runs that are not finished.
    """

    headline: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    notices: tuple[str, ...] = ()
