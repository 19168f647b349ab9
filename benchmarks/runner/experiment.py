"""The parts of an experiment: its plan, its jobs, the function that runs one, and the findings of the results.

Each experiment is a folder of ``task.py`` (one run), ``sweep.py`` (which runs) and ``score.py`` (from results to
:class:`Findings`), and names itself in its ``__init__.py`` as ``EXPERIMENT``. It does not deal
with processes, files or pages: :mod:`textgym.benchmarks.runner.jobs` runs the jobs, and ``textgym bench report`` shows
the findings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from textgym.agents.search import LogRange
from textgym.agents.settings import SETTINGS, Settings
from textgym.reports.findings import Findings

Result: TypeAlias = Mapping[str, Any]
"""The measurements of a run, as JSON values."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        task: its name, without namespace and version.
        algorithm: its name, or the address of a user's class: ``package.module:Class`` or ``path/to/file.py:Class``.
        seed: random seed of training.
        arm: the settings that the experiment varies, such as β or the number of labels.
        settings: all other settings that the numbers depend on. One file must not have two results of one run with
            different settings.
    """

    task: str
    algorithm: str
    seed: int
    arm: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The identity of the run within its experiment, as canonical JSON."""
        identity = {"task": self.task, "algorithm": self.algorithm, "seed": self.seed, "arm": dict(self.arm)}
        return json.dumps(identity, sort_keys=True)

    @property
    def label(self) -> str:
        """The algorithm as tables name it: with its KL estimator, where that is not the algorithm's own."""
        own = SETTINGS.get(self.algorithm, Settings).kl_estimator
        estimator = self.settings.get("kl_estimator", own)
        return self.algorithm if estimator == own else f"{self.algorithm} ({estimator})"


Results: TypeAlias = Sequence[tuple[Job, Result]]


@dataclass(frozen=True)
class Plan:
    """The part of an experiment that a user may choose.

    Attributes:
        algorithms: see :class:`Job`.
        seeds: of each run. A seed draws the instance of a task, where it has several, and trains on it, so that all
            algorithms meet the same instance at one seed.
        tasks: their names.
        settings: numbers by name, such as a budget. A user may change those that an experiment's own plan names.
        tuned: settings that were tuned, by algorithm; the others are each algorithm's own.
        trials: number of settings that were tried for each algorithm; 0 without tuning.
    """

    algorithms: tuple[str, ...]
    seeds: Sequence[int]
    tasks: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trials: int = 0


@dataclass(frozen=True)
class Tuning:
    """The part of an experiment that ``textgym bench tune`` needs.

    Attributes:
        tasks: the development tasks.
        seeds: of the development instances, which no final score uses.
        learning_rate: values that are tried; the experiment's own rate is among them.
        score: the number that is maximised, of one result.
        settings: of the experiment that a search fixes, such as a single budget; the others are the plan's.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    learning_rate: LogRange
    score: Callable[[Job, Result], float]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        name: its folder's.
        question: the question that it answers, in one sentence.
        plan: its defaults.
        sweep: returns the jobs of a plan, seed by seed, so that an interrupted sweep is still a fair comparison.
        run: runs one job; a function of a module, as other processes import it.
        findings: returns the findings about the results of any part of the sweep.
        shared: settings that are equal in all of its runs, such as the budget. Results that differ in one of them are
            never compared.
        tuning: None for an experiment that compares no algorithms.
    """

    name: str
    question: str
    plan: Plan
    sweep: Callable[[Plan], list[Job]]
    run: Callable[[Job], Result]
    findings: Callable[[Results], Findings]
    shared: tuple[str, ...] = ()
    tuning: Tuning | None = None
