"""Runs of the distillation experiment: three divergences, and RLOO, on the same tokens."""

from __future__ import annotations

from typing import Any

from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.benchmarks.runner.limits import at_least, check_limits, not_negative, positive
from textgym.registration import task_maker

DISTILLATION_SETTINGS: dict[str, Any] = {
    "tokens": 40_000,
    "learning_rate": 3e-4,  # the best of 1e-4, 3e-4 and 1e-3 for RLOO, of the latter two for distillation
    "slots": 128,  # responses that are written at once
    "evaluated": 1024,  # responses to validation prompts; the same ones for all runs
    "teacher_tokens": 10_000,  # of PPO on gold from the base model, with seed 0 in all runs
    "teacher_learning_rate": 1e-4,
    "teacher_beta": 0.05,
}
"""The same for all; the rest is each algorithm's own."""
_LIMITS = {
    **dict.fromkeys(("tokens", "slots", "evaluated", "teacher_tokens"), at_least(1)),
    **dict.fromkeys(("learning_rate", "teacher_learning_rate"), positive),
    "teacher_beta": not_negative,
}
ARMS: dict[str, tuple[dict[str, float], ...]] = {
    "distill": (
        {"jsd": 1.0, "teacher_share": 0.0},
        {"jsd": 0.5, "teacher_share": 0.0},
        {"jsd": 0.0, "teacher_share": 0.5},
    ),
    "rloo": ({},),
}
"""What is varied, by algorithm."""
DISTILLATION_PLAN = Plan(tuple(ARMS), range(3), ("Reviews",), DISTILLATION_SETTINGS)


def distillation_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: a task is unknown, a number is out of its range, or an algorithm is none of :data:`ARMS`.
    """
    for algorithm in plan.algorithms:
        if algorithm not in ARMS:
            raise ValueError(f"algorithm={algorithm!r} is no way to learn from a teacher; expected {' or '.join(ARMS)}")
    for task in plan.tasks:
        task_maker(task)
    settings = {**DISTILLATION_SETTINGS, **plan.settings}
    check_limits(settings, _LIMITS)
    return [
        Job(task, algorithm, seed, arm, settings)
        for seed in plan.seeds
        for algorithm in plan.algorithms
        for arm in ARMS[algorithm]
        for task in plan.tasks
    ]
