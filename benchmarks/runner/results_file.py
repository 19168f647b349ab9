"""A results file: one JSON line for each run, written as it ends, read strictly."""

from __future__ import annotations

import json
import os
import reprlib
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from textgym.benchmarks.runner.experiment import Job, Result, Results
from textgym.benchmarks.runner.same_settings import differing

UNKNOWN = "unknown"


def result_row(experiment: str, job: Job, result: Result) -> dict[str, Any]:
    """Return a line of a results file."""
    told = {"experiment": experiment, "version": metadata.version("textgym")}
    return {**told, "job": asdict(job), "result": dict(result)}


def read_results(path: Path, experiment: str | None = None) -> Results:
    """What a results file holds; nothing where there is no file.

    A torn last line, left by a killed process, and lines of another version are named in warnings. The first counts as
    not there, the others are used.

    Args:
        path: the file.
        experiment: whose it must be; None for anyone's, but a single one's.

    Raises:
        ValueError: another line is not a result, is another experiment's, or one run has two that differ.
    """
    lines, torn = _lines(path)
    if torn:
        warnings.warn(f"{path}: the last line is torn, its run counts as not done: {torn[:80]!r}", stacklevel=2)
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        row = _read_line(line, f"{path}:{number}")
        whose = row.get("experiment", experiment)
        experiment = whose if experiment is None else experiment
        if whose != experiment:
            raise ValueError(f"{path}:{number}: a result of {whose!r}; expected one of {experiment!r}")
        earlier = found.setdefault(row["job"].key, {**row, "line": line})
        if line != earlier["line"]:
            _require_one_result(f"{path}:{number}", earlier, row)
    _warn_of_versions(path, Counter(row.get("version", UNKNOWN) for row in found.values()))
    return [(row["job"], row["result"]) for row in found.values()]


def _require_one_result(where: str, above: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses two lines of one run that differ, and tells in what."""
    one, two = (
        {
            "version": row.get("version", UNKNOWN),
            **{f"setting {name}": value for name, value in row["job"].settings.items()},
            **{f"result {name}": value for name, value in row["result"].items()},
        }
        for row in (above, here)
    )
    told = ", ".join(
        f"{name}: {reprlib.repr(one.get(name))} above, {reprlib.repr(two.get(name))} here"
        for name in differing(one, two)
    )
    if told:
        raise ValueError(
            f"{where}: this run has a result above already, and they differ ({told}); expected one of each, so delete "
            f"a line: {here['job'].key}"
        )


def experiment_of(path: Path) -> str:
    """Whose results a file holds, by its first line.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is empty, or does not say.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no results file {str(path)!r}; 'textgym bench run' writes one")
    lines, _ = _lines(path)
    name = _read_line(lines[0], f"{path}:1").get("experiment") if lines else None
    if name is None:
        raise ValueError(f"{path}: no result that names its experiment; expected a file of 'textgym bench run'")
    return str(name)


def _warn_of_versions(path: Path, versions: Mapping[str, int]) -> None:
    current = metadata.version("textgym")
    for version, count in versions.items():
        if version != current:
            told = f"{count} results are of textgym {version}, this is {current}; they are used as they are"
            warnings.warn(f"{path}: {told}", stacklevel=3)


def _lines(path: Path) -> tuple[list[str], str]:
    """Whole lines, and what stands after the last of them."""
    whole, _, torn = (path.read_text("utf-8") if path.exists() else "").rpartition("\n")
    return whole.splitlines(), torn


def _read_line(line: str, where: str) -> dict[str, Any]:
    """Return a row, its job as a :class:`Job`."""
    try:
        row = json.loads(line)
        known = {field.name for field in fields(Job)}
        job = Job(**{name: value for name, value in row["job"].items() if name in known})
        return {**row, "job": job, "result": dict(row["result"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: expected a job and its result, got {line[:80]!r}") from error


def cut_torn_line(path: Path) -> None:
    """Remove what a killed process left behind the last whole line."""
    _, torn = _lines(path)
    if torn:
        os.truncate(path, path.stat().st_size - len(torn.encode()))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line by a single write, which reaches the disk before this returns.

    Raises:
        OSError: not all of it could be written; the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(handle).st_size
        written = os.write(handle, line)
        if written < len(line):
            os.ftruncate(handle, before)
            raise OSError(f"{path}: {written} of {len(line)} bytes could be written; is the disk full?")
        os.fsync(handle)
    finally:
        os.close(handle)
