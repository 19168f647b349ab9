"""Which runs: a single reward model, and an ensemble combined in each way."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

from textgym.benchmarks.ensembles.task import SINGLE, Settings
from textgym.benchmarks.experiment import Job, Plan
from textgym.benchmarks.optimising import job_settings
from textgym.registration import task_maker
from textgym.rewards.ensemble import Combine

ARMS = (SINGLE, *get_args(Combine))
PLAN = Plan(("ppo",), 3, ("Concepts",), asdict(Settings()))


def sweep(plan: Plan) -> list[Job]:
    """The runs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown.
    """
    for task in plan.tasks:
        task_maker(task)
    settings = {name: job_settings(Settings(**plan.settings), name) for name in plan.algorithms}
    return [
        Job(task, algorithm, seed, {"combine": combine}, settings[algorithm])
        for seed in range(plan.seeds)
        for task in plan.tasks
        for algorithm in plan.algorithms
        for combine in ARMS
    ]
