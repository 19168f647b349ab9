"""Runs of the noise experiment: every algorithm at every level of noise."""

from __future__ import annotations

from textgym.benchmarks.experiments.mini.sweep import mini_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import task_maker

SIGMAS = (0.0, 0.5, 1.0, 2.0)
"""Gold lies in [0, 1]; on Concepts its own standard deviation is 0.3."""
REWARD_NOISE_PLAN = Plan(("ppo", "a2c", "rloo", "grpo"), range(3), ("Concepts",), {"tokens": 20_000})


def reward_noise_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    for task in plan.tasks:
        task_maker(task)
    settings = {name: mini_settings(name, plan.settings) for name in plan.algorithms}
    return [
        Job(task, name, seed, {"sigma": sigma}, settings[name])
        for seed in plan.seeds
        for task in plan.tasks
        for sigma in SIGMAS
        for name in plan.algorithms
    ]
