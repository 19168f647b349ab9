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


def parse_json(text: str, source: str) -> Any:
    """Return the value of a JSON text that anybody may have written.

    Args:
        text: the JSON.
        source: its file, and its line where it has several; errors begin with it.

    Raises:
        ValueError: it is not JSON, it is nested too deeply, an integer has too many digits, or a string holds half a
            surrogate pair, which no encoding can write.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"{source}: the JSON is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{source}: a string holds half a surrogate pair ({error.object[error.start]!a})") from None
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    return value


def read_text(path: str | Path) -> str:
    """Return a UTF-8 file's text, without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8; the message names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file; raises as :func:`read_text` and :func:`parse_json` do."""
    return parse_json(read_text(path), str(path))


def read_json_lines(path: str | Path) -> list[tuple[int, Any]]:
    """Return the values of a JSON Lines file, each with the number of its line, from 1; blank lines are left out.

    Lines end at line feeds alone, as strings may hold other separators. Raises as :func:`read_json` does; the message
    names the line.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, parse_json(line, f"{path}, line {number}")) for number, line in lines if line.strip()]


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
