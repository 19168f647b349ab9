"""Settings of ``textgym compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class CompareConfig:
    """Compare finished or running runs of train, sft, dpo, kto or reward-model.

    Runs that differ in their seed only are repetitions. Print a table with intervals, and write report.html, report.md,
    tables as CSV and figures as SVG.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of the runs, at least two. Of a pipeline, name its stages one by one."""
    out: Path
    """Directory of the page; an earlier comparison in it is replaced."""
