"""A results file: one JSON line for each run, written as it ends, read strictly."""

from __future__ import annotations

import json
import os
import reprlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from textgym.agents.settings import FORMER, SWITCHES
from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.benchmarks.runner.provenance import require_same_code
from textgym.benchmarks.runner.same_settings import called, differing
from textgym.files import JsonLine, json_lines

UNKNOWN = "unknown"


def result_line(experiment: str, job: Job, result: Result, origin: Mapping[str, Any] | None = None) -> str:
    """Return a line of a results file; ``origin`` is from :meth:`Code.origin`."""
    row = {"experiment": experiment, "version": metadata.version("textgym"), "job": asdict(job), "result": dict(result)}
    return json.dumps(row if origin is None else {**row, "origin": dict(origin)})


def read_results(path: Path, experiment: str | None = None) -> Results:
    """Read the results in a file; none if there is no file.

    A torn last line, left by a killed process, and lines of another version are named in warnings. The first counts as
    not there, the others are used.

    Args:
        path: the file.
        experiment: the name that all results must have; None for any name, but only one.

    Raises:
        ValueError: another line is not a result, is another experiment's, one run has two that differ, or two runs
            were made by different code.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in _lines(path):
        if line.torn:
            warnings.warn(
                f"{path}: the last line is torn, its run counts as not done: {line.text[:80]!r}", stacklevel=2
            )
            break
        row = _read_line(line, path)
        whose = row.get("experiment", experiment)
        experiment = whose if experiment is None else experiment
        if whose != experiment:
            raise ValueError(f"{path}:{line.number}: a result of {whose!r}; expected one of {experiment!r}")
        earlier = found.setdefault(row["job"].key, {**row, "text": line.text})
        if line.text != earlier["text"]:
            _require_one_result(f"{path}:{line.number}", earlier, row)
    require_same_code(path, {called(row["job"]): row.get("origin") for row in found.values()})
    _warn_of_versions(path, Counter(row.get("version", UNKNOWN) for row in found.values()))
    return [(row["job"], row["result"]) for row in found.values()]


def origins(path: Path) -> list[Mapping[str, Any] | None]:
    """Return the provenance of each row of a file; None for rows of versions that recorded none."""
    return [line.value.get("origin") for line in _lines(path) if not line.torn]


def _require_one_result(where: str, above: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ValueError if two lines of one run differ, naming the difference."""
    one, two = (
        {
            "version": row.get("version", UNKNOWN),
            **{f"setting {name}": value for name, value in row["job"].settings.items()},
            **{f"result {name}": value for name, value in row["result"].items()},
        }
        for row in (above, here)
    )
    differences = ", ".join(
        f"{name}: {reprlib.repr(one.get(name))} above, {reprlib.repr(two.get(name))} here"
        for name in differing(one, two)
    )
    if differences:
        raise ValueError(
            f"{where}: this run has a result above already, and they differ ({differences}); expected one of each, so "
            f"delete a line: {here['job'].key}"
        )


def experiment_of(path: Path) -> str:
    """Return the name of the experiment whose results a file has, by its first line.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is empty, or does not say.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no results file {str(path)!r}; 'textgym bench run' writes one")
    first = next((line for line in _lines(path) if not line.torn), None)
    name = None if first is None else _read_line(first, path).get("experiment")
    if name is None:
        raise ValueError(f"{path}: no result that names its experiment; expected a file of 'textgym bench run'")
    return str(name)


def _warn_of_versions(path: Path, versions: Mapping[str, int]) -> None:
    current = metadata.version("textgym")
    for version, count in versions.items():
        if version != current:
            note = f"{count} results are of textgym {version}, this is {current}; they are used as they are"
            warnings.warn(f"{path}: {note}", stacklevel=3)


def _lines(path: Path) -> Iterator[JsonLine]:
    """Yield the lines of a results file; none where there is no file."""
    return json_lines(path.read_text("utf-8") if path.exists() else "", str(path))


def _read_line(line: JsonLine, path: Path) -> dict[str, Any]:
    """Return a row, its job as a :class:`Job`."""
    try:
        row = line.value
        known = {field.name for field in fields(Job)}
        job = Job(**{name: value for name, value in row["job"].items() if name in known})
        return {**row, "job": of_its_version(job), "result": dict(row["result"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}:{line.number}: expected a job and its result, got {line.text[:80]!r}") from error


PUBLISHED = {"grpo": "grpo-published"}
"""Today's names of algorithms that had other defaults in version 0.2."""


def of_its_version(job: Job) -> Job:
    """Return a run by the name and with all settings that it would have today.

    Version 0.2 estimated a KL in the loss by k3, and did not name that.
    """
    in_use = [name for name in FORMER if job.settings.get(SWITCHES[name])]
    former = {name: FORMER[name] for name in in_use if name not in job.settings}
    if not former:
        return job
    return replace(job, algorithm=PUBLISHED.get(job.algorithm, job.algorithm), settings={**job.settings, **former})


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line, which a killed process left."""
    for line in _lines(path):
        if line.torn:
            os.truncate(path, path.stat().st_size - len(line.text.encode()))
