"""Runs of the KL frontier: every algorithm at every β, and one pool for best-of-n."""

from __future__ import annotations

from textgym.benchmarks.experiments.kl_frontier.task import SAMPLED
from textgym.benchmarks.experiments.mini.sweep import mini_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import load_task

BETA_LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0)
POOL = {"prompts": 128, "pool": 128}
KL_FRONTIER_PLAN = Plan(("ppo",), range(3), ("Concepts",), {"tokens": 40_000})


def kl_frontier_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    # Small tasks have fewer validation prompts than the pool asks for.
    held = {task: len(load_task(task).prompts("validation")) for task in plan.tasks}
    settings = {
        (name, beta): mini_settings(name, {**plan.settings, "beta": beta})
        for name in plan.algorithms
        for beta in BETA_LEVELS
    }
    jobs = []
    for seed in plan.seeds:
        for task in plan.tasks:
            jobs += [Job(task, SAMPLED, seed, settings={**POOL, "prompts": min(POOL["prompts"], held[task])})]
            jobs += [Job(task, name, seed, {"beta": beta}, own) for (name, beta), own in settings.items()]
    return jobs
