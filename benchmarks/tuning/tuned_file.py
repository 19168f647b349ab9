"""A tuned file: the setting that each algorithm's search has chosen, with the whole search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from textgym.benchmarks.runner.experiment import Experiment, Plan
from textgym.files import write_text

LEARNING_RATE = "learning_rate"

Instance = tuple[str, int]


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        settings: by name.
        scores: one for each development instance; None where training failed.
    """

    settings: Mapping[str, Any]
    scores: tuple[float | None, ...]

    @property
    def failed(self) -> bool:
        """True if training failed on any instance."""
        return any(score is None for score in self.scores)


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search.

    Attributes:
        experiment: its name.
        version: of textgym.
        seed: that drew the settings.
        shared: settings that all runs had, such as tokens and β.
        development: the instances that were tuned on, as pairs of task and seed.
        spaces: the search space of each algorithm, in words.
        trials: of each algorithm, the published setting first.
        chosen: the number of the best trial, by algorithm.
        cpu_seconds: of all runs that did not fail; None in files of versions up to 0.2.
    """

    experiment: str
    version: str
    seed: int
    shared: Mapping[str, Any]
    development: tuple[Instance, ...]
    spaces: Mapping[str, Mapping[str, str]]
    trials: Mapping[str, tuple[Trial, ...]]
    chosen: Mapping[str, int] = field(default_factory=dict)
    cpu_seconds: float | None = None

    @property
    def count(self) -> int:
        """Number of settings that each algorithm had."""
        return len(next(iter(self.trials.values())))

    def settings(self, algorithm: str) -> Mapping[str, Any]:
        """Return the chosen settings of an algorithm."""
        return self.trials[algorithm][self.chosen[algorithm]].settings


def best_trial(trials: Sequence[Trial]) -> int:
    """Return the number of the trial with the highest mean score, the first of equals.

    Raises:
        ValueError: training failed in every trial.
    """
    means = [mean_score(trial) for trial in trials]
    best = max(range(len(means)), key=lambda i: (means[i], -i))
    if means[best] == -float("inf"):
        raise ValueError("training failed on some development instance in every trial; widen the search space")
    return best


def mean_score(trial: Trial) -> float:
    """Return the mean score of a trial; −∞ if training failed on any instance."""
    known = [score for score in trial.scores if score is not None]
    return -float("inf") if trial.failed else sum(known) / len(known)


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Write a tuned file, JSON."""
    write_text(path, json.dumps(asdict(tuned), indent=1) + "\n")


def read_tuned(path: Path) -> Tuned:
    """Read a tuned file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no tuned file, its algorithms had different numbers of trials, or its choice is not the best.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no tuned file {str(path)!r}; 'textgym bench tune' writes one")
    try:
        row = json.loads(path.read_text("utf-8"))
        trials = {
            name: tuple(Trial(one["settings"], tuple(one["scores"])) for one in tried)
            for name, tried in row["trials"].items()
        }
        development = tuple((str(task), int(seed)) for task, seed in row["development"])
        found = Tuned(**{**row, "trials": trials, "development": development})
        if not all(len(one.scores) == len(development) > 0 for tried in trials.values() for one in tried):
            raise ValueError(f"a trial without a score for each of {len(development)} instances")
        counts = {name: len(tried) for name, tried in trials.items()}
        chosen = {name: best_trial(tried) for name, tried in trials.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a tuned file of 'textgym bench tune', got {error!r}") from error
    if len(set(counts.values())) != 1:
        raise ValueError(f"{path}: numbers of trials differ: {counts}; expected as many for each algorithm")
    if chosen != dict(found.chosen):
        raise ValueError(f"{path}: chosen is {dict(found.chosen)}; expected the best trial of each, {chosen}")
    return found


def apply_tuned(path: Path, tuned: Tuned, experiment: Experiment, plan: Plan) -> Plan:
    """Return a plan with the chosen settings of its algorithms.

    Raises:
        ValueError: the file is of another experiment, version or budget, lacks an algorithm of the plan, or was tuned
            on an instance that the plan scores; or the plan has a learning rate of its own.
    """
    version = metadata.version("textgym")
    for name, there, here in (("experiment", tuned.experiment, experiment.name), ("version", tuned.version, version)):
        if there != here:
            raise ValueError(f"{path}: tuned for {name} {there!r}; expected {here!r}: run 'textgym bench tune' again")
    for name, there in tuned.shared.items():
        here = plan.settings.get(name, there)
        if here != there:
            raise ValueError(f"{path}: tuned with {name} {there!r}; this run has {here!r}: expected the same")
    rate, own = (settings.get(LEARNING_RATE) for settings in (plan.settings, experiment.plan.settings))
    if rate != own:
        raise ValueError(f"{path}: has a {LEARNING_RATE} for each algorithm; got {rate!r} for all: leave it out")
    if missing := [name for name in plan.algorithms if name not in tuned.trials]:
        raise ValueError(
            f"{path}: has no search of {', '.join(missing)}; expected as many trials for each algorithm: run 'textgym "
            f"bench tune' again, with --algorithms {' '.join([*tuned.trials, *missing])}"
        )
    scored = {(task, seed) for task in plan.tasks for seed in plan.seeds}
    if overlap := sorted(scored & set(tuned.development)):
        raise ValueError(
            f"{path}: tuned on {', '.join(f'{task}, seed {seed}' for task, seed in overlap)}, which this run would "
            "score; expected other instances: choose other seeds"
        )
    chosen = {name: tuned.settings(name) for name in plan.algorithms}
    return Plan(plan.algorithms, plan.seeds, plan.tasks, plan.settings, chosen, tuned.count)
