"""Atomic writes of files and directories, and parsing of untrusted JSON.

A write goes to a scratch entry next to its target and replaces the target by a rename, so that a process that is killed
at any point leaves the older state or the newer one. Scratch entries have random names and are created exclusively:
nobody can plant a link for us to follow. :func:`settle` cleans up after a killed process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

MANIFEST = "manifest.json"
LONGEST = 100  # longest target name, in bytes, that a scratch entry repeats: file systems allow 255 in all
LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.scratch|\.(checkpoint)\.[^.]+|\.(.+\.jsonl?)\.new")
"""Names of scratch entries: of this version, then of earlier ones."""
DIGEST = "~"  # marks a digest in place of a longer name


# --- writing ---------------------------------------------------------------------------------------------------


@contextmanager
def replaced_directory(target: str | Path) -> Iterator[Path]:
    """Yield a scratch directory that replaces ``target`` when the block ends without an exception.

    The directory gets a manifest of its files (:func:`write_manifest`), and is on the disk as a whole before the older
    one is moved aside. A process that dies between the two renames leaves no ``target``; :func:`settle` recovers it.

    Raises:
        OSError: something could not be written; ``target`` is unchanged.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(target)
    scratch.mkdir()
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        write_manifest(new)
        _sync_tree(new)
        # A directory cannot be renamed onto one that is not empty, so two renames are needed. The old directory is kept
        # until the new one is in place: at every point between, _settle can tell which of the two to restore.
        if target.exists():
            target.rename(scratch / "old")
        new.rename(target)
        _sync(target.parent)
    except SafetensorError as error:  # safetensors' error for a full disk
        raise OSError(errno.EIO, f"could not be written: {error}", str(target)) from error
    finally:
        _settle(target, scratch)


def settle(target: str | Path) -> None:
    """Recover from a killed process that was replacing or removing a directory.

    If ``target`` is missing, the newer directory takes its place if it is whole; otherwise the older one is restored.
    Scratch directories are removed. Call this only where no other process writes; readers call :func:`standing`.
    """
    target = Path(target)
    for scratch, name in _leftovers(target.parent):
        if name == _label(target):
            _settle(target, scratch)


def standing(target: str | Path) -> Path:
    """Return the path at which a directory can be read while it may be being replaced; nothing is changed.

    If ``target`` is missing, this is the newer scratch directory if it is whole, and otherwise the older one.
    """
    target = Path(target)
    if target.exists():
        return target
    scratches = [scratch for scratch, name in _leftovers(target.parent) if name == _label(target)]
    # The same preference as in _settle, so that readers and the next writer see the same state.
    newer = [scratch / "new" for scratch in scratches if _is_whole(scratch / "new")]
    older = [scratch / "old" for scratch in scratches if (scratch / "old").is_dir()]
    return next(iter([*newer, *older]), target)


def settle_all(directory: Path) -> None:
    """Settle every directory that was being replaced within a directory, and remove scratch files there.

    Call this only where no other process writes: the scratch entries of a live writer look like those of a dead one.
    """
    for scratch, name in _leftovers(directory):
        if not name.startswith(DIGEST):
            _settle(directory / name, scratch)


def is_leftover(name: str) -> bool:
    """Return True if ``name`` is the name of a scratch entry, of this version or an earlier one."""
    return LEFTOVER.fullmatch(name) is not None


def remove_directory(path: Path) -> None:
    """Remove a directory atomically: it is renamed first, so that no reader finds half of it under its own name."""
    scratch = _scratch(path)
    scratch.mkdir()
    path.rename(scratch / "removed")
    shutil.rmtree(scratch)


