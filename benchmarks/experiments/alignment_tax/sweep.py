"""Runs of the alignment-tax experiment: several weights of pretraining text, 0 among them, on two mini tasks."""

from __future__ import annotations

from typing import Any

from textgym.benchmarks.experiments.alignment_tax.task import GAMMA, ptx_entry
from textgym.benchmarks.experiments.mini.sweep import MINI_LIMITS
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.benchmarks.runner.limits import at_least, check_limits
from textgym.tasks import MINI

GAMMAS = (0.0, 0.1, 0.3, 1.0)
ALIGNMENT_TAX_SETTINGS: dict[str, Any] = {
    "tokens": 50_000,
    "learning_rate": 1e-3,
    "beta": 0.05,
    "slots": 128,  # responses that are written at once
    "evaluated": 512,  # responses to validation prompts; the same ones for all runs
    "texts": 8192,  # drawn once, of which each update learns some
    "ptx_batch_size": 32,
    "held_out": 512,  # further texts, which only measure
}
_LIMITS = {**MINI_LIMITS, **dict.fromkeys(("texts", "ptx_batch_size", "held_out"), at_least(1))}
# Both tasks have room above the base model's gold, and the budget is enough to fill most of it.
ALIGNMENT_TAX_PLAN = Plan(("ppo",), range(5), ("Reviews", "Concepts"), ALIGNMENT_TAX_SETTINGS)


def alignment_tax_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: a task is not a mini one, a number is out of its range, or an algorithm is unknown or cannot train
            on text in addition to its reward.
    """
    for task in plan.tasks:
        if task not in MINI:
            raise ValueError(f"task={task!r} is not one of the mini tasks, {', '.join(MINI)}")
    check_limits(plan.settings, _LIMITS)
    return [
        make_job(task, algorithm, seed, gamma, **plan.settings)
        for seed in plan.seeds
        for task in plan.tasks
        for algorithm in plan.algorithms
        for gamma in GAMMAS
    ]


def make_job(task: str, algorithm: str, seed: int, gamma: float, **changed: Any) -> Job:
    """Return a job with all settings that its numbers depend on; ``changed`` are of :data:`ALIGNMENT_TAX_SETTINGS`."""
    own = ptx_entry(algorithm).settings({})
    return Job(task, algorithm, seed, {GAMMA: gamma}, {**ALIGNMENT_TAX_SETTINGS, **changed, "algorithm": own})
