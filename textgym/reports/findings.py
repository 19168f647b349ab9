"""Findings of an experiment or a comparison: a headline, tables and figures, which the reports show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from textgym.intervals import Estimate

Cell: TypeAlias = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; ``note`` says what a reader must know to read it right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture, as an ``<svg>`` element; the caption says what is to be seen."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Findings:
    """What results say. ``headline`` is one sentence, with the number that matters; the first table is the one for a
    README; ``notices`` tell what a reader must know of the results themselves, such as runs that are not finished."""

    headline: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    notices: tuple[str, ...] = ()
