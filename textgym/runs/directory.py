"""Directory of a run: its lock, its settings and inputs, and the replacement or continuation of an earlier run."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from textgym.env.rendering import printable
from textgym.files import is_leftover, read_json, read_json_lines, remove_directory, settle_all, write_json
from textgym.reports.settings import EXTENDED, LATER, MAY_DIFFER, by_name, changed_settings
from textgym.runs.inputs import changed_inputs, fingerprints, named_paths

CHECKPOINT = "checkpoint"
TRAINING = "training"  # the folder of the state between epochs, of commands that learn from data
CONFIG = "config.json"
LOCK = ".lock"
MOVING, REPLACED = ".moving", ".replaced"
"""Folders for the run that ``--overwrite`` replaces: while it is being moved, and once it is complete there."""
BACK = "the run that was to be replaced has been restored"
"""Note on an exception after which the replaced run was restored."""
TOKENS = "total_timesteps"
PACKAGES = ("textgym", "torch", "transformers", "gymnasium", "stable-baselines3", "accelerate", "numpy")

Config = TypeVar("Config")


def model_source(source: str) -> str:
    """Return the path of a model; for a run's directory that of its checkpoint."""
    checkpoint = Path(source) / CHECKPOINT
    return str(checkpoint) if checkpoint.is_dir() else source


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine the numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


# --- holding a directory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """State of a run's directory, which this process holds.

    Attributes:
        resumed: True if there is a checkpoint to continue from.
        tokens_before: the run's previous token budget if it is extended; otherwise None.
    """

    resumed: bool
    tokens_before: int | None = None


@contextmanager
def held(out: Path, config: Mapping[str, Any], overwrite: bool, resume: bool) -> Iterator[bool]:
    """Lock a run's directory for this process while the block runs; yield True if a run there is to be continued.

    The leftovers of a killed process are cleaned up. If the block replaces a run and fails before its first results,
    the old run is restored; if it fails before :func:`begin_run`, nothing is left.

    Args:
        out: the directory.
        config: the settings, as :func:`begin_run` keeps them.
        overwrite: replace an existing run.
        resume: continue it.

    Raises:
        FileExistsError: the directory is not empty and neither is set, it is not a run, or another process uses it.
        ValueError: the run to overwrite holds an input of this one.
    """
    run_to_resume(out, overwrite, resume)  # refuses before anything is created; again below, as it may have changed
    with _locked(out):
        _settle(out)
        goes_on = run_to_resume(out, overwrite, resume)
        if overwrite and not goes_on:
            _require_inputs_outside(out, config)
        # A new configuration shows that the block has begun a run, and not only checked its arguments.
        before = _identity(out / CONFIG)
        try:
            yield goes_on
        except BaseException as error:
            if not goes_on and _identity(out / CONFIG) != before and (out / REPLACED).is_dir():
                if _has_worked(out):
                    first_result(out)
                else:
                    _put_back(out)
                    error.add_note(BACK)
            raise


@contextmanager
def claimed(out: Path, config: Mapping[str, Any], overwrite: bool, resume: bool) -> Iterator[Standing]:
    """Hold a run's directory as :func:`held` does, for a command that continues with the same settings and inputs.

    Raises:
        FileExistsError: see :func:`held`.
        ValueError: see :func:`held`; or the run to resume had different settings or inputs, which are named.
    """
    with held(out, config, overwrite, resume) as goes_on:
        standing = _standing(out, config) if goes_on else Standing(resumed=False)
        if resume and not standing.resumed and not any(out.glob(f"{TRAINING}/checkpoint-*")):
            name = repr(printable(str(out)))
            found = f"{name} has no checkpoint yet" if is_run(out) else f"there is no run in {name}"
            print(f"--resume: {found}, so the run starts from the beginning")
        yield standing


def _standing(out: Path, config: Mapping[str, Any]) -> Standing:
    """Check that a run can continue with the present settings and inputs, and return its state.

    Raises:
        ValueError: settings or inputs differ from those it began with.
    """
    kept = _kept_config(out)
    before, now = kept.get(TOKENS), config.get(TOKENS)
    # A larger budget is the one change of training that a resumed run allows.
    more = isinstance(before, int) and isinstance(now, int) and now > before
    difference = changed_settings({**kept, TOKENS: now} if more else kept, config)
    if difference:
        less = f". {TOKENS} may grow, not shrink" if f"{TOKENS}: " in difference else ""
        raise ValueError(
            f"--resume of {str(out)!r} with other settings ({difference}); repeat the run's own settings{less}"
        )
    if changed := changed_inputs(kept.get("inputs"), config):
        raise ValueError(
            f"--resume of {str(out)!r}: {changed} has changed since the run began; restore it, or start a run elsewhere"
        )
    # These settings may change, so the config records their latest values.
    changed_freely = {name: config[name] for name in (*MAY_DIFFER, TOKENS) if name in config}
    if more:
        changed_freely[EXTENDED] = [*kept.get(EXTENDED, ()), before]
    if any(kept.get(name) != plain for name, plain in json.loads(json.dumps(changed_freely)).items()):
        write_json(out / CONFIG, {**kept, **changed_freely})
    return Standing((out / CHECKPOINT).is_dir(), before if more else None)


def run_to_resume(out: Path, overwrite: bool, resume: bool) -> bool:
    """Return True if a directory holds a run that is to be continued; nothing is written.

    Raises:
        FileExistsError: the directory is not empty and neither ``overwrite`` nor ``resume`` is set, or it is not a run.
    """
    if _is_empty(out):
        return False
    known = is_run(out)
    if not (known and (overwrite or resume)):
        fix = "pass --overwrite to replace it or --resume to continue it" if known else "choose another directory"
        raise FileExistsError(f"out={str(out)!r} exists and {'is a run' if known else 'is not a run'}; {fix}")
    return resume


def is_run(out: Path) -> bool:
    """Return True if the directory is a textgym run; a model's directory has a config.json too."""
    try:
        return bool({"command", "versions"} <= _kept_config(out).keys())
    except (OSError, ValueError, AttributeError):
        return False


