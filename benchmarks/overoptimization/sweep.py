"""Which runs: every size of proxy with every count of labels, at both extremes; and best-of-n by enumeration."""

from __future__ import annotations

from dataclasses import asdict

from textgym.benchmarks.experiment import Job, Plan
from textgym.benchmarks.optimising import job_settings
from textgym.benchmarks.overoptimization.task import ENUMERATION, Settings
from textgym.benchmarks.proxies import SIZES
from textgym.registration import task_maker

LABELS = (32, 256, 2048)
ENUMERATED = ("Emit", "Dense", "Recall")
"""Diagnostic tasks: sixteen responses of unequal rewards, thousands that share seven, and four that share two."""
PLAN = Plan(("ppo",), 3, ("Concepts",), asdict(Settings()))


def sweep(plan: Plan) -> list[Job]:
    """The runs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown.
    """
    for task in plan.tasks:
        task_maker(task)
    settings = {name: job_settings(Settings(**plan.settings), name) for name in plan.algorithms}
    return [Job(task, ENUMERATION, 0) for task in ENUMERATED] + [
        Job(task, algorithm, seed, {"size": size, "labels": labels}, settings[algorithm])
        for seed in range(plan.seeds)
        for task in plan.tasks
        for algorithm in plan.algorithms
        for labels in LABELS
        for size in SIZES
    ]
