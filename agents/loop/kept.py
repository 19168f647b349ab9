"""Checkpoints that are kept beside the newest one: numbered ones, and the best."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgym.files import MANIFEST, read_json, remove_directory, replaced_directory, write_json

NUMBERED = "iteration-{:06d}"
NOTE = "best.json"
"""The note in the directory of the best checkpoint: its iteration, and the figure that it is best by."""


def saved_iteration(checkpoint: Path) -> int | None:
    """Return the iteration after which a checkpoint was saved; None where there is no checkpoint."""
    state = checkpoint / "training" / "state.json"
    return int(read_json(state)["counters"]["iteration"]) if state.is_file() else None


def copy_checkpoint(source: Path, target: Path, note: Mapping[str, Any] | None = None) -> None:
    """Put a copy of a checkpoint in a place, whole or not at all; what stands there is replaced.

    Files are hard links where the file system has them, so that a copy takes no space: checkpoints are replaced as a
    whole, and no file of one is ever changed.

    Args:
        source: a checkpoint.
        target: its copy.
        note: what ``best.json`` says in the copy; None for no such file.
    """
    with replaced_directory(target) as scratch:
        for path in sorted(source.rglob("*")):
            place = scratch / path.relative_to(source)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif place.name not in (NOTE, MANIFEST):
                _link(path, place)
        if note is not None:
            write_json(scratch / NOTE, note)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def numbered(directory: Path) -> dict[int, Path]:
    """Return the numbered checkpoints of a directory by iteration, the oldest first."""
    found = {int(path.name.rpartition("-")[2]): path for path in directory.glob("iteration-*") if _is_numbered(path)}
    return dict(sorted(found.items()))


def _is_numbered(path: Path) -> bool:
    return path.is_dir() and re.fullmatch(r"iteration-\d{6,}", path.name) is not None


def prune(directory: Path, count: int) -> None:
    """Remove all numbered checkpoints but the last ``count``."""
    for path in list(numbered(directory).values())[:-count]:
        remove_directory(path)


def best_note(checkpoint: Path) -> dict[str, Any] | None:
    """Return a best checkpoint's note: ``iteration``, ``metric``, ``mean``, ``sem`` and ``n``; None without one."""
    path = checkpoint / NOTE
    note: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return note
