"""Checks that results may be compared: equal budgets and equal settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from textgym.benchmarks.runner.experiment import Job


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ once both are JSON; an absent one equals None."""
    one, other = (json.loads(json.dumps(dict(each))) for each in (one, other))
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def require_same(path: Path, there: Job, here: Job) -> None:
    """Raise ValueError if one run has two results with different settings in one file."""
    differences = ", ".join(
        f"{name}: {there.settings.get(name)!r} there, {here.settings.get(name)!r} here"
        for name in differing(there.settings, here.settings)
    )
    if differences:
        raise ValueError(
            f"{path} holds {here.algorithm} on {here.task}, seed {here.seed}, with other settings ({differences}); "
            "repeat them, or choose another file"
        )


def require_comparable(path: Path, jobs: Iterable[Job], shared: Iterable[str]) -> None:
    """Raise ValueError if a results file has runs that must not be compared.

    Args:
        path: the file, for errors.
        jobs: its runs, and those to be added.
        shared: the settings that all have alike; runs that lack one of them, since they train nothing, may.

    Raises:
        ValueError: a shared setting differs, or an algorithm's own one between its seeds and tasks within an arm.
    """
    first: dict[str, Job] = {}
    alike: dict[tuple[str, str], Job] = {}
    for job in jobs:
        for name in shared:
            if name in job.settings:
                _require_equal(path, (name,), first.setdefault(name, job), job, "all runs")
        other = alike.setdefault((job.algorithm, json.dumps(dict(job.arm), sort_keys=True)), job)
        _require_equal(path, differing(other.settings, job.settings), other, job, "an algorithm's seeds and tasks")


def _require_equal(path: Path, names: Iterable[str], there: Job, here: Job, group: str) -> None:
    for name in names:
        old, new = there.settings.get(name), here.settings.get(name)
        if old != new:
            raise ValueError(
                f"{path}: {name} is {old!r} for {called(there)}, and {new!r} for {called(here)}; expected the same "
                f"for {group}, which are compared; give those of another {name} a file of their own"
            )


def called(job: Job) -> str:
    """Return a run's name, for messages."""
    arm = "".join(f", {name} {value}" for name, value in job.arm.items())
    return f"{job.algorithm} on {job.task}, seed {job.seed}{arm}"
