"""The benchmark's report: one self-contained HTML page, CSV and SVG files, and plain tables.

Equal findings give equal bytes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from textgym.env.rendering import printable
from textgym.files import write_text
from textgym.intervals import Estimate
from textgym.reports.charts.suites import typical_places
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.reports.formatting import number
from textgym.reports.pages import write_page

WIDE = 500  # points; a picture that is wider takes a row of the page for itself


def write_bench_report(findings: Mapping[str, Findings], out: Path, title: str | None = None) -> Path:
    """Write ``report.html``, and beside it each table as CSV and each figure as SVG.

    Args:
        findings: findings by experiment, in the order of the page.
        out: a directory, which is created if it does not exist.
        title: title of the browser's window; by default the names of the experiments.

    Returns:
        The path of the page.

    Raises:
        ValueError: there are no findings, or a figure has no ``viewBox``.
    """
    if not findings:
        raise ValueError("findings is empty; expected those of at least one experiment")
    out.mkdir(parents=True, exist_ok=True)
    sections = [_section(name, found) for name, found in findings.items()]
    for section in sections:
        for table in section.tables:
            write_text(out / table.file, csv_table(table.source))
        for figure in section.figures:
            # An SVG file has no page around it, so it brings the colours of the palette itself.
            write_page("picture.html", {"box": figure.box, "svg": figure.source.svg}, out / figure.file)
    title = title or f"textgym benchmark: {', '.join(findings)}"
    return write_page("bench.html", {"title": title, "sections": sections}, out / "report.html")


# -- The page --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShownCell:
    """A cell on the page; ``interval`` is printed small beside it."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table on the page, the columns that hold numbers, and the name of its CSV file."""

    source: Table
    rows: list[list[ShownCell]]
    numeric: list[bool]
    file: str


@dataclass(frozen=True)
class ShownFigure:
    """A figure on the page, its ``viewBox``, whether it needs a whole row, and the name of its SVG file."""

    source: Figure
    box: str
    wide: bool
    file: str


@dataclass(frozen=True)
class Section:
    """An experiment on the page."""

    name: str
    anchor: str
    headline: str
    notices: tuple[str, ...]
    figures: list[ShownFigure]
    tables: list[ShownTable]


def _section(name: str, findings: Findings) -> Section:
    anchor = _slug(name)
    tables = [
        ShownTable(table, shown_rows(table), _numeric(table), f"{anchor}-{index}-{_slug(table.title)}.csv")
        for index, table in enumerate(findings.tables, start=1)
    ]
    figures = [
        _shown_figure(figure, f"{anchor}-{index}-{_slug(figure.title)}.svg")
        for index, figure in enumerate(findings.figures, start=1)
    ]
    return Section(name, anchor, findings.headline, findings.notices, figures, tables)


def _slug(name: str) -> str:
    """Return a name in the form of an address or a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _shown_figure(figure: Figure, file: str) -> ShownFigure:
    found = re.search(r'viewBox="([^"]+)"', figure.svg)
    if found is None:
        raise ValueError(f"the figure {figure.title!r} has no viewBox; draw it with textgym.reports.charts.suites")
    return ShownFigure(figure, found[1], float(found[1].split()[2]) > WIDE, file)


# -- Cells -----------------------------------------------------------------------------------------


def shown_rows(table: Table) -> list[list[ShownCell]]:
    """Return the cells as the page shows them; the intervals of a column have equally many decimal places."""
    places = [_places([row[column] for row in table.rows]) for column in range(len(table.columns))]
    return [[_shown(cell, p) for cell, p in zip(row, places, strict=True)] for row in table.rows]


def _places(cells: Sequence[Cell]) -> int | None:
    """Return the decimal places for the typical interval of a column; None if it has no interval."""
    estimates = [cell for cell in cells if isinstance(cell, Estimate)]
    return typical_places(estimates) if estimates else None


def _shown(cell: Cell, places: int | None) -> ShownCell:
    if isinstance(cell, Estimate):
        bounds = f"{number(cell.low, places)} … {number(cell.high, places)}"
        return ShownCell(number(cell.value, places), bounds)
    if isinstance(cell, str):
        return ShownCell(cell)
    return ShownCell(number(cell, places if isinstance(cell, float) else 0))


def _texts(table: Table) -> list[list[str]]:
    return [
        [f"{cell.text} ({cell.interval})" if cell.interval else cell.text for cell in row] for row in shown_rows(table)
    ]


def _numeric(table: Table) -> list[bool]:
    """Return True for each column of numbers, which is aligned to the right."""
    return [any(not isinstance(row[i], str | None) for row in table.rows) for i in range(len(table.columns))]


# -- Plain tables ----------------------------------------------------------------------------------


def terminal_table(table: Table) -> str:
    """Return the table in aligned columns, under its title and above its note."""
    lines = [[one_line(cell) for cell in line] for line in (list(table.columns), *_texts(table))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["─" * width for width in widths])
    numeric = _numeric(table)
    body = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    title, note = one_line(table.title), one_line(table.note)
    return "\n".join([title, "", *body, *([f"\n{note}"] if note else [])])


def one_line(text: str) -> str:
    """Return a text as one line, without control characters of a terminal."""
    return " ".join(printable(text).splitlines())


_MARKUP = {"\\": "\\\\", "|": "\\|", "`": "\\`", "&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown_text(text: str) -> str:
    """Escape a text for Markdown.

    Names come from users, and may look like a tag, a cell, code or a link.
    """
    escaped = "".join(_MARKUP.get(letter, letter) for letter in one_line(text))
    return escaped.replace("](", "]\\(").replace("][", "]\\[")


def markdown_table(table: Table) -> str:
    """Return the table in Markdown, without its title, its note below."""
    rule = ["---:" if right else "---" for right in _numeric(table)]
    lines = [list(table.columns), rule, *_texts(table)]
    body = ["| " + " | ".join(map(markdown_text, line)) + " |" for line in lines]
    return "\n".join([*body, *([f"\n{markdown_text(table.note)}"] if table.note else [])])


def markdown_page(title: str, findings: Findings) -> str:
    """Return a section in Markdown: the headline, the notices, and every table."""
    notices = "".join(f"\n> {markdown_text(notice)}\n" for notice in findings.notices)
    tables = (f"### {markdown_text(one.title)}\n\n{markdown_table(one).rstrip()}\n" for one in findings.tables)
    return "\n".join([f"## {markdown_text(title)}\n\n{markdown_text(findings.headline)}\n{notices}", *tables])


def csv_table(table: Table) -> str:
    """Return the table as CSV with all digits.

    A column with intervals becomes three: its own name, ``low`` and ``high``.
    """
    spread = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = zip(table.columns, spread, strict=True)
    ends = ((name, end) for name, wide in names for end in (("", " low", " high") if wide else ("",)))
    writer.writerow([csv_text(f"{name}{end}") for name, end in ends])
    for row in table.rows:
        groups = (_fields(cell, wide) for cell, wide in zip(row, spread, strict=True))
        writer.writerow([field for group in groups for field in group])
    return buffer.getvalue()


def _fields(cell: Cell, wide: bool) -> list[str | int | float | None]:
    if isinstance(cell, Estimate):
        return [cell.value, cell.low, cell.high]
    plain = csv_text(cell) if isinstance(cell, str) else cell
    return [plain, None, None] if wide else [plain]


def csv_text(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; an apostrophe marks one that begins like a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
