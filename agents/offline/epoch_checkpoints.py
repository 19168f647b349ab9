"""Training state between epochs: numbered directories, of which the last whole one is where a run goes on."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from textgym.files import MANIFEST, remove_directory, settle_all, verify_manifest


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the state after so many steps lies; ``transformers.Trainer`` names it so."""
    return directory / f"checkpoint-{step}"


def last_whole(directory: Path) -> Path | None:
    """Return the last checkpoint that was written to its end; what was cut off after it is removed.

    Raises:
        ValueError: a file of it was damaged later.
    """
    settle_all(directory)
    for path in sorted(_checkpoints(directory), key=_step, reverse=True):
        if (path / MANIFEST).is_file():
            verify_manifest(path)
            return path
        remove_directory(path)
    return None


def keep_only(directory: Path, steps: Container[int | None]) -> None:
    """Remove the checkpoints after other numbers of steps."""
    for path in _checkpoints(directory):
        if _step(path) not in steps:
            remove_directory(path)


def _checkpoints(directory: Path) -> list[Path]:
    return [path for path in directory.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
