"""Files that are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@contextmanager
def replaced_directory(target: str | Path) -> Iterator[Path]:
    """A scratch directory that takes the place of ``target`` when the block ends without an exception."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():  # or it would go with the scratch directory
                old.rename(target)
            raise


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file as a whole."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def write_json(path: str | Path, value: Any) -> None:
    """Replaces a JSON file as a whole; NaN is refused, as other readers do not know it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_manifest(directory: Path) -> None:
    """Lists every file of a directory with its SHA-256, so that damage is noticed before anything is loaded."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    write_json(directory / MANIFEST, {str(path.relative_to(directory)): sha256(path) for path in files})


def verify_manifest(directory: Path) -> None:
    """Checks a directory against its manifest.

    Raises:
        FileNotFoundError: there is no such directory, or it has no manifest.
        ValueError: a file is missing, truncated or changed; it is named.
    """
    manifest = directory / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{str(directory)!r} is not a checkpoint: it has no {MANIFEST}")
    try:
        digests: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{manifest} is damaged ({error}); use another checkpoint") from error
    for name, digest in digests.items():
        path = directory / name
        if not path.is_file():
            raise ValueError(f"checkpoint file {path} is missing; use another checkpoint")
        if sha256(path) != digest:
            raise ValueError(
                f"checkpoint file {path} is damaged: its {path.stat().st_size} bytes do not match the manifest "
                "(truncated, or changed after saving); use another checkpoint"
            )


def sha256(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_directory(path: Path) -> None:
    """Removes a directory and what it holds."""
    shutil.rmtree(path)