def _kept_config(out: Path) -> dict[str, Any]:
    """Read the configuration of a run, or of one that was being moved aside when the process died."""
    places = [place / CONFIG for place in (out, out / MOVING, out / REPLACED)]
    config: dict[str, Any] = read_json(next((place for place in places if place.is_file()), places[0]))
    return config


def _is_empty(out: Path) -> bool:
    """Return True if the directory is empty, apart from leftovers of a process that was killed before it began."""
    if not out.is_dir():
        return not out.exists()
    return all(path.name == LOCK or (path.is_file() and is_leftover(path.name)) for path in out.iterdir())


def _require_inputs_outside(out: Path, config: Mapping[str, Any]) -> None:
    for path in named_paths(config):
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{str(path)!r} lies in out={str(out)!r}, which --overwrite removes; choose another out")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a directory, which is released if the process dies.

    A new directory that stays empty is removed.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FileExistsError(f"out={str(out)!r} is in use by another process; wait, or choose another out") from None
    except NotImplementedError:  # a file system without locks, such as some network ones
        print(f"warning: the file system of {str(out)!r} has no locks; let no second process write there")
    try:
        yield
    finally:
        if made and all(path.name == LOCK for path in out.iterdir()):
            with suppress(OSError):  # a parent directory is no longer empty
                (out / LOCK).unlink(missing_ok=True)  # while we hold it; later it might be another process's
                for path in made:
                    path.rmdir()
        lock.release()


# --- beginning and replacing a run -----------------------------------------------------------------------------


