"""The page of published results: every table and figure of the committed benchmark report."""

from __future__ import annotations

import csv
from pathlib import Path

from scripts.site_pages.page import ROOT, Made, table

REPORT = ROOT / "benchmarks" / "results" / "report"
EXPERIMENTS = {
    "diagnostic": "Twelve tasks with an exact optimum",
    "mini": "Eight tasks in English",
    "overoptimization": "Over-optimisation of a learned reward",
    "ensembles": "Ensembles of reward models",
    "alignment-tax": "The alignment tax, and pretraining text",
    "nlpo-mask": "NLPO's mask",
}
INTRODUCTION = """# Published results

Every table and figure that `textgym bench report benchmarks/results/*.jsonl --out DIR` makes from the committed runs; a
test makes them again and compares every digit. What the experiments ask, how they were run, and what the results mean:
[the benchmark](benchmark.md#published-results)."""


def results() -> list[Made]:
    """Return the page, and the figures that it shows."""
    figures = sorted(REPORT.glob("*.svg"))
    sections = [f"## {title}\n\n{_section(name)}" for name, title in EXPERIMENTS.items()]
    page = "\n\n".join([INTRODUCTION, *sections]) + "\n"
    return [Made("results.md", page), *(Made(_uri(path), path.read_bytes()) for path in figures)]


def _section(experiment: str) -> str:
    return "\n\n".join(
        f"### {_title(path, experiment)}\n\n{_shown(path)}"
        for suffix in ("csv", "svg")
        for path in sorted(REPORT.glob(f"{experiment}-*.{suffix}"))
    )


def _shown(path: Path) -> str:
    if path.suffix == ".svg":
        return f"![{path.stem}]({_uri(path)})"
    with path.open(encoding="utf-8", newline="") as file:
        return table(list(csv.DictReader(file)))


def _title(path: Path, experiment: str) -> str:
    """Return the title that the name of a file holds after its experiment and its number."""
    words = path.stem.removeprefix(f"{experiment}-").partition("-")[2]
    return words.replace("-", " ").capitalize()


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
