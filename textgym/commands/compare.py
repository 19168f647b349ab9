"""``textgym compare``: several runs side by side, seeds of the same settings as repetitions."""

from __future__ import annotations

from pathlib import Path

from textgym.benchmarks.analysis.compare_findings import compare_groups
from textgym.benchmarks.analysis.compare_runs import grouped, read_runs
from textgym.commands.configs.compare import CompareConfig
from textgym.files import write_json, write_text
from textgym.reports.bench import markdown_page, one_line, terminal_table, write_bench_report

MARK = "comparison.json"
"""Says that a directory holds a comparison, and which files are its."""
TITLE = "comparison"


def compare(config: CompareConfig) -> Path:
    """Compare runs, prints what they say and write the page; returns its path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: the runs cannot be compared, or ``out`` is something else;
            nothing was written then.
    """
    check_out(config.out, config.runs)
    findings = compare_groups(grouped(read_runs(config.runs)))
    for name in _earlier(config.out):
        (config.out / name).unlink(missing_ok=True)
    page = write_bench_report({TITLE: findings}, config.out, title=findings.headline)
    write_text(config.out / "report.md", markdown_page(TITLE, findings))
    files = sorted(path.name for path in config.out.iterdir() if path.suffix in (".csv", ".svg", ".html", ".md"))
    write_json(config.out / MARK, {"runs": [str(path) for path in config.runs], "files": files})
    shown = [one_line(findings.headline), *map(terminal_table, findings.tables[:2])]
    shown += [f"note: {one_line(notice)}" for notice in findings.notices]
    print("\n\n".join(shown) + f"\n\nreport: {page}")
    return page


def check_out(out: Path, runs: tuple[Path, ...]) -> None:
    """Refuses a place for the page where something else stands.

    Raises:
        FileExistsError: it is a file, or a directory that holds something else than a comparison.
        ValueError: it is one of the runs, or lies in one.
    """
    for run in runs:
        if out.resolve().is_relative_to(run.resolve()):
            raise ValueError(f"out={str(out)!r} lies in the run {str(run)!r}; choose a directory of its own")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out={str(out)!r} is a file; expected a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise FileExistsError(f"out={str(out)!r} exists and is not a comparison; choose another directory")


def _earlier(out: Path) -> list[str]:
    """Files of the comparison that stands in ``out``: those that its pages are made of."""
    if not (out / MARK).is_file():
        return []
    return [path.name for path in out.iterdir() if path.suffix in (".csv", ".svg") and path.name.startswith(TITLE)]
