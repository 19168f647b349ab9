"""Normalised scores of the diagnostic suite, and the distance to the optimum on each task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textgym.benchmarks.analysis.suite_findings import suite_findings
from textgym.benchmarks.analysis.suite_scores import by_algorithm, curves_figure, over_seeds, suite_scores
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.findings import Cell, Figure, Findings, Table

SOLVED = 0.95
_COLUMNS = ("algorithm", "task", "score", "worst seed", "seeds", "β", "J(π_ref)", "J(π)", "J*", "CPU s")


def diagnostic_findings(results: Results) -> Findings:
    """Return scores over the suite and by task; the tasks come first if there is one algorithm."""
    scores = suite_scores(results, diagnostic_score)
    tasks = task_table(results)
    if not scores.by_algorithm:
        return scores.remark(Findings(_passed(results), (tasks,)))
    found = suite_findings(scores.by_algorithm, scores.tasks, np.random.default_rng(0), scores.seeds)
    found = replace(found, figures=(*found.figures, *_curves(results)))
    if len(by_algorithm(results)) == 1:
        return replace(found, headline=_passed(results), tables=(tasks, *found.tables))
    return scores.remark(replace(found, tables=(*found.tables, tasks)))


def diagnostic_score(_job: Job, result: Result) -> float:
    """Return the normalised score of a run."""
    return float(result["score"])


def _curves(results: Results) -> tuple[Figure, ...]:
    """Return learning curves in units that all tasks share, as their rewards and budgets differ up to a hundredfold."""
    note = (
        "Reward is normalised from J(π_ref) = 0 to J* = 1 and capped at 1, as the cost of KL is not subtracted: the"
        " curves show speed, not the score. Algorithms that sample from the base model, such as best-of-n, stay at 0."
    )
    shared = [(job, {"curve": _in_shares(result)}) for job, result in results]
    return curves_figure(shared, "share of the token budget", "normalised reward", note)


def _in_shares(result: Result) -> list[tuple[float, float]]:
    """Return a run's curve as shares of its tokens and of the way from J(π_ref) to J*.

    Without the cost of KL a reward may go far beyond J*. Uncut, the task with the least to gain would rule the mean.
    """
    curve, reference = result.get("curve", []), result["reference"]
    way = result["optimum"] - reference
    return [(tokens / curve[-1][0], min((reward - reference) / way, 1.0)) for tokens, reward in curve]


def task_table(results: Results) -> Table:
    """Return a row for each algorithm on each task: means over seeds, the score's with its interval."""
    rows: list[tuple[Cell, ...]] = []
    for name, group in by_algorithm(results).items():
        for task in dict.fromkeys(job.task for job, _ in group):
            runs = [result for job, result in group if job.task == task]
            scores = [run["score"] for run in runs]
            # Of drawn instances each has its own J(π_ref) and J*.
            parts = (
                float(np.mean([run[key] for run in runs]))
                for key in ("reference", "objective", "optimum", "cpu_seconds")
            )
            rows.append((name, task, over_seeds(scores), min(scores), len(runs), runs[0]["beta"], *parts))
    note = (
        "The score is (J(π) − J(π_ref)) / (J* − J(π_ref)), by enumeration: 1 at the optimum of E[R] − β·KL. Scores, J"
        " and CPU seconds are means over seeds."
    )
    return Table("Distance to the exact optimum", _COLUMNS, tuple(rows), note)


def _passed(results: Results) -> str:
    """Return how many tasks each algorithm solves, as one sentence."""
    sentences = []
    for name, group in by_algorithm(results).items():
        tasks = dict.fromkeys(job.task for job, _ in group)
        means = [np.mean([result["score"] for job, result in group if job.task == task]) for task in tasks]
        sentences.append(
            f"{name} reaches a mean score of {SOLVED} on {sum(m >= SOLVED for m in means)} of {len(means)} tasks"
        )
    return f"{'; '.join(sentences)}."
