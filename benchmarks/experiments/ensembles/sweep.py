"""Runs of the ensembles experiment: a single reward model, and an ensemble combined in each way."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

from textgym.agents.settings import require
from textgym.benchmarks.experiments.ensembles.task import SINGLE, EnsembleSettings
from textgym.benchmarks.proxies.models import SIZES, require_prompts
from textgym.benchmarks.proxies.rl import job_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import load_task
from textgym.types import Combine

COMBINATIONS = (SINGLE, *get_args(Combine))
ENSEMBLES_PLAN = Plan(("ppo",), range(3), ("Concepts",), asdict(EnsembleSettings()))


def ensembles_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm, a task or a size is unknown, or a number is out of its range.
    """
    shared = EnsembleSettings(**plan.settings)
    require(shared.size in SIZES, "size", shared.size, f"one of {', '.join(SIZES)}")
    settings = {name: job_settings(shared, name) for name in plan.algorithms}
    for task in map(load_task, plan.tasks):
        require_prompts("labels", shared.labels, task, "train")
        require_prompts("prompts", shared.prompts, task, "validation")
    return [
        Job(task, algorithm, seed, {"combine": combine}, settings[algorithm])
        for seed in plan.seeds
        for task in plan.tasks
        for algorithm in plan.algorithms
        for combine in COMBINATIONS
    ]
