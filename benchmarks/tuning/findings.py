"""Findings about a search: the chosen settings."""

from __future__ import annotations

from textgym.benchmarks.tuning.tuned_file import Tuned, mean_score
from textgym.reports.findings import Cell, Findings, Table


def search_findings(tuned: Tuned) -> Findings:
    """Return the chosen settings of each algorithm, with the scores of the published ones beside them."""
    rows: list[tuple[Cell, ...]] = []
    for name, trials in tuned.trials.items():
        best = tuned.chosen[name]
        words = ", ".join(f"{key} {value}" for key, value in trials[best].settings.items())
        rows.append((name, mean_score(trials[0]), mean_score(trials[best]), words))
    table = Table("Chosen settings", ("algorithm", "published", "tuned", "settings"), tuple(rows), "")
    return Findings(f"{tuned.count} settings of each of {len(tuned.trials)} algorithms were tried.", (table,))
