"""The KL to the teacher after training, by the divergence that was learned."""

from __future__ import annotations

from typing import Any

from textgym.benchmarks.analysis.seeds import with_bounds
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.reports.findings import Cell, Findings, Table

_COLUMNS = ("task", "learns by", "λ", "seeds", "KL before", "KL after", "CPU s")
_ENDS = {1.0: "reverse KL", 0.0: "forward KL"}
_NOTE = (
    "KL: of the student to its teacher on held-out prompts, in nats per response, exact over the vocabulary in the "
    "states of sampled responses; 0 is the teacher. λ: share of the responses that the teacher writes. RLOO has no "
    "reward, and pays the KL to the teacher with β = 1."
)


def distillation_findings(results: Results) -> Findings:
    """Return the KL before and after of each way to learn, on each task."""
    found: dict[tuple[str, str, Any], list[Result]] = {}
    for job, result in results:
        found.setdefault((job.task, _name(job), job.arm.get("teacher_share")), []).append(result)
    rows: list[tuple[Cell, ...]] = []
    said = []
    for (task, name, share), runs in found.items():
        before = sum(run["before"]["kl"] for run in runs) / len(runs)
        after = over_seeds([run["after"]["kl"] for run in runs])
        seconds = over_seeds([run["cpu_seconds"] for run in runs])
        rows.append((task, name, None if share is None else f"{share:g}", len(runs), before, after, seconds))
        said.append(f"{name} on {task} {with_bounds(after, 4)}")
    headline = f"KL to the teacher after training, in nats per response: {'; '.join(said)}." if said else "No run yet."
    return Findings(headline, (Table("Distance to the teacher", _COLUMNS, tuple(rows), _NOTE),))


def _name(job: Job) -> str:
    """Return what a run learns by, as a reader calls it."""
    if "jsd" not in job.arm:
        return f"{job.algorithm.upper()} without a reward"
    return _ENDS.get(job.arm["jsd"], f"Jensen–Shannon {job.arm['jsd']:g}")
