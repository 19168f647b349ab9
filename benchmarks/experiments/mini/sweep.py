"""Runs of the mini suite: every algorithm on drawn instances of every task, at one or more budgets of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textgym.agents.search import LogRange
from textgym.benchmarks.entries import find_entry
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.benchmarks.runner.limits import at_least, check_limits, not_negative, positive
from textgym.registration import task_maker
from textgym.tasks import MINI_SUITE

MINI_SETTINGS: Mapping[str, Any] = {
    "tokens": 8_000,
    "budgets": 2,  # each is half of the one before
    "learning_rate": 1e-3,  # of algorithms that are not tuned; the base model is small
    "beta": 0.05,
    "slots": 128,  # responses that are written at once
    "evaluated": 512,  # responses to held-out prompts; the same ones for all algorithms
}
"""The rest is each algorithm's own."""

MINI_LIMITS = {
    **dict.fromkeys(("tokens", "budgets", "slots", "evaluated"), at_least(1)),
    "learning_rate": positive,
    "beta": not_negative,
}

CONTENDERS = (
    "ppo",
    "nlpo",
    "a2c",
    "reinforce",
    "reinforce++",
    "rloo",
    "rloo-clipped",
    "grpo",
    "dr-grpo",
    "dapo",
    "gspo",
    "cispo",
    "maxrl",
    "best-of-n",
    "expert-iteration",
)
"""Algorithms of the published comparison."""

MINI_PLAN = Plan(CONTENDERS, range(2), MINI_SUITE, MINI_SETTINGS)

DEVELOPMENT = ("Concepts", "Translation")
"""Tasks of whose instances tuning uses some that are not scored: an easy and a hard one."""

RATES = LogRange(3e-4, 1e-2)
"""Learning rates that tuning tries."""


def mini_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, the largest budget first, and each budget seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    for task in plan.tasks:
        task_maker(task)
    shared = {**MINI_SETTINGS, **plan.settings}
    check_limits(shared, MINI_LIMITS)
    tokens, budgets = shared.pop("tokens"), shared.pop("budgets")
    settings = {
        name: {**mini_settings(name, shared, **plan.tuned.get(name, {})), "drawn": True, "trials": plan.trials}
        for name in plan.algorithms
    }
    return [
        Job(task, name, seed, {"tokens": tokens // 2**halved}, settings[name])
        for halved in range(budgets)
        for seed in plan.seeds
        for name in plan.algorithms
        for task in plan.tasks
    ]


def mini_settings(algorithm: str, changed: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """Return all settings of a run: the shared ones, some of them changed, and the algorithm's ``own``.

    Raises:
        ValueError: the algorithm is unknown, or a number is out of its range.
    """
    shared = {name: value for name, value in MINI_SETTINGS.items() if name not in ("tokens", "budgets")} | dict(changed)
    rate = own.pop("learning_rate", shared["learning_rate"])
    check_limits({**shared, "learning_rate": rate}, MINI_LIMITS)
    return {**shared, "learning_rate": rate, **find_entry(algorithm).settings(own)}
