"""Runs of the diagnostic suite: every algorithm on drawn instances of every task."""

from __future__ import annotations

from textgym.agents.registry import ALGORITHMS
from textgym.agents.search import LogRange
from textgym.benchmarks.entries import find_entry
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.benchmarks.runner.limits import at_least, check_limits, not_negative, positive
from textgym.registration import load_task
from textgym.tasks import DIAGNOSTIC_SUITE

DIAGNOSTIC_SETTINGS = {
    "episodes": 4096,  # per run; the budget is episodes · own tokens of the longest one, T without a world
    "learning_rate": 3e-3,  # of algorithms that are not tuned; it decays to 0, and is large, as the models are tiny
    "episodes_per_iteration": 256,
    "minibatch_size": None,
    "n_epochs": None,
    "samples_per_prompt": None,
    "vf_coef": None,
}
"""The same on every task, except β, which is the task's. None means the algorithm's own value."""

RATES = LogRange(3e-4, 1e-2)
"""Learning rates that tuning tries."""

DEVELOPMENT = ("Copy-v1", "Noise-v1", "Dense-v1", "Length-v1")
"""Tasks of whose instances tuning uses some that are not scored."""

_LIMITS = {
    **dict.fromkeys(("episodes", "minibatch_size", "n_epochs", "samples_per_prompt"), at_least(1)),
    "episodes_per_iteration": at_least(2),
    "learning_rate": positive,
    "vf_coef": not_negative,
}

NEGATIVE = ("Noise", "Noise-v1", "Bisect", "Clarify", "Lookup")
"""Tasks in which a response may score less than 0."""

DIVIDES_BY_MEAN = "maxrl"
"""Algorithm that divides by a mean of scores of at least 0."""

EVERYWHERE = tuple(
    name for name, kind in ALGORITHMS.items() if name != DIVIDES_BY_MEAN and not kind.settings_class.has_teacher
)
"""Algorithms that can learn every task from its reward."""

DIAGNOSTIC_PLAN = Plan(EVERYWHERE, range(3), DIAGNOSTIC_SUITE, DIAGNOSTIC_SETTINGS)


def diagnostic_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed.

    Raises:
        ValueError: an algorithm or a task is unknown, one does not fit the other, or a number is out of its range.
    """
    for task in plan.tasks:
        if task not in DIAGNOSTIC_SUITE and load_task(task).beta is None:
            raise ValueError(f"task={task!r} has no beta, so it is not scored; expected a diagnostic task")
    if DIVIDES_BY_MEAN in plan.algorithms and (unfit := [task for task in plan.tasks if task in NEGATIVE]):
        fit = " ".join(task for task in DIAGNOSTIC_SUITE if task not in NEGATIVE)
        raise ValueError(
            f"algorithm={DIVIDES_BY_MEAN!r} divides by mean scores of at least 0, and {', '.join(unfit)} has negative "
            f"ones; run it by itself, with --tasks {fit}"
        )
    wanted = {**DIAGNOSTIC_SETTINGS, **plan.settings}
    check_limits(wanted, _LIMITS)
    episodes = wanted.pop("episodes")
    entries = {name: find_entry(name) for name in plan.algorithms}
    for name, entry in entries.items():
        if entry.imitates:
            raise ValueError(f"algorithm={name!r} imitates reference texts, and diagnostic tasks have none")
    settings = {}
    for name, entry in entries.items():
        own = {**wanted, **plan.tuned.get(name, {})}
        rate = own.pop("learning_rate")
        settings[name] = {"episodes": episodes, "learning_rate": rate, "trials": plan.trials, **entry.settings(own)}
    return [
        Job(task, name, seed, settings=settings[name])
        for seed in plan.seeds
        for name in plan.algorithms
        for task in plan.tasks
    ]