def begin_run(out: Path, config: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write the configuration of a new run, with the fingerprints of its inputs.

    With ``overwrite`` an existing run is kept aside until :func:`first_result`.
    """
    out.mkdir(parents=True, exist_ok=True)
    if overwrite:
        _move_aside(out)
    write_json(out / CONFIG, {**config, "inputs": fingerprints(config), "versions": versions()})


def first_result(out: Path) -> None:
    """Mark a new run as working: the run that it replaces is removed."""
    if (out / REPLACED).is_dir():
        remove_directory(out / REPLACED)


def _move_aside(out: Path) -> None:
    """Move a directory's contents into a folder inside it, which works for mount points and the current folder too.

    If an older run is there already, the present one never had results, and is removed.
    """
    if (out / REPLACED).is_dir():
        _remove(_entries(out))
        return
    if entries := _entries(out):
        # Two names record the progress of a killed process: entries in MOVING go back one by one, while
        # REPLACED, set by one rename, is complete.
        (out / MOVING).mkdir()
        for entry in entries:
            entry.rename(out / MOVING / entry.name)
        (out / MOVING).rename(out / REPLACED)


def _put_back(out: Path) -> None:
    """Restore a replaced run in place of one that never had results."""
    if (out / REPLACED).is_dir():
        _remove(_entries(out))
        (out / REPLACED).rename(out / MOVING)
        _move_back(out)


def _move_back(out: Path) -> None:
    for entry in (out / MOVING).iterdir():
        entry.rename(out / entry.name)
    (out / MOVING).rmdir()


def _settle(out: Path) -> None:
    """Clean up after a killed process."""
    settle_all(out)
    if (out / MOVING).is_dir():
        _move_back(out)
    if (out / REPLACED).is_dir() and not (out / CONFIG).is_file():
        _put_back(out)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return a file's identity, which changes if it is replaced; None if it does not exist."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _has_worked(out: Path) -> bool:
    """Return True if a run, or a stage of it, has sampled."""
    return any(REPLACED not in path.parts for path in out.rglob("samples.jsonl"))


def _entries(out: Path) -> list[Path]:
    """Return a directory's contents except lock and replaced run; the configuration first, as it marks the run."""
    found = [path for path in out.iterdir() if path.name not in (LOCK, MOVING, REPLACED)]
    return sorted(found, key=lambda path: (path.name != CONFIG, path.name))


def _remove(entries: Sequence[Path]) -> None:
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


# --- settings and files of a run -------------------------------------------------------------------------------


def settings_of(config: Any) -> dict[str, Any]:
    """Return a command's settings as ``config.json`` keeps them, without ``out``, ``overwrite`` and ``resume``."""
    # Where a run lies and how it was started do not affect its numbers.
    kept = {name: value for name, value in asdict(config).items() if name not in ("out", "overwrite", "resume")}
    plain: dict[str, Any] = _plain(kept)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def begun_with(config: Any) -> dict[str, Any] | None:
    """Return the settings of the run to resume, by name, with defaults of later ones; None without a run."""
    if not (config.resume and is_run(config.out)):
        return None
    return {**LATER, **by_name(_kept_config(config.out))}


def as_begun(config: Config) -> Config:
    """Return a command's settings.

    If a run is resumed, settings in LATER that were left at their defaults are the run's.
    """
    begun = begun_with(config)
    if begun is None:
        return config
    given: Any = config
    left = [f.name for f in fields(given) if f.name in LATER and getattr(given, f.name) == f.default]
    made: Config = replace(given, **{name: begun[name] for name in left})
    return made


def read_kept(path: Path) -> dict[str, Any]:
    """Read a JSON object that the run keeps; an empty one if the file does not exist yet.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, expected an object")
    return content


def read_kept_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON Lines file that the run keeps; none if it does not exist yet.

    Raises:
        ValueError: the file is damaged; the message names it and the line.
    """
    rows = read_json_lines(path) if path.exists() else []
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is damaged: it holds {type(row).__name__}, expected an object")
    return [row for _, row in rows]