def write_text(path: str | Path, text: str) -> None:
    """Replace a file atomically; it is on the disk when this returns.

    Raises:
        OSError: it could not be written; the older file is unchanged.
    """
    path = Path(path)
    scratch = _scratch(path)
    try:
        with scratch.open("x", encoding="utf-8") as file:  # "x": never follow a file or link that exists already
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file under the final name
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # makes the rename itself durable


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a file by a single write, which is on the disk when this returns.

    A process that dies on the way may leave a part of the line behind; see :attr:`JsonLine.torn`.

    Raises:
        OSError: not all of it could be written; the file is as it was.
    """
    data = f"{line}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
    try:
        before = os.fstat(handle).st_size
        written = os.write(handle, data)
        if written < len(data):
            os.ftruncate(handle, before)
            raise OSError(f"{path}: {written} of {len(data)} bytes could be written; is the disk full?")
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Replace a JSON file atomically; NaN is rejected, as other readers do not know it."""
    write_text(path, _dumped(value, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, rows: Iterable[Any]) -> None:
    """Replace a JSON Lines file atomically, with one value a line."""
    write_text(path, "".join(json_line(row) + "\n" for row in rows))


def json_line(value: Any) -> str:
    """Serialise a value to one line of JSON, without ASCII escapes except for half surrogate pairs."""
    return _dumped(value)


def _dumped(value: Any, **options: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, **options)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair can be written only as an ASCII escape
        return json.dumps(value, **options)
    return text


def _scratch(target: Path) -> Path:
    return target.with_name(f".{_label(target)}.{secrets.token_hex(4)}.scratch")


def _label(target: Path) -> str:
    """Return the name of a target in its scratch entries: a digest if the name is long."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= LONGEST else DIGEST + hashlib.sha256(name).hexdigest()[:16]


def _leftovers(directory: Path) -> list[tuple[Path, str]]:
    """Return the scratch entries in a directory, each with the label of its target."""
    if not directory.is_dir():
        return []
    found = [(path, LEFTOVER.fullmatch(path.name)) for path in sorted(directory.iterdir())]
    return [
        (path, next(filter(None, match.groups())))
        for path, match in found
        if match and (not match[2] or _holds_only_scratch(path))
    ]


def _holds_only_scratch(path: Path) -> bool:
    """Return True for a scratch directory of an earlier version, whose name pattern user directories may match too."""
    return path.is_symlink() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= {"new", "old"})


def _settle(target: Path, scratch: Path) -> None:
    # Also runs after every completed replacement, where ``target`` exists and only ``old`` is left to remove.
    if not scratch.is_dir() or scratch.is_symlink():
        scratch.unlink(missing_ok=True)
        return
    if not target.exists():
        if _is_whole(scratch / "new"):
            (scratch / "new").rename(target)
        elif (scratch / "old").exists():
            (scratch / "old").rename(target)
    shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(directory: Path) -> bool:
    try:
        verify_manifest(directory)
    except (OSError, ValueError):
        return False
    return True


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk; Windows cannot open directories, and needs no call."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(directory: Path) -> None:
    # Files first, then the directories that name them; a rename after this publishes complete data.
    for path in [*sorted(directory.rglob("*")), directory]:
        _sync(path)


# --- reading ---------------------------------------------------------------------------------------------------


def parse_json(text: str, source: str) -> Any:
    """Parse untrusted JSON.

    Args:
        text: the JSON.
        source: its file, and its line if it has several; errors begin with it.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, has an integer with too many digits, or has a string
            with half a surrogate pair, which cannot be encoded.
    """
    try:
        value = json.loads(text)
        # Only an escape can bring half a surrogate pair into a decoded text. The search is cheap; most texts have none.
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
    """Read a UTF-8 file, without its byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8; the message names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raises as :func:`read_text` and :func:`parse_json` do."""
    return parse_json(read_text(path), str(path))


@dataclass(frozen=True)
class JsonLine:
    """One line of a JSON Lines text.

    Attributes:
        number: the number of the line, from 1.
        text: the line, without its line feed.
        value: the JSON value; None if the line is damaged.
        error: the reason why the line is not JSON; None if it is.
        torn: True if no line feed ends it, as after a process died while writing.
    """

    number: int
    text: str
    value: Any = None
    error: ValueError | None = None
    torn: bool = False


def json_lines(text: str, source: str) -> Iterator[JsonLine]:
    """Yield the lines of a JSON Lines text, damaged ones with their error; blank lines are left out.

    All readers of JSON Lines use this function; each decides how to treat damaged and torn lines. Lines end at line
    feeds alone: ``str.splitlines`` would also cut at U+2028 and similar characters, which may occur in JSON strings.

    Args:
        text: the lines.
        source: its file, which begins the errors.
    """
    *whole, rest = text.split("\n")
    for number, line in enumerate([*whole, rest], start=1):
        if line.strip():
            torn = number > len(whole)
            try:
                yield JsonLine(number, line, parse_json(line, f"{source}, line {number}"), None, torn)
            except ValueError as error:
                yield JsonLine(number, line, None, error, torn)


def read_json_lines(path: str | Path) -> list[tuple[int, Any]]:
    """Read a JSON Lines file: each value with the number of its line, from 1; blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, or a line is not JSON; the message names it.
    """
    found = []
    for line in json_lines(read_text(path), str(path)):
        if line.error is not None:
            raise line.error
        found.append((line.number, line.value))
    return found


# --- manifests -------------------------------------------------------------------------------------------------


def write_manifest(directory: Path) -> None:
    """List every file of a directory with its SHA-256, so that damage is detected before anything is loaded."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    write_json(directory / MANIFEST, {path.relative_to(directory).as_posix(): sha256(path) for path in files})


def verify_manifest(directory: Path) -> None:
    """Check a directory against its manifest.

    Raises:
        FileNotFoundError: there is no such directory, or it has no manifest.
        ValueError: a file is missing, truncated or changed; the message names it.
    """
    manifest = directory / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{str(directory)!r} is not a checkpoint: it has no {MANIFEST}")
    try:
        digests = read_json(manifest)
    except ValueError as error:
        raise ValueError(f"{manifest} is damaged ({error}); use another checkpoint") from error
    # A manifest from elsewhere must not make us read files outside its directory.
    if not isinstance(digests, dict) or any(Path(name).is_absolute() or ".." in Path(name).parts for name in digests):
        raise ValueError(f"{manifest} is damaged (expected the files of its own directory); use another checkpoint")
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
    """Compute a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Compute the SHA-256 of a file, or of a directory's files with their names; hidden entries are left out."""
    if path.is_file():
        return sha256(path)
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            # The NUL separates name and digest, so that no two trees give the same text.
            whole.update(f"{name.as_posix()}\0{sha256(file)}\n".encode())
    return whole.hexdigest()
