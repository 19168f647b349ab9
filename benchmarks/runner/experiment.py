"""The parts of an experiment: its plan, its jobs, the function that runs one, and the findings of the results.

Each experiment is a folder of ``task.py`` (one run), ``sweep.py`` (which runs) and ``score.py`` (from results to
:class:`Findings`), and names itself in its ``__init__.py`` as ``EXPERIMENT``. It knows nothing of processes, files or
pages: :mod:`textgym.benchmarks.runner.jobs` does the runs, and ``textgym bench report`` shows the findings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from textgym.reports.findings import Findings

Result: TypeAlias = Mapping[str, Any]
"""What a run measured, as JSON values."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        task: its name, without namespace and version.
        algorithm: its name, or where a user's class stands: ``package.module:Class`` or ``path/to/file.py:Class``.
        seed: of everything random in training.
        arm: what the experiment varies beside these: β, a count of labels.
        settings: everything else that the numbers depend on. Two results of one run with different settings must not
            stand in one file.
    """

    task: str
    algorithm: str
    seed: int
    arm: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The identity of the run within its experiment, as canonical JSON."""
        told = {"task": self.task, "algorithm": self.algorithm, "seed": self.seed, "arm": dict(self.arm)}
        return json.dumps(told, sort_keys=True)


Results: TypeAlias = Sequence[tuple[Job, Result]]


@dataclass(frozen=True)
class Plan:
    """The part of an experiment that a user may choose.

    Attributes:
        algorithms: see :class:`Job`.
        seeds: 0, 1, … of each run.
        tasks: their names.
        settings: numbers by name, such as a budget. A user may change those that an experiment's own plan names.
    """

    algorithms: tuple[str, ...]
    seeds: int
    tasks: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        name: its folder's.
        question: what it answers, as a question of one sentence.
        plan: what it does unless told otherwise.
        sweep: the runs of a plan, seed by seed, so that what was done of an interrupted sweep compares fairly.
        run: does one; a function of a module, since other processes import it.
        findings: what the results of any part of the sweep say.
        shared: settings that all of its runs have alike, such as the budget. Results in which one of them differs are
            never compared.
    """

    name: str
    question: str
    plan: Plan
    sweep: Callable[[Plan], list[Job]]
    run: Callable[[Job], Result]
    findings: Callable[[Results], Findings]
    shared: tuple[str, ...] = ()
