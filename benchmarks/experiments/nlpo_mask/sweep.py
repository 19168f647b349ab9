"""Runs of the NLPO experiment: the mask model refreshed, and never. A run is one of the mini suite."""

from __future__ import annotations

from textgym.agents.settings import NLPOSettings
from textgym.benchmarks.experiments.mini.sweep import mini_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import task_maker

_NLPO = "nlpo"
NEVER = 10**9
NLPO_MASK_PLAN = Plan((_NLPO,), range(5), ("Reviews",), {"tokens": 100_000})


def nlpo_mask_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: a task is unknown, a number is out of its range, or an algorithm other than NLPO is asked for.
    """
    if plan.algorithms != (_NLPO,):
        raise ValueError(f"algorithms={', '.join(plan.algorithms)}; only {_NLPO} has a mask")
    for task in plan.tasks:
        task_maker(task)
    return [
        Job(task, _NLPO, seed, {"target_update": every}, mini_settings(_NLPO, plan.settings, target_update=every))
        for seed in plan.seeds
        for every in (NLPOSettings.target_update, NEVER)
        for task in plan.tasks
    ]
