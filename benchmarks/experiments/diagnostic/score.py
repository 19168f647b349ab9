"""Normalised scores of the diagnostic suite, and the distance to the optimum on each task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from textgym.benchmarks.analysis.suite_findings import suite_findings
from textgym.benchmarks.analysis.suite_scores import (
    by_algorithm,
    curves_figure,
    over_seeds,
    suite_scores,
    tasks_of,
    whole_suites,
)
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.findings import Cell, Figure, Findings, Table

SOLVED = 0.95


def diagnostic_findings(results: Results) -> Findings:
    """Return scores over the suite and by task; the tasks come first if there is one algorithm."""
    scores = suite_scores(results, diagnostic_score)
    tasks = (task_table(results), *gold_table(results))
    if not scores.by_algorithm:
        return scores.remark(Findings(_passed(results), tasks))
    found = suite_findings(scores.by_algorithm, scores.tasks, np.random.default_rng(0), scores.seeds)
    found = replace(found, figures=(*found.figures, *_curves(results)))
    if len(by_algorithm(results)) == 1:
        return replace(found, headline=_passed(results), tables=(*tasks, *found.tables, *cost_table(results)))
    return scores.remark(replace(found, tables=(*found.tables, *tasks, *cost_table(results))))


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
    split = any(_holds_out(result) for _, result in results)
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
            trained = [run["train_score"] for run in runs if _holds_out(run)]
            training = (float(np.mean(trained)) if trained else None,) if split else ()
            rows.append((name, task, over_seeds(scores), min(scores), *training, len(runs), runs[0]["beta"], *parts))
    note = (
        "The score is (J(π) − J(π_ref)) / (J* − J(π_ref)), by enumeration: 1 at the optimum of E[R] − β·KL. Scores, J"
        " and CPU seconds are means over seeds."
    )
    if split:
        note += " Training prompts: the score on these, where the others are held out."
    scored = ("score", "worst seed", *(("training prompts",) if split else ()), "seeds")
    columns = ("algorithm", "task", *scored, "β", "J(π_ref)", "J(π)", "J*", "CPU s")
    return Table("Distance to the exact optimum", columns, tuple(rows), note)


def gold_table(results: Results) -> tuple[Table, ...]:
    """Return a row for each algorithm on each task whose proxy parts from gold; nothing without such a task."""
    rows: list[tuple[Cell, ...]] = []
    parting = [task for task in dict.fromkeys(job.task for job, _ in results) if _parts_from_gold(task, results)]
    for name, group in by_algorithm(results).items():
        for task in parting:
            if runs := [result for job, result in group if job.task == task]:
                means = [over_seeds([run[key] for run in runs]) for key in ("score", "reward", "gold", "kl")]
                rows.append((name, task, *means, len(runs)))
    if not rows:
        return ()
    note = (
        "The task pays a proxy, which the score is about; gold is what the proxy stands for, and no algorithm sees"
        " it. A high proxy with a low gold is a hacked proxy. Exact means over the prompts that are scored and over"
        " seeds; KL to the reference in nats a response."
    )
    columns = ("algorithm", "task", "score", "proxy", "gold", "KL", "seeds")
    return (Table("Gold beside the proxy", columns, tuple(rows), note),)


def _parts_from_gold(task: str, results: Results) -> bool:
    """Return True if gold is another thing than what a task pays, not the same in other units or without its noise."""
    runs = [result for job, result in results if job.task == task and result.get("gold") is not None]
    paid, gold = ([run[key] for run in runs] for key in ("reward", "gold"))
    return len(runs) > 1 and not np.allclose(np.outer(gold, paid), np.outer(paid, gold), rtol=1e-6)


def cost_table(results: Results) -> tuple[Table, ...]:
    """Return a row for each algorithm: its scores on training and on held-out prompts, and its cost.

    Only seeds that have every task count. There is no table for runs of versions up to 0.2, which recorded neither.
    """
    suites = {name: [run for seed in seeds for run in seed] for name, seeds in whole_suites(results).items()}
    if not any("updates" in result for suite in suites.values() for _, result in suite):
        return ()
    split = {job.task for suite in suites.values() for job, result in suite if _holds_out(result)}
    rows: list[tuple[Cell, ...]] = []
    for name, suite in suites.items():
        runs = [result for _, result in suite]
        both = [[run[key] for run in runs if _holds_out(run)] for key in ("train_score", "score")] if split else []
        # Algorithms of other libraries do not tell their updates.
        updates = [run["updates"] for run in runs if run.get("updates") is not None]
        steps = round(float(np.mean(updates))) if len(updates) == len(runs) else None
        score, seconds = (float(np.mean([run[key] for run in runs])) for key in ("score", "cpu_seconds"))
        rows.append((name, score, *(float(np.mean(scores)) for scores in both), steps, seconds))
    rows.sort(key=lambda row: -row[1])  # type: ignore[operator]
    note = "Updates are gradient steps, CPU seconds those of the optimum, training and scoring, a run."
    if not split:
        return (Table("Cost", ("algorithm", "score", "updates", "CPU s"), tuple(rows), note),)
    tasks = len(tasks_of(results))
    note = (
        f"{len(split)} of {tasks} tasks hold prompts out, which the score is about; both columns of prompts are means"
        f" over these tasks. {note}"
    )
    columns = ("algorithm", "score", "training prompts", "held-out prompts", "updates", "CPU s")
    return (Table("Training prompts and cost", columns, tuple(rows), note),)


def _holds_out(result: Result) -> bool:
    return result.get("train_score") is not None


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
