"""Settings of ``textgym compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class CompareConfig:
    """Compare finished or running runs of train, sft, dpo or reward-model: seeds of the same settings count as
    repetitions. Prints a table with intervals, and writes report.html, report.md, tables as CSV and figures as SVG."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Their directories, at least two. A pipeline's stages are given one by one."""
    out: Path
    """A directory for the page; an earlier comparison that stands there is replaced."""
