"""Write what the published results say into the pages that quote it, between their marks.

Usage: python -m scripts.published [--check]

A mark names a section of the report, and a part of it:

    <!-- results: mini | headline -->
    <!-- results: mini | table | Over all tasks -->
    <!-- results: mini | runs -->
    <!-- results: mini | tuning -->
    …
    <!-- end of results -->

``tuning`` compares the runs of a section with those of the section ``NAME-untuned``. With ``--check`` nothing is
written, and a page that is not up to date is an error; a test does the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scipy import stats

from textgym.commands.bench import sections
from textgym.files import write_text
from textgym.intervals import Estimate
from textgym.reports.bench import markdown_table, markdown_text
from textgym.reports.findings import Cell, Findings, Table
from textgym.reports.formatting import number

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"(<!-- results: (?P<parts>[^>]*?) -->\n)(?P<text>.*?)(<!-- end of results -->)", re.DOTALL)
OVERALL = "Over all tasks"


def published_files() -> list[Path]:
    """Return the committed results files and tuned files."""
    return [*sorted(RESULTS.glob("*.jsonl")), *sorted(RESULTS.glob("*.json"))]


def filled(page: str, found: Mapping[str, Findings]) -> str:
    """Return a page with the text between all its marks made anew.

    Raises:
        ValueError: a mark names a section, a part or a table that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        section, *part = (word.strip() for word in match["parts"].split("|"))
        if section not in found:
            raise ValueError(f"mark {match['parts']!r}: there is no section {section!r}; it has {', '.join(found)}")
        return f"{match[1]}{_part(found, section, part)}\n{match[4]}"

    return MARK.sub(fill, page)


def _part(found: Mapping[str, Findings], section: str, part: Sequence[str]) -> str:
    kinds: Mapping[str, Callable[[], str]] = {
        "headline": lambda: markdown_text(found[section].headline),
        "table": lambda: markdown_table(_table(found[section], part[1])),
        "rows": lambda: markdown_table(_without_note(_table(found[section], part[1]))),
        "runs": lambda: _runs(_table(found[section], "Runs")),
        "tuning": lambda: tuning_paragraph(found[section], found[f"{section}-untuned"]),
    }
    if not part or part[0] not in kinds:
        raise ValueError(f"mark of {section!r}: part {part}; expected one of {', '.join(kinds)}")
    return kinds[part[0]]()


def _table(findings: Findings, title: str) -> Table:
    for table in findings.tables:
        if table.title == title:
            return table
    raise ValueError(f"there is no table {title!r}; there are {', '.join(table.title for table in findings.tables)}")


def _without_note(table: Table) -> Table:
    return Table(table.title, table.columns, table.rows)


def _runs(table: Table) -> str:
    """Return the cost of a section's runs as one sentence, with the commands."""
    row = dict(zip(table.columns, table.rows[0], strict=True))
    commands = table.note.removeprefix("Made by: ").split("; ")
    made = "\n".join(commands)
    where = ", ".join(f"{name} {row[name]}" for name in ("commit", "torch", "transformers") if row[name] != "unknown")
    told = f"{row['runs']:,} runs, {row['CPU minutes']:,} CPU-minutes of training{f'; {where}' if where else ''}."
    return f"```sh\n{made}\n```\n\n{told}"


def tuning_paragraph(tuned: Findings, untuned: Findings) -> str:
    """Return what tuning changed in the order of algorithms, in one paragraph."""
    after, before = _means(tuned), _means(untuned)
    names = [name for name in after if name in before]
    places = {
        name: (_place(before, names, name), _place(after, names, name))
        for name in sorted(names, key=lambda name: -after[name])
    }
    first = next(iter(places))
    former = min(places, key=lambda name: places[name][0])
    risen = max(places, key=lambda name: places[name][0] - places[name][1])
    fallen = min(places, key=lambda name: places[name][0] - places[name][1])
    gains = {name: after[name] - before[name] for name in names}
    most, least = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    agreement = float(stats.spearmanr([after[name] for name in names], [before[name] for name in names]).statistic)
    then = "stays so" if first == former else f"gives its place to {first}"
    return (
        f"With the default settings {former} is first of {len(names)}, and {then} once all are tuned alike. The two"
        f" orders agree with a rank correlation of {number(agreement, 2)}: {risen} rises from place {places[risen][0]}"
        f" to {places[risen][1]}, {fallen} falls from {places[fallen][0]} to {places[fallen][1]}. Tuning is worth most"
        f" to {most} ({number(gains[most], 2, sign=True)}) and least to {least} ({number(gains[least], 2, sign=True)})."
    )


def _means(findings: Findings) -> dict[str, float]:
    table = _table(findings, OVERALL)
    column = table.columns.index("mean")
    return {str(row[0]): _value(row[column]) for row in table.rows}


def _value(cell: Cell) -> float:
    assert isinstance(cell, Estimate | int | float)
    return cell.value if isinstance(cell, Estimate) else float(cell)


def _place(means: Mapping[str, float], names: Sequence[str], name: str) -> int:
    return 1 + sum(means[other] > means[name] for other in names)


def main(arguments: Sequence[str]) -> int:
    """Fill all pages; return 1 if one was not up to date and only a check was asked for."""
    found, outdated = sections(published_files()), []
    for path in PAGES:
        page = path.read_text("utf-8")
        new = filled(page, found)
        if new != page:
            outdated.append(path)
            if "--check" not in arguments:
                write_text(path, new)
    for path in outdated:
        print(f"{path.relative_to(ROOT)}: {'not up to date' if '--check' in arguments else 'written'}")
    return int(bool(outdated) and "--check" in arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
