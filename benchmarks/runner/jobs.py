"""Run many jobs in parallel, each kept as a line of a results file; an interrupted sweep continues where it stopped.

Each run has a process of its own. Where the system can fork, that begins as a copy of a server which has imported what
the experiment needs and has computed nothing: it is fresh, without the seconds that the imports take.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeAlias

from filelock import FileLock, Timeout
from tqdm import tqdm

from textgym.benchmarks.runner.experiment import Experiment, Job, Result, Results
from textgym.benchmarks.runner.provenance import Code, machine, present_code, require_same_code, rooms_of
from textgym.benchmarks.runner.results_file import cut_torn_line, origins, read_results, result_line
from textgym.benchmarks.runner.same_settings import require_comparable, require_same
from textgym.files import append_line

Outcome: TypeAlias = tuple[Result, Mapping[str, Any], list[str], list[str]]
"""The result of a run, the machine, the rooms of the package that were imported, and the gathered warnings."""

FAILED = "failed"
"""Key of the result of a run that raised a tolerated error; its value is the error's text."""


def run_jobs(
    experiment: Experiment,
    jobs: Sequence[Job],
    path: Path,
    processes: int = 1,
    tolerated: tuple[type[Exception], ...] = (),
    gathered: tuple[type[Warning], ...] = (),
) -> Results:
    """Run every job that is missing in the results file, and append its result.

    Args:
        experiment: the experiment of the jobs.
        jobs: equal jobs are one.
        path: the results file, JSON Lines; made where there is none.
        processes: runs at once. What a run measures does not depend on it.
        tolerated: errors that are results: :data:`FAILED` with the text. Others end the sweep.
        gathered: warnings that are told in one line at the end, with the number of runs that gave them. Others are
            shown by each run.

    Returns:
        The results, each once, in the order of the jobs.

    Raises:
        ValueError: another runner writes to the file, or it is another experiment's, is damaged, or holds runs with
            which these cannot be compared; nothing is run then. Or what a run raised; those that were running beside
            it are kept.
    """
    wanted = {job.key: job for job in jobs}
    if len({_line(job) for job in jobs}) > len(wanted):
        raise ValueError("two jobs differ in their settings alone; expected the difference in their arm")
    with _sole_writer(path):
        # All checks come before the first run: a sweep of hours must not fail at the end.
        done = {job.key: (job, result) for job, result in read_results(path, experiment.name)}
        for key in wanted.keys() & done.keys():
            require_same(path, done[key][0], wanted[key])
        require_comparable(path, [*(job for job, _ in done.values()), *wanted.values()], experiment.shared)
        cut_torn_line(path)
        if waiting := [job for key, job in wanted.items() if key not in done]:
            # Read before the first run: a file that is edited during the sweep does not change what its runs import.
            code = present_code()
            _require_same_code(path, code)
            run = partial(_outcome, experiment.run, tolerated=tolerated, gathered=gathered)
            todo = _Sweep(experiment, path, code, run, len(wanted))
            done |= {job.key: (job, result) for job, result in _do(todo, waiting, processes)}
    return [done[key] for key in wanted]


def _require_same_code(path: Path, code: Code) -> None:
    """Raise ValueError if the file has runs of other code than the present one."""
    there = origins(path)
    rooms = {room for origin in there if origin is not None for room in origin["code"]}
    rows = {f"run {number} of the file": origin for number, origin in enumerate(there, 1)}
    require_same_code(path, {**rows, "this checkout": code.origin({}, rooms)})


@dataclass(frozen=True)
class _Sweep:
    """A sweep; ``total`` counts the runs that are done already, too, and ``warned`` has the runs with warnings."""

    experiment: Experiment
    path: Path
    code: Code
    run: Callable[[Job], Outcome]
    total: int
    warned: list[tuple[Job, str]] = field(default_factory=list)


def _do(sweep: _Sweep, waiting: Sequence[Job], processes: int) -> Results:
    """Run the jobs; each result is in the file before the next job of its thread begins. The first failure ends all."""
    appending = Lock()
    experiment, total = sweep.experiment, sweep.total

    def do(job: Job) -> tuple[Job, Result]:
        result, where, rooms, warned = _in_fresh_process(sweep.run, job, experiment.run.__module__)
        with appending:
            sweep.warned.extend((job, message) for message in warned[:1])
            append_line(sweep.path, result_line(experiment.name, job, result, sweep.code.origin(where, rooms)))
        return job, result

    with ThreadPoolExecutor(processes) as threads:
        runs = [threads.submit(do, job) for job in waiting]
        try:
            shown = tqdm(as_completed(runs), desc="runs", initial=total - len(waiting), total=total, disable=None)
            return [run.result() for run in shown]
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
        finally:
            _tell(sweep.warned, len(waiting))


def _tell(warned: Sequence[tuple[Job, str]], runs: int) -> None:
    """Print one line about the runs that gave warnings, if there are any."""
    if warned:
        job, message = warned[0]
        where = ", ".join([job.task, f"seed {job.seed}", *(f"{name} {value}" for name, value in job.arm.items())])
        print(f"warning in {len(warned)} of {runs} runs, first in {job.label} on {where}: {message}", file=sys.stderr)


@contextmanager
def _sole_writer(path: Path) -> Iterator[None]:
    """Lock a results file against other runners; the system releases the lock with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path.resolve()}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"another runner writes to {path}; wait for its end, or choose another file") from error
    try:
        yield
    finally:
        lock.release()


# --- processes -----------------------------------------------------------------------------------------------


def _in_fresh_process(run: Callable[[Job], Outcome], job: Job, preloaded: str) -> Outcome:
    with ProcessPoolExecutor(1, _context(preloaded), initializer=_end_with_parent) as process:
        return process.submit(run, job).result()


def _outcome(
    run: Callable[[Job], Result],
    job: Job,
    tolerated: tuple[type[Exception], ...],
    gathered: tuple[type[Warning], ...],
) -> Outcome:
    with _gathering(gathered) as warned:
        try:
            result = run(job)
        except tolerated as error:
            result = {FAILED: f"{type(error).__name__}: {error}"}
    return result, machine(), rooms_of(sys.modules), warned


@contextmanager
def _gathering(categories: tuple[type[Warning], ...]) -> Iterator[list[str]]:
    """Collect the messages of some warnings; others are shown as before."""
    messages: list[str] = []
    with warnings.catch_warnings():
        for category in categories:
            warnings.simplefilter("always", category)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, categories):
                messages.append(str(message))
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield messages


def _context(preloaded: str) -> BaseContext:
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    # Children are forks of a server that has done nothing but import the experiment's module, so each run is fresh.
    chosen = get_context("forkserver")
    chosen.set_forkserver_preload([preloaded])
    return chosen


def _end_with_parent() -> None:
    """End this process when its parent dies, as nobody would take its result."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


# --- the file ------------------------------------------------------------------------------------------------


def _line(job: Job) -> str:
    return json.dumps(asdict(job), sort_keys=True)
