"""Runs of the over-optimisation experiment: every size of proxy with every count of labels, and exact best-of-n."""

from __future__ import annotations

from dataclasses import asdict

from textgym.benchmarks.experiments.overoptimization.task import ENUMERATION, OveroptimizationSettings
from textgym.benchmarks.proxies.models import SIZES, require_prompts
from textgym.benchmarks.proxies.rl import job_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import load_task

LABELS = (32, 256, 2048)
ENUMERATED = ("Emit", "Dense", "Recall")
"""Diagnostic tasks: sixteen responses of unequal rewards, thousands that share seven, and four that share two."""
OVEROPTIMIZATION_PLAN = Plan(("ppo",), range(5), ("Concepts",), asdict(OveroptimizationSettings()))


def overoptimization_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    shared = OveroptimizationSettings(**plan.settings)
    settings = {name: job_settings(shared, name) for name in plan.algorithms}
    for task in map(load_task, plan.tasks):
        require_prompts("prompts", shared.prompts, task, "validation")
        require_prompts("labels", max(LABELS), task, "train")
    return [Job(task, ENUMERATION, 0) for task in ENUMERATED] + [
        Job(task, algorithm, seed, {"size": size, "labels": labels}, settings[algorithm])
        for seed in plan.seeds
        for task in plan.tasks
        for algorithm in plan.algorithms
        for labels in LABELS
        for size in SIZES
    ]
