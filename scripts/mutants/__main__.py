"""``python -m scripts.mutants``: put each mutation into a copy of the code and run the tests that should see it."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import tyro
from tqdm import tqdm

from scripts.mutants.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("textgym", "agents", "rewards", "benchmarks", "scripts", "examples", "tests", "pyproject.toml")
KILLED, SURVIVED = "killed", "survived"


@dataclass(frozen=True)
class Mutants:
    """Put each mutation of the list into a copy of the code, run its tests, and print which are seen."""

    only: tuple[str, ...] = ()
    """Names of mutations, or beginnings of names. Default: all."""
    workers: int = 2
    """Processes at once, each in a copy of its own."""
    timeout: float = 600.0
    """Seconds after which the tests of a mutation are stopped; one that hangs is seen."""
    out: Path | None = None
    """Write the table as Markdown into this file as well."""


@dataclass(frozen=True)
class Outcome:
    """Fate of one mutation.

    Attributes:
        mutation: the change.
        seen: :data:`KILLED` or :data:`SURVIVED`.
        by: the first test that failed; empty where none did.
        seconds: of the tests.
    """

    mutation: Mutation
    seen: str
    by: str
    seconds: float


@contextmanager
def copies(n: int, root: Path = ROOT) -> Iterator[Queue[Path]]:
    """Yield ``n`` copies of the code in a temporary directory, as a queue to borrow from."""
    free: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        for i in range(n):
            copy = Path(directory) / str(i)
            copy.mkdir()
            for name in COPIED:
                source = root / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
                elif source.is_file():
                    shutil.copy2(source, copy / name)
            free.put(copy)
        yield free


def try_mutation(mutation: Mutation, copy: Path, timeout: float) -> Outcome:
    """Run the tests of one mutation in a copy of the code, which is then as it was.

    Raises:
        ValueError: the text to change does not stand in its file exactly once.
    """
    path = copy / mutation.path
    original = path.read_text("utf-8")
    path.write_text(mutation.apply(original), "utf-8")
    begun = time.monotonic()
    try:
        failed = run_tests(copy, mutation.tests, timeout)
    finally:
        path.write_text(original, "utf-8")
    return Outcome(mutation, SURVIVED if failed is None else KILLED, failed or "", time.monotonic() - begun)


def run_tests(copy: Path, tests: Sequence[str], timeout: float) -> str | None:
    """Return the first test that fails in a copy of the code; None where all pass.

    Raises:
        RuntimeError: no test ran.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    # Bytecode is keyed by the source's time in seconds, which a quick change and its undoing may share.
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    limit = None if timeout == math.inf else timeout
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return "out of time"
    if done.returncode == 0:
        return None
    if done.returncode not in (1, 2):  # failures; interrupted, as by an error at import
        raise RuntimeError(f"pytest {' '.join(tests)} ran nothing:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0].split(" ", 1)[1] if lines else "an error at import"


def try_all(mutations: Sequence[Mutation], workers: int, timeout: float) -> list[Outcome]:
    """Return the fate of each mutation, in order.

    Raises:
        RuntimeError: the tests fail without any mutation.
    """
    with copies(workers) as free, ThreadPoolExecutor(workers) as pool:
        bare = free.get()
        if failed := run_tests(bare, sorted({test for one in mutations for test in one.tests}), math.inf):
            raise RuntimeError(f"{failed} fails without any mutation")
        free.put(bare)

        def borrowed(mutation: Mutation) -> Outcome:
            copy = free.get()
            try:
                return try_mutation(mutation, copy, timeout)
            finally:
                free.put(copy)

        return list(tqdm(pool.map(borrowed, mutations), total=len(mutations), desc="mutants", disable=None))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table, and how many were seen."""
    killed = sum(outcome.seen == KILLED for outcome in outcomes)
    lines = [
        f"{killed} of {len(outcomes)} mutations are seen by a test ({killed / len(outcomes):.1%}).",
        "",
        "| mutation | file | change | seen by |",
        "| --- | --- | --- | --- |",
    ]
    for outcome in outcomes:
        one = outcome.mutation
        by = f"`{outcome.by}`" if outcome.by else f"**nothing**: {one.survives or 'to be explained'}"
        lines.append(f"| {one.name} | `{one.path}` | {one.change} | {by} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the list, print the table, and exit with 1 where an unexplained mutation survives."""
    settings = tyro.cli(Mutants, args=arguments, prog="python -m scripts.mutants")
    chosen = [one for one in MUTATIONS if not settings.only or one.name.startswith(settings.only)]
    if not chosen:
        raise SystemExit(f"error: only={settings.only} names no mutation; see scripts/mutants/mutations.py")
    outcomes = try_all(chosen, settings.workers, settings.timeout)
    found = table(outcomes)
    print(found)
    if settings.out is not None:
        settings.out.write_text(found, "utf-8")
    if any(one.seen == SURVIVED and not one.mutation.survives for one in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
