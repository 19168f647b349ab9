"""An experiment whose best settings are known: a bowl over learning rate and passes, measured in no time."""

from __future__ import annotations

import json
import math
from typing import Any

from textgym.agents.search import LogRange
from textgym.benchmarks.runner.experiment import Experiment, Job, Plan, Result, Results, Tuning
from textgym.files import append_line
from textgym.reports.findings import Findings, Table

BEST_RATE, BEST_PASSES = 2e-3, 2
RATES = LogRange(3e-4, 1e-2)
HARDNESS = {"Easy": 0.0, "Hard": 0.3}


def surface(settings: dict[str, Any]) -> float:
    """Return the score of settings, 1 at the best of them."""
    rate = math.log10(settings["learning_rate"] / BEST_RATE)
    return 1 - rate**2 - 0.1 * (settings["n_epochs"] - BEST_PASSES) ** 2


def run(job: Job) -> Result:
    """Return the surface, lower where the task is hard or the seed is high; rates that are not bearable fail."""
    append_line(job.settings["log"], json.dumps([job.algorithm, job.task, job.seed, dict(job.arm)]))
    if job.settings["learning_rate"] > job.settings["bearable"]:
        from textgym.lm.guards import TrainingError

        raise TrainingError("the loss is not finite")
    return {"score": surface(dict(job.settings)) - HARDNESS[job.task] - 0.001 * (job.seed % 10)}


def score(_job: Job, result: Result) -> float:
    """Return the score of a run."""
    return float(result["score"])


def sweep(plan: Plan) -> list[Job]:
    """Return the jobs of a plan; settings that are not tuned are the experiment's."""
    return [
        Job(task, name, seed, {}, {"n_epochs": 4, **plan.settings, **plan.tuned.get(name, {}), "trials": plan.trials})
        for seed in plan.seeds
        for name in plan.algorithms
        for task in plan.tasks
    ]


def findings(results: Results) -> Findings:
    """Return the best score."""
    best = max(result["score"] for _, result in results)
    return Findings(f"The best score is {best:.3f}.", (Table("Scores", ("best",), ((best,),)),))


SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "beta": 0.05, "tokens": 100, "evaluated": 8, "bearable": 1.0}
EXPERIMENT = Experiment(
    name="fake_search",
    question="Which settings are the best?",
    plan=Plan(("ppo", "rloo"), range(2), ("Easy", "Hard"), SETTINGS),
    sweep=sweep,
    run=run,
    findings=findings,
    shared=("beta", "tokens", "evaluated", "trials"),
    tuning=Tuning(("Easy", "Hard"), (1000, 1001), RATES, score),
)
