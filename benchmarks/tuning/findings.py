"""Findings about a search: the chosen settings, what tuning was worth, and how sure one setting is for all tasks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from textgym.benchmarks.analysis.tuning import expected_best, sensitivity
from textgym.benchmarks.tuning.tuned_file import Trial, Tuned
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.reports.formatting import number
from textgym.types import FloatArray


def search_findings(tuned: Tuned) -> Findings:
    """Return the chosen settings of each algorithm beside the defaults, and the worth of further trials."""
    scores = trial_scores(tuned)
    gains = {name: float(table[tuned.chosen[name]].mean() - table[0].mean()) for name, table in scores.items()}
    most = max(gains, key=gains.__getitem__)
    kept = sum(tuned.chosen[name] == 0 for name in scores)
    headline = (
        f"{tuned.count} settings of each of {len(scores)} algorithms were tried on {_instances(tuned)}. The default"
        f" setting is the best of them for {kept}; {most} gains most from tuning ({number(gains[most], 2, sign=True)})."
        f"{_cost(tuned)}"
    )
    return Findings(headline, (_worth(tuned, scores), _settings(tuned)), (_curves(scores),))


def _cost(tuned: Tuned) -> str:
    if tuned.cpu_seconds is None:
        return ""
    return f" The search took {tuned.cpu_seconds / 60:.0f} CPU-minutes."


def trial_scores(tuned: Tuned) -> Mapping[str, FloatArray]:
    """Return the scores of each algorithm's trials, ``[n_trials, n_instances]``.

    A trial whose training failed on any instance has the lowest score that any run of the search has, on all of them:
    it is never chosen.
    """
    known = [
        score for trials in tuned.trials.values() for trial in trials for score in trial.scores if score is not None
    ]
    lowest = min(known)
    return {
        name: np.array([[lowest] * len(trial.scores) if trial.failed else trial.scores for trial in trials])
        for name, trials in tuned.trials.items()
    }


def _instances(tuned: Tuned) -> str:
    return ", ".join(f"{task} (instance {seed})" for task, seed in tuned.development)


def expected_curve(table: FloatArray) -> FloatArray:
    """Return the expected best mean score of 1 … n trials, ``[n]``.

    A setting below the base model counts as 0, since one would keep that model.
    """
    return expected_best(np.maximum(table.mean(1), 0))


def _worth(tuned: Tuned, scores: Mapping[str, FloatArray]) -> Table:
    sizes = sorted({1, tuned.count // 2 + 1, tuned.count})
    rows: list[tuple[Cell, ...]] = []
    for name, table in sorted(scores.items(), key=lambda item: -item[1].mean(1).max()):
        expected = expected_curve(table)
        failed = sum(trial.failed for trial in tuned.trials[name])
        best = (float(expected[size - 1]) for size in sizes)
        rows.append((name, float(table[0].mean()), *best, sensitivity(table), failed))
    note = (
        "Mean scores on the development instances, which also chose: on others tuning adds less. Best of k: the mean of"
        " the best over all subsets of k trials, where one below the base model counts as 0; with all of them it is the"
        " chosen setting. Sensitivity: what a setting for each instance would add to it. A failed trial"
        " counts as the worst run of the search."
    )
    columns = ("algorithm", "default", *(f"best of {size}" for size in sizes), "sensitivity", "failed")
    return Table("Worth of tuning", columns, tuple(rows), note)


def _settings(tuned: Tuned) -> Table:
    rows = tuple(
        (name, tuned.chosen[name], _changed(trials[0], trials[tuned.chosen[name]]))
        for name, trials in tuned.trials.items()
    )
    note = "Trial 0 has the algorithm's defaults. Of the others, the values that differ from these."
    return Table("Chosen settings", ("algorithm", "trial", "settings"), rows, note)


def _changed(default: Trial, chosen: Trial) -> str:
    changed = {name: value for name, value in chosen.settings.items() if value != default.settings[name]}
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in changed.items()
    )


def _curves(scores: Mapping[str, FloatArray]) -> Figure:
    lines = {}
    for name, table in scores.items():
        best = expected_curve(table)
        lines[name] = PlotLine(list(range(1, len(best) + 1)), best.tolist())
    caption = "Expected best mean score on the development instances by number of trials, exactly from the search."
    return Figure("Expected best score", line_plot(lines, "trials", "expected best score"), caption)
