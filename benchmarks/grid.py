"""Many runs side by side, each kept as a line of a results file: a sweep that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Result: TypeAlias = Mapping[str, Any]
"""What a run measured, as JSON values."""


def run_grid(jobs: Sequence[Job], work: Callable[[Job], Result], path: Path, processes: int = 1) -> list[Result]:
    """Does every job that the file does not hold yet, and appends its result.

    Args:
        jobs: dataclasses of JSON values; equal jobs are one.
        work: does a job; a function of a module, since other processes import it.
        path: the results file, JSON Lines; made where there is none.
        processes: jobs at once. What a job measures must not depend on it.

    Returns:
        The results, in the order of the jobs.
    """
    done = read_results(path)
    waiting = {key: job for job in jobs if (key := job_key(job)) not in done}
    context = get_context("spawn")  # a process that begins afresh, whatever threads this one has
    with ProcessPoolExecutor(processes, context) as pool:
        keys = {pool.submit(work, job): key for key, job in waiting.items()}
        progress = tqdm(as_completed(keys), desc="runs", initial=len(done), total=len(done) + len(keys), disable=None)
        try:
            for finished in progress:
                key = keys[finished]
                done[key] = finished.result()
                append_line(path, {"job": json.loads(key), "result": done[key]})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what waits would be done, and thrown away
            raise
    return [done[job_key(job)] for job in jobs]


def job_key(job: Any) -> str:
    """A job as canonical JSON: what tells it from others."""
    return json.dumps(asdict(job), sort_keys=True)


def read_results(path: Path) -> dict[str, Result]:
    """Results by :func:`job_key`; none where there is no file.

    A torn last line, left by a killed process, is cut off with a warning: its run is done again.

    Raises:
        ValueError: another line is not a result, or one run has two.
    """
    if not path.exists():
        return {}
    text = path.read_text("utf-8")
    whole, _, torn = text.rpartition("\n")
    if torn:
        warnings.warn(f"{path}: the last line is torn, its run is done again: {torn[:80]!r}", stacklevel=2)
        os.truncate(path, len(text.encode()) - len(torn.encode()))
    found: dict[str, Result] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            key = json.dumps(row["job"], sort_keys=True)
            result = row["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: expected a job and its result, got {line[:80]!r}") from error
        if key in found:
            raise ValueError(f"{path}:{number}: this run has a result above already; expected one for each: {key}")
        found[key] = result
    return found


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Appends one JSON line by a single write, which reaches the disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, (json.dumps(row) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)
