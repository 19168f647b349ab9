"""Gold and gold − β·KL under a refreshed mask and under a fixed one."""

from __future__ import annotations

from textgym.benchmarks.analysis.seeds import with_bounds
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.experiments.nlpo_mask.sweep import NEVER
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.findings import Cell, Findings, Table

_COLUMNS = ("mask", "task", "seeds", "gold after", "gold before", "KL", "gold − β·KL", "CPU s")


def nlpo_mask_findings(results: Results) -> Findings:
    """Return both arms, and their difference on the seeds that both have."""
    tasks = dict.fromkeys(job.task for job, _ in results)
    rows: list[tuple[Cell, ...]] = []
    changes = []
    for task in tasks:
        arms: dict[int, dict[int, Result]] = {}
        for job, result in results:
            if job.task == task:
                kept = {**result, "objective": _objective(job, result)}
                arms.setdefault(int(job.arm["target_update"]), {})[job.seed] = kept
        rows += [_row(_name(every), task, list(runs.values())) for every, runs in sorted(arms.items())]
        # Differences need both arms; an interrupted sweep may have one.
        if len(arms) == 2:
            (often, refreshed), (_, stays) = sorted(arms.items())
            seeds = sorted(refreshed.keys() & stays.keys())
            if seeds:
                gain = over_seeds([refreshed[seed]["after"]["gold"] - stays[seed]["after"]["gold"] for seed in seeds])
                whole = over_seeds([refreshed[seed]["objective"] - stays[seed]["objective"] for seed in seeds])
                rows.append((f"refreshed every {often} − never", task, len(seeds), gain, None, None, whole, None))
                changes.append(
                    f"by {with_bounds(whole, sign=True)} and gold alone by {with_bounds(gain, sign=True)} on {task}"
                )
    headline = f"Refreshing NLPO's mask changes the objective, gold − β·KL, {', '.join(changes)}."
    return Findings(
        headline if changes else "No pair of runs yet.",
        (Table("Refreshed and fixed mask", _COLUMNS, tuple(rows), "Differences are paired by seed."),),
    )


def _row(mask: str, task: str, runs: list[Result]) -> tuple[Cell, ...]:
    before = sum(run["before"]["gold"] for run in runs) / len(runs)
    gold, kl = (over_seeds([run["after"][name] for run in runs]) for name in ("gold", "kl"))
    objective, seconds = (over_seeds([run[name] for run in runs]) for name in ("objective", "cpu_seconds"))
    return (mask, task, len(runs), gold, before, kl, objective, seconds)


def _objective(job: Job, result: Result) -> float:
    """Return the objective that is optimised: gold − β·KL."""
    return float(result["after"]["gold"] - job.settings["beta"] * result["after"]["kl"])


def _name(target_update: int) -> str:
    return "never refreshed" if target_update == NEVER else f"refreshed every {target_update} iterations"
