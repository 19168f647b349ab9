"""An experiment that is done in no time, for tests of the runner. It imports neither torch nor transformers."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

from textgym.benchmarks.runner.experiment import Experiment, Job, Plan, Result, Results
from textgym.benchmarks.runner.jobs import run_jobs
from textgym.files import append_line
from textgym.reports.findings import Findings, Table


def run(job: Job) -> Result:
    """Squares its seed, and notes that it began in a file that all processes share."""
    append_line(job.arm["log"], json.dumps({"seed": job.seed, "process": os.getpid()}))
    time.sleep(job.settings.get("seconds", 0))
    if job.algorithm == "far":
        warnings.warn(f"run {job.seed} moves far", RuntimeWarning, stacklevel=2)
        warnings.warn("and farther", RuntimeWarning, stacklevel=2)
        warnings.warn("something else", UserWarning, stacklevel=2)
    if job.algorithm == "broken":
        raise ValueError("this run is broken")
    return {"square": job.seed**2, "process": os.getpid()}


def sweep(plan: Plan) -> list[Job]:
    """Return the log stands for the tasks."""
    (log,) = plan.tasks
    return [job(log, seed, algorithm=name) for seed in plan.seeds for name in plan.algorithms]


def findings(results: Results) -> Findings:
    """Return the sum of the squares."""
    total = sum(result["square"] for _, result in results)
    return Findings(f"The squares add up to {total}.", (Table("Squares", ("sum",), ((total,),)),))


PLAN = Plan(("plain",), range(3), ("log",))
EXPERIMENT = Experiment("fake", "What are the squares?", PLAN, sweep, run, findings, shared=("seconds",))


def job(log: Path | str, seed: int, algorithm: str = "plain", seconds: float = 0.0) -> Job:
    """Return a run."""
    return Job("Square", algorithm, seed, {"log": str(log)}, {"seconds": seconds})


def begun(log: Path) -> list[int]:
    """Return the seeds of the runs that began, in their order."""
    return [json.loads(line)["seed"] for line in log.read_text().splitlines()] if log.exists() else []


def main(log: str, path: str, count: int, processes: int) -> None:
    """What a test starts, and kills."""
    run_jobs(EXPERIMENT, [job(log, seed, seconds=0.01) for seed in range(count)], Path(path), processes)
