"""Which runs: every algorithm at every β, and one pool for best-of-n."""

from __future__ import annotations

from textgym.benchmarks.experiments.kl_frontier.task import SAMPLED
from textgym.benchmarks.experiments.mini.sweep import run_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import load_task

BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)
POOL = {"prompts": 128, "pool": 128}
PLAN = Plan(("ppo",), 3, ("Reviews",), {"tokens": 40_000})


def sweep(plan: Plan) -> list[Job]:
    """Return the runs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    held = {task: len(load_task(task).prompts("validation")) for task in plan.tasks}
    settings = {
        (name, beta): run_settings(name, {**plan.settings, "beta": beta}) for name in plan.algorithms for beta in BETAS
    }
    jobs = []
    for seed in range(plan.seeds):
        for task in plan.tasks:
            jobs += [Job(task, SAMPLED, seed, settings={**POOL, "prompts": min(POOL["prompts"], held[task])})]
            jobs += [Job(task, name, seed, {"beta": beta}, own) for (name, beta), own in settings.items()]
    return jobs
