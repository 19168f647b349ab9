"""The page of published results: the tables and figures of the committed benchmark report."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.site_pages.page import ROOT, Made

REPORT = ROOT / "benchmarks" / "results" / "report"
INTRODUCTION = """# Published results

Every table and figure of the committed runs and searches. A test makes them again and compares every digit. The
commands, the questions, and what the results mean: [the benchmark](benchmark.md#published-results)."""


def results() -> list[Made]:
    """Return the page, and the figures that it shows."""
    sections = re.split(r"^(?=## )", (REPORT / "report.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    page = "\n\n".join([INTRODUCTION, *(f"{one.strip()}\n\n{_figures(one)}" for one in sections if one)]) + "\n"
    return [Made("results.md", page), *(Made(_uri(path), path.read_bytes()) for path in REPORT.glob("*.svg"))]


def _figures(section: str) -> str:
    """Return the figures of a section in the order of the report, which numbers them."""
    title = section.partition("\n")[0].removeprefix("## ")
    numbered = re.compile(rf"{re.sub('[^a-z0-9]+', '-', title.lower())}-(\d+)-.*")
    found = {path: numbered.fullmatch(path.stem) for path in REPORT.glob("*.svg")}
    ordered = sorted((int(match[1]), path) for path, match in found.items() if match)
    return "\n\n".join(f"![{path.stem.replace('-', ' ')}]({_uri(path)})" for _, path in ordered)


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
