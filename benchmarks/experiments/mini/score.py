"""Objective of each algorithm over the mini suite, at each budget; what it consists of, and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from textgym.benchmarks.analysis.suite_findings import suite_findings
from textgym.benchmarks.analysis.suite_scores import (
    by_algorithm,
    curves_figure,
    over_seeds,
    suite_scores,
    tasks_of,
    whole_suites,
)
from textgym.benchmarks.experiments.mini.objective import objective_score
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.reports.formatting import number

FEWEST_RANKED = 6
"""Algorithms from which on a rank correlation is told."""
_NOT_METRICS = ("score", "gold", "kl", "length", "distinct")


def mini_score(job: Job, result: Result) -> float:
    """Return :func:`objective_score` of a run."""
    return objective_score(result, job.settings["beta"])


def mini_findings(results: Results) -> Findings:
    """Return the comparison at the largest budget, the score at each budget, gold, cost, and learning curves.

    Raises:
        ValueError: an algorithm has no run at the largest budget.
    """
    budgets = by_budget(results)
    require_largest(budgets)
    largest = budgets[max(budgets)]
    scores = suite_scores(largest, mini_score)
    gold = gold_table(largest)
    if not scores.by_algorithm:
        return scores.remark(Findings("No algorithm has every task yet.", (gold,)))
    found = suite_findings(scores.by_algorithm, scores.tasks, np.random.default_rng(0), scores.seeds)
    tables = (*found.tables, *budget_table(budgets), parts_table(largest), gold)
    figures = (*found.figures, *budget_figure(budgets), *curves_figure(largest, "tokens", "gold reward"))
    return scores.remark(replace(found, tables=tables, figures=figures))


def by_budget(results: Results) -> Mapping[int, Results]:
    """Return the results at each budget of tokens, the smallest first."""
    groups: dict[int, list[tuple[Job, Result]]] = {}
    for job, result in results:
        groups.setdefault(int(job.arm.get("tokens", job.settings.get("tokens", 0))), []).append((job, result))
    return dict(sorted(groups.items()))


def require_largest(budgets: Mapping[int, Results]) -> None:
    """Check that the algorithms can be compared at the largest budget, from which on a sweep runs.

    Raises:
        ValueError: one has runs at smaller budgets alone.
    """
    largest = max(budgets)
    there = {job.label for job, _ in budgets[largest]}
    for tokens, results in budgets.items():
        if lacking := sorted({job.label for job, _ in results} - there):
            raise ValueError(
                f"tokens={tokens} is the largest budget of {', '.join(lacking)}, and {', '.join(sorted(there))} had"
                f" {largest}; expected the same budgets for all"
            )


def budget_table(budgets: Mapping[int, Results]) -> tuple[Table, ...]:
    """Return the mean score of each algorithm at each budget, over the seeds that have both; none for one budget."""
    means = _budget_means(budgets)
    if len(budgets) < 2 or not means:
        return ()
    largest = max(budgets)
    rows = tuple(
        (name, *(by_tokens.get(tokens) for tokens in budgets))
        for name, by_tokens in sorted(means.items(), key=lambda item: -item[1].get(largest, -np.inf))
    )
    note = "Mean scores over all tasks, at the seeds that have every task at every budget; each run decays to its end."
    return (Table("Score by budget", ("algorithm", *(f"{tokens:,} tokens" for tokens in budgets)), rows, note),)


def budget_figure(budgets: Mapping[int, Results]) -> tuple[Figure, ...]:
    """Draw the mean scores over the budgets; nothing for a single one."""
    lines = {
        name: PlotLine(list(by_tokens), list(by_tokens.values())) for name, by_tokens in _budget_means(budgets).items()
    }
    if len(budgets) < 2 or not lines:
        return ()
    caption = "Mean score over all tasks of runs with that budget. Lines that cross are orders that a budget decides."
    return (Figure("Score by budget", line_plot(lines, "tokens of the run", "score"), caption),)


def _budget_means(budgets: Mapping[int, Results]) -> dict[str, dict[int, float]]:
    scored = {tokens: suite_scores(results, mini_score) for tokens, results in budgets.items()}
    means: dict[str, dict[int, float]] = {}
    for name in scored[max(scored)].by_algorithm:
        having = {tokens: one for tokens, one in scored.items() if name in one.by_algorithm}
        shared = set.intersection(*(set(one.seeds[name]) for one in having.values()))
        if shared:
            means[name] = {
                tokens: float(one.by_algorithm[name][[seed in shared for seed in one.seeds[name]]].mean())
                for tokens, one in having.items()
            }
    return means


def gold_table(results: Results) -> Table:
    """Return the gold reward after training of each algorithm on each task, below that of the base model."""
    tasks = tasks_of(results)

    def golds(group: Results, stage: str) -> list[list[float]]:
        return [[result[stage]["gold"] for job, result in group if job.task == task] for task in tasks]

    # All algorithms begin from the same base model: its numbers differ by instance alone.
    rows: list[tuple[Cell, ...]] = [("base model", *(float(np.mean(values)) for values in golds(results, "before")))]
    for name, group in by_algorithm(results).items():
        rows.append((name, *(over_seeds(values) if values else None for values in golds(group, "after"))))
    note = "Means over instances, on held-out prompts. Gold is what is paid; the scores above subtract the price of KL."
    return Table("Gold reward", ("algorithm", *tasks), tuple(rows), note)


def parts_table(results: Results) -> Table:
    """Return a row for each algorithm: what its score consists of and what it cost, over the seeds with every task."""
    first = results[0][1]["after"]
    metrics = [name for name in first if name not in _NOT_METRICS and all(name in r["after"] for _, r in results)]
    columns = ("algorithm", "score", "gold", "KL", "distinct", *metrics, "length", "updates", "CPU s", "prompt error")
    rows: list[tuple[Cell, ...]] = []
    for name, seeds in whole_suites(results).items():
        runs = [run for of_seed in seeds for run in of_seed]
        after = {key: float(np.mean([result["after"].get(key, np.nan) for _, result in runs])) for key in first}
        score = float(np.mean([mini_score(*run) for run in runs]))
        updates = [result["updates"] for _, result in runs if result.get("updates") is not None]
        steps = round(float(np.mean(updates))) if len(updates) == len(runs) else None
        seconds = float(np.mean([result["cpu_seconds"] for _, result in runs]))
        # Each instance has prompts of its own, so the errors of its runs are independent.
        errors = [result["errors"]["score"] for _, result in runs if "errors" in result]
        drawn = float(np.sqrt(np.sum(np.square(errors))) / len(errors)) if errors else None
        measures = (after["gold"], after["kl"], after.get("distinct"), *(after[m] for m in metrics), after["length"])
        rows.append((name, score, *measures, steps, seconds, drawn))
    rows.sort(key=lambda row: -row[1])  # type: ignore[operator]
    note = (
        "KL to the base model in nats a response, length in tokens; distinct: different texts as a share of all"
        " responses. Updates are gradient steps, CPU seconds those of training, a run. Prompt error: standard"
        " error of the mean score by the draw of prompts, which the intervals above include."
        f"{_covariates(rows, columns)}"
    )
    return Table("Parts and cost", columns, tuple(rows), note)


def _covariates(rows: list[tuple[Cell, ...]], columns: tuple[str, ...]) -> str:
    """Return rank correlations of the score with gradient steps and CPU seconds; nothing for few algorithms."""
    if len(rows) < FEWEST_RANKED:
        return ""
    numbers = np.array([[row[columns.index(name)] for name in ("score", "updates", "CPU s")] for row in rows], float)
    scores, *others = numbers.T
    found = [number(float(stats.spearmanr(scores, other).statistic), 2) for other in others]
    return f" Over algorithms, Spearman's ρ of the score is {found[0]} with updates and {found[1]} with CPU seconds."
