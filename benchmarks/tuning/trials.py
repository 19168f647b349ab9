"""The trials of a search: settings drawn from each algorithm's space, and their runs on development instances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np

from textgym.agents.search import Space, check_space
from textgym.benchmarks.entries import find_entry
from textgym.benchmarks.runner.experiment import Experiment, Job, Plan, Results, Tuning
from textgym.benchmarks.runner.jobs import FAILED
from textgym.benchmarks.tuning.tuned_file import LEARNING_RATE, Instance, Trial, Tuned, best_trial

TRIAL = "trial"
"""The arm of a search: the number of the setting that is tried; 0 is the published one."""


def draw_trials(space: Space, published: Mapping[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw settings: the published ones, then a Latin hypercube of ``count − 1`` points.

    Each setting has a stream of its own, keyed by its name: algorithms that share a setting try the same values of it,
    and a setting more or less changes no other.

    Args:
        space: a range for each setting.
        published: its published value, within the range.
        count: number of settings, at least 2.
        seed: random seed.

    Raises:
        ValueError: ``count`` is below 2, or the space leaves out a published value.
    """
    if count < 2:
        raise ValueError(f"trials={count}; expected at least 2: the published setting, and one to compare it with")
    check_space("the trials", space, published)
    drawn: dict[str, list[Any]] = {}
    for name, values in space.items():
        rng = np.random.default_rng([seed, *name.encode()])
        shares = (rng.permutation(count - 1) + rng.random(count - 1)) / (count - 1)
        drawn[name] = [values.at(float(share)) for share in shares]
    first = {name: published[name] for name in space}
    return [first, *({name: drawn[name][i] for name in space} for i in range(count - 1))]


def entry_space(algorithm: str, tuning: Tuning) -> Space:
    """Return an algorithm's search space in an experiment: the experiment's learning rates, and its own settings."""
    return {LEARNING_RATE: tuning.learning_rate, **find_entry(algorithm).search()}


def planned_trials(experiment: Experiment, plan: Plan, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the settings to try, by algorithm.

    Raises:
        ValueError: the experiment cannot be tuned, or not from the plan's learning rate; see also :func:`draw_trials`.
    """
    tuning = tuning_of(experiment)
    rate = plan.settings[LEARNING_RATE]
    if rate not in tuning.learning_rate:
        raise ValueError(
            f"settings: {LEARNING_RATE}={rate!r}; tuning tries this rate first, and expects one of those that it draws "
            f"from: {tuning.learning_rate}"
        )
    found = {}
    for name in plan.algorithms:
        space = entry_space(name, tuning)
        wanted = dict(plan.settings)
        published = {**find_entry(name).values(wanted), LEARNING_RATE: wanted[LEARNING_RATE]}
        found[name] = draw_trials(space, published, count, seed)
    return found


def tuning_of(experiment: Experiment) -> Tuning:
    """Return the part of an experiment that tuning needs; ValueError if it has none."""
    if experiment.tuning is None:
        raise ValueError(
            f"experiment={experiment.name!r} has no development instances; 'textgym bench list' tells which have"
        )
    return experiment.tuning


def search_jobs(experiment: Experiment, plan: Plan, trials: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Job]:
    """Return the runs of a search, trial by trial: every algorithm with its settings on every development instance."""
    tuning = tuning_of(experiment)
    jobs: list[Job] = []
    count = len(next(iter(trials.values())))
    settings = {**plan.settings, **tuning.settings}
    development = replace(plan, tasks=tuning.tasks, seeds=tuning.seeds, settings=settings)
    for trial in range(count):
        tuned = {name: drawn[trial] for name, drawn in trials.items()}
        made = experiment.sweep(replace(development, tuned=tuned, trials=count))
        jobs += [replace(job, arm={**job.arm, TRIAL: trial}) for job in made]
    return jobs


def chosen_settings(
    experiment: Experiment,
    plan: Plan,
    trials: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Results,
    seed: int,
) -> Tuned:
    """Return the outcome of a search: all its trials, and the best one of each algorithm.

    The score of a trial on an instance is the mean over all its runs there, such as those at several budgets; if one of
    them failed, there is none.

    Raises:
        ValueError: training failed in every trial of an algorithm.
    """
    tuning = tuning_of(experiment)
    instances = tuple((task, number) for number in tuning.seeds for task in tuning.tasks)
    runs: dict[tuple[str, int, Instance], list[float | None]] = {}
    for job, result in results:
        score = None if FAILED in result else tuning.score(job, result)
        score = score if score is not None and math.isfinite(score) else None
        runs.setdefault((job.algorithm, job.arm[TRIAL], (job.task, job.seed)), []).append(score)
    tried = {
        name: tuple(
            Trial(settings, tuple(_mean_of_all(runs[name, number, instance]) for instance in instances))
            for number, settings in enumerate(drawn)
        )
        for name, drawn in trials.items()
    }
    return Tuned(
        experiment=experiment.name,
        version=metadata.version("textgym"),
        seed=seed,
        shared={name: value for name, value in plan.settings.items() if name not in (LEARNING_RATE, *tuning.settings)},
        development=instances,
        spaces={
            name: {setting: str(values) for setting, values in entry_space(name, tuning).items()} for name in trials
        },
        trials=tried,
        chosen={name: best_trial(each) for name, each in tried.items()},
        cpu_seconds=sum(result.get("cpu_seconds", 0.0) for _, result in results),
    )


def _mean_of_all(scores: Sequence[float | None]) -> float | None:
    """Return the mean, or None if one of them is None."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None
