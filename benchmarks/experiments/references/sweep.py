"""Runs of the references experiment: imitation by references and passes, RL by tokens, and one after the other."""

from __future__ import annotations

from textgym.benchmarks.entries import SFT, find_entry
from textgym.benchmarks.experiments.mini.sweep import MINI_SETTINGS, mini_settings
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.registration import task_maker

COUNTS = (250, 1000, 4000)
"""Reference texts that imitation is shown."""
PASSES = (1, 4)
"""Passes over them."""
BUDGETS = (2_500, 10_000, 40_000)
"""Tokens of RL: with some ten tokens a response, about as many calls of the reward as there are references."""

REFERENCES_PLAN = Plan(
    (SFT, "ppo", "sft+ppo"),
    range(3),
    ("Concepts", "Stories", "Translation"),
    {name: MINI_SETTINGS[name] for name in ("learning_rate", "beta", "slots", "evaluated")},
)


def references_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, or a number is out of its range.
    """
    for task in plan.tasks:
        task_maker(task)
    arms = {name: _arms(name) for name in plan.algorithms}
    settings = {
        (name, i): {**mini_settings(name, plan.settings, **arm), "drawn": True}
        for name, each in arms.items()
        for i, arm in enumerate(each)
    }
    return [
        Job(task, name, seed, arm, settings[name, i])
        for seed in plan.seeds
        for name in plan.algorithms
        for i, arm in enumerate(arms[name])
        for task in plan.tasks
    ]


def _arms(algorithm: str) -> list[dict[str, int]]:
    """Return how much an algorithm is shown, or may try."""
    if algorithm == SFT:
        return [{"references": count, "epochs": passes} for passes in PASSES for count in COUNTS]
    find_entry(algorithm)
    return [{"tokens": tokens} for tokens in BUDGETS]
