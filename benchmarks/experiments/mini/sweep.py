"""Runs of the mini suite: every algorithm on every mini task, with the same budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textgym.benchmarks.entries import SFT, find_entry
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.benchmarks.runner.limits import at_least, check_limits, not_negative, positive
from textgym.registration import task_maker
from textgym.tasks import MINI

MINI_SETTINGS = {
    "tokens": 40_000,
    "learning_rate": 1e-3,
    "beta": 0.05,
    "slots": 128,  # responses that are written at once
    "evaluated": 512,  # responses to validation prompts; the same ones for all runs
}
"""The same for all; the rest is each algorithm's own."""

MINI_LIMITS = {
    **dict.fromkeys(("tokens", "slots", "evaluated"), at_least(1)),
    "learning_rate": positive,
    "beta": not_negative,
}

MINI_PLAN = Plan(("ppo", "nlpo", "a2c", "rloo", "grpo", "best-of-n", SFT), 5, MINI, MINI_SETTINGS)


def mini_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    for task in plan.tasks:
        task_maker(task)
    settings = {name: mini_settings(name, plan.settings) for name in plan.algorithms}
    return [
        Job(task, name, seed, settings=settings[name])
        for seed in range(plan.seeds)
        for name in plan.algorithms
        for task in plan.tasks
    ]


def mini_settings(algorithm: str, changed: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """Return all settings of a run: the shared ones, some of them changed, and the algorithm's ``own``.

    Raises:
        ValueError: the algorithm is unknown, or a number is out of its range.
    """
    shared = {**MINI_SETTINGS, **changed}
    check_limits(shared, MINI_LIMITS)
    return {**shared, **find_entry(algorithm).settings(own)}
