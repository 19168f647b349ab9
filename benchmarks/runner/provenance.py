"""Provenance of a run: versions, machine, commit, and digests of the code that ran.

A room is a folder of the package, and its digest that of all its files, of modules without comments and docstrings.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import textgym

PACKAGE = Path(textgym.__file__).parent
SPLIT = ("tasks", "benchmarks")
"""Rooms whose subfolders count by themselves: a run uses a few of them."""
WITHOUT_EFFECT = ("reports", "commands", "runs", "benchmarks.analysis", "benchmarks.runner", "cli", "progress")
"""Rooms that show results, or run them, but change none: of what the runner sets, each run records its threads."""
FORMS = ("score", "sweep", "__init__")
"""Modules of an experiment that plan its runs and read their results; the rest is a run."""


@dataclass(frozen=True)
class Code:
    """The code of the package at one moment.

    Attributes:
        commit: of the checkout, with a "+" if files were changed since; None where there is none.
        digests: a digest of each room.
    """

    commit: str | None
    digests: Mapping[str, str]

    def origin(self, machine: Mapping[str, Any], rooms: Iterable[str]) -> dict[str, Any]:
        """Return the provenance of a run that imported these rooms, as JSON values."""
        return {"commit": self.commit, "code": {room: self.digests.get(room) for room in rooms}, **machine}


def present_code() -> Code:
    """Return the code as it is now. Two runs whose digests agree had the same code, whatever their commits."""
    modules = (".".join(("textgym", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in source_files())
    return Code(commit(), {room: _digest(room) for room in rooms_of(modules)})


def source_files() -> list[Path]:
    """Return the package's modules, those of its linked folders too."""
    folders = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir())]
    return sorted({path for folder in folders for path in folder.glob("*.py" if folder == PACKAGE else "**/*.py")})


def machine() -> dict[str, Any]:
    """Return the versions and the machine that this process runs on, as JSON values.

    Threads are those of torch; None in a process that has not imported it, which takes seconds.
    """
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
        "cpu": cpu(),
        "threads": None if torch is None else torch.get_num_threads(),
    }


def commit() -> str | None:
    """Return the commit of the checkout that the package lies in; None for an installed package."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", PACKAGE, *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "__init__.py") is None:  # an environment within somebody else's checkout
        return None
    head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return f"{head}+" if changed else head


def cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def rooms_of(modules: Iterable[str]) -> list[str]:
    """Return the rooms of the package that modules lie in, by name, without those that have no effect on a run."""
    return sorted({room for name in modules if (room := _room(name)) is not None})


def _room(module: str) -> str | None:
    """Return the room of a module of the package; None for others, and for those without effect on a run."""
    package, _, rest = module.partition(".")
    if package != "textgym" or not rest:
        return None
    parts = rest.split(".")
    if not (PACKAGE / parts[0]).is_dir():
        return None if rest in WITHOUT_EFFECT else "textgym"
    if parts[:2] == ["benchmarks", "experiments"]:
        return ".".join(parts[:3]) if len(parts) > 3 and parts[3] not in FORMS else None
    room = ".".join(parts[:2]) if parts[0] in SPLIT and (PACKAGE / Path(*parts[:2])).is_dir() else parts[0]
    return None if room in WITHOUT_EFFECT else room


def _digest(room: str) -> str:
    """Return the digest of a room's files: of a whole folder, but of the files alone where its folders are split."""
    folder = PACKAGE if room == "textgym" else PACKAGE / Path(*room.split("."))
    files = folder.glob("*") if room in ("textgym", *SPLIT) else folder.rglob("*")
    inside = {str(path.relative_to(folder)): path for path in files if _counts(path)}
    if room.startswith("benchmarks.experiments."):
        inside = {name: path for name, path in inside.items() if path.stem not in FORMS}
    states = {name: (path, path.stat()) for name, path in sorted(inside.items())}
    return _digest_of(tuple((name, path, state.st_mtime_ns, state.st_size) for name, (path, state) in states.items()))


def _counts(path: Path) -> bool:
    """Tell whether a file is part of the code: a module, or a file that one reads, such as a task's base model."""
    written_by_others = path.name.startswith(".") or "__pycache__" in path.parts
    return path.is_file() and path.suffix != ".pyi" and not written_by_others


@cache  # a process reads the same files many times
def _digest_of(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    """Return the digest of files by name; the time and the size of each tell a changed one from the same."""
    parts = [f"{name}\n{_meaning(path)}" for name, path, *_ in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _meaning(path: Path) -> str:
    """Return a module's syntax tree without comments and docstrings; of another file, the digest of its bytes."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def require_same_code(path: Path, rows: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Raise ValueError if two rows were made by different code.

    Args:
        path: the results file, for errors.
        rows: the provenance of each row, by a name for it; None for rows of versions that recorded none.

    Raises:
        ValueError: a room's code differs between two rows, or only some rows recorded theirs.
    """
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    unknown = [name for name, origin in rows.items() if origin is None]
    if unknown and len(unknown) < len(rows):
        raise ValueError(
            f"{path}: {len(unknown)} of {len(rows)} runs do not say which code made them, such as {unknown[0]}; "
            "expected runs of the same code: give them a file of their own"
        )
    for name, origin in rows.items():
        if origin is None:
            continue
        for room, digest in origin["code"].items():
            other, there = first.setdefault(room, (name, origin))
            if there["code"][room] != digest:
                raise ValueError(
                    f"{path}: the code of {room} differs between {other} (commit {there['commit']}) and {name} "
                    f"(commit {origin['commit']}); expected runs of the same code: repeat one of them, or give it a "
                    "file of its own"
                )
