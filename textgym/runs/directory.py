"""The directory of a run: who may begin or go on there, the settings and inputs that it keeps, and what it replaces."""

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

from textgym.files import is_leftover, read_json, read_json_lines, remove_directory, settle_all, write_json
from textgym.rendering import printable
from textgym.runs.inputs import changed_inputs, fingerprints, named_paths
from textgym.settings import EXTENDED, LATER, MAY_DIFFER, by_name, changed_settings

CHECKPOINT = "checkpoint"
CONFIG = "config.json"
LOCK = ".lock"
MOVING, REPLACED = ".moving", ".replaced"
"""Places of the run that ``--overwrite`` replaces: while it is moved there or back, and once it is there whole."""
BACK = "the run that was to be replaced is back"
"""The note that an exception gets where that is so."""
TOKENS = "total_timesteps"
PACKAGES = ("textgym", "torch", "transformers", "gymnasium", "stable-baselines3", "accelerate", "numpy")

Config = TypeVar("Config")


def model_source(source: str) -> str:
    """Return where a model lies: a run's directory stands for its checkpoint."""
    checkpoint = Path(source) / CHECKPOINT
    return str(checkpoint) if checkpoint.is_dir() else source


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


# --- whether a run may stand there -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """A run's directory, held by this process.

    Attributes:
        resumed: True if there is a checkpoint to go on from.
        tokens_before: tokens that the run was to generate in all until now, where it is to generate more; else None.
    """

    resumed: bool
    tokens_before: int | None = None


@contextmanager
def held(out: Path, config: Mapping[str, Any], overwrite: bool, resume: bool) -> Iterator[bool]:
    """Hold a run's directory for this process alone while the block runs; gives True if a run there is to go on.

    What a killed process left there is put right. If the block begins a run in the place of another and fails before
    anything was measured, the other run comes back; if it fails before :func:`begin_run`, nothing is left.

    Args:
        out: the directory.
        config: the settings, as :func:`begin_run` keeps them.
        overwrite: replace a run that stands there.
        resume: continue it.

    Raises:
        FileExistsError: something stands there and neither is set, it is no run, or another process works there.
        ValueError: the run to overwrite holds what this one reads.
    """
    run_to_resume(out, overwrite, resume)
    with _locked(out):
        _settle(out)
        goes_on = run_to_resume(out, overwrite, resume)
        if overwrite and not goes_on:
            _require_inputs_outside(out, config)
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
    """Hold a run's directory as :func:`held` does, for a command that goes on with the same settings and inputs.

    Raises:
        FileExistsError: as there.
        ValueError: as there; or the run to resume had other settings or inputs, which are named.
    """
    with held(out, config, overwrite, resume) as goes_on:
        standing = _standing(out, config) if goes_on else Standing(resumed=False)
        if resume and not standing.resumed:
            name = repr(printable(str(out)))
            found = f"{name} has no checkpoint yet" if is_run(out) else f"nothing stands in {name}"
            print(f"--resume: {found}, so the run begins anew")
        yield standing


def _standing(out: Path, config: Mapping[str, Any]) -> Standing:
    """Return how a run stands that is to go on; ValueError where settings or inputs are not those it began with."""
    kept = _kept_config(out)
    before, now = kept.get(TOKENS), config.get(TOKENS)
    more = isinstance(before, int) and isinstance(now, int) and now > before
    difference = changed_settings({**kept, TOKENS: now} if more else kept, config)
    if difference:
        less = f". {TOKENS} may grow, not shrink" if f"{TOKENS}: " in difference else ""
        raise ValueError(
            f"--resume of {str(out)!r} with other settings ({difference}); repeat the run's own settings{less}"
        )
    if changed := changed_inputs(kept.get("inputs"), config):
        raise ValueError(
            f"--resume of {str(out)!r}: {changed} is not what the run began with; put it back, or begin anew elsewhere"
        )
    changed_freely = {name: config[name] for name in (*MAY_DIFFER, TOKENS) if name in config}
    if more:
        changed_freely[EXTENDED] = [*kept.get(EXTENDED, ()), before]
    if any(kept.get(name) != plain for name, plain in json.loads(json.dumps(changed_freely)).items()):
        write_json(out / CONFIG, {**kept, **changed_freely})
    return Standing((out / CHECKPOINT).is_dir(), before if more else None)


def run_to_resume(out: Path, overwrite: bool, resume: bool) -> bool:
    """Return whether a run stands in a directory and is to be continued; nothing is written.

    Raises:
        FileExistsError: something stands there and neither ``overwrite`` nor ``resume`` is set, or it is no run.
    """
    if _is_empty(out):
        return False
    known = is_run(out)
    if not (known and (overwrite or resume)):
        mend = "pass --overwrite to replace it or --resume to continue it" if known else "choose another directory"
        raise FileExistsError(f"out={str(out)!r} exists and {'is a run' if known else 'is not a run'}; {mend}")
    return resume


def is_run(out: Path) -> bool:
    """Return True if textgym made the directory; a model's directory also holds a config.json."""
    try:
        return bool({"command", "versions"} <= _kept_config(out).keys())
    except (OSError, ValueError, AttributeError):
        return False


def _kept_config(out: Path) -> dict[str, Any]:
    """Return the configuration of a run, or of the one that was being moved aside when the process died."""
    places = [place / CONFIG for place in (out, out / MOVING, out / REPLACED)]
    config: dict[str, Any] = read_json(next((place for place in places if place.is_file()), places[0]))
    return config


def _is_empty(out: Path) -> bool:
    """Return True if there is nothing but what a process leaves that was killed before it began a run."""
    if not out.is_dir():
        return not out.exists()
    return all(path.name == LOCK or (path.is_file() and is_leftover(path.name)) for path in out.iterdir())


def _require_inputs_outside(out: Path, config: Mapping[str, Any]) -> None:
    for path in named_paths(config):
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{str(path)!r} lies in out={str(out)!r}, which --overwrite removes; choose another out")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a directory, which dies with the process; an empty directory made for it goes again."""
    made = [path for path in (out, *out.parents) if not path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FileExistsError(f"out={str(out)!r} is in use by another process; wait, or choose another out") from None
    except NotImplementedError:  # a file system without locks, as some network ones are
        print(f"warning: the file system of {str(out)!r} has no locks; let no second process write there")
    try:
        yield
    finally:
        if made and all(path.name == LOCK for path in out.iterdir()):
            with suppress(OSError):  # which says that another directory has something by now
                (out / LOCK).unlink(missing_ok=True)  # while it is held, or it might be another process's
                for path in made:
                    path.rmdir()
        lock.release()


# --- beginning one, and replacing another ----------------------------------------------------------------------


def begin_run(out: Path, config: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write the configuration of a new run, with the fingerprints of its inputs.

    With ``overwrite`` the run that stands there is moved aside until :func:`first_result`.
    """
    out.mkdir(parents=True, exist_ok=True)
    if overwrite:
        _move_aside(out)
    write_json(out / CONFIG, {**config, "inputs": fingerprints(config), "versions": versions()})


def first_result(out: Path) -> None:
    """Note that a new run has worked once: the run that it replaces is removed."""
    if (out / REPLACED).is_dir():
        remove_directory(out / REPLACED)


def _move_aside(out: Path) -> None:
    """Move what stands in a directory into one inside of it, which a mount point or the current folder can have, too.

    Where an older run is there already, the newer one never worked, and is removed.
    """
    if (out / REPLACED).is_dir():
        _remove(_entries(out))
        return
    if entries := _entries(out):
        (out / MOVING).mkdir()
        for entry in entries:
            entry.rename(out / MOVING / entry.name)
        (out / MOVING).rename(out / REPLACED)


def _put_back(out: Path) -> None:
    """Bring a replaced run back in the place of one that never worked."""
    if (out / REPLACED).is_dir():
        _remove(_entries(out))
        (out / REPLACED).rename(out / MOVING)
        _move_back(out)


def _move_back(out: Path) -> None:
    for entry in (out / MOVING).iterdir():
        entry.rename(out / entry.name)
    (out / MOVING).rmdir()


def _settle(out: Path) -> None:
    """Put right what a killed process left."""
    settle_all(out)
    if (out / MOVING).is_dir():
        _move_back(out)
    if (out / REPLACED).is_dir() and not (out / CONFIG).is_file():
        _put_back(out)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that took its place; None where there is none."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _has_worked(out: Path) -> bool:
    """Return True if a run, or a stage of it, has drawn its first samples."""
    return any(REPLACED not in path.parts for path in out.rglob("samples.jsonl"))


def _entries(out: Path) -> list[Path]:
    """Return what stands in a directory but lock and replaced run; the configuration first, as it makes it a run."""
    found = [path for path in out.iterdir() if path.name not in (LOCK, MOVING, REPLACED)]
    return sorted(found, key=lambda path: (path.name != CONFIG, path.name))


def _remove(entries: Sequence[Path]) -> None:
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


# --- what it keeps ---------------------------------------------------------------------------------------------


def settings_of(config: Any) -> dict[str, Any]:
    """Return a command's dataclass as ``config.json`` keeps it, without where the run stands and how it was begun."""
    kept = {name: value for name, value in asdict(config).items() if name not in ("out", "overwrite", "resume")}
    plain: dict[str, Any] = _plain(kept)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def begun_with(config: Any) -> dict[str, Any] | None:
    """Return the settings of the run that a command is to resume, by name, with later ones; None without a run."""
    if not (config.resume and is_run(config.out)):
        return None
    return {**LATER, **by_name(_kept_config(config.out))}


def as_begun(config: Config) -> Config:
    """Return a command's settings; in a run to resume, those of LATER that stand at their defaults are the run's."""
    begun = begun_with(config)
    if begun is None:
        return config
    given: Any = config
    left = [f.name for f in fields(given) if f.name in LATER and getattr(given, f.name) == f.default]
    made: Config = replace(given, **{name: begun[name] for name in left})
    return made


def read_kept(path: Path) -> dict[str, Any]:
    """Return a JSON object that the run keeps; an empty one where the file does not exist yet.

    Raises:
        ValueError: the file is damaged; it is named.
    """
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds {type(content).__name__}, expected an object")
    return content


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file that the run keeps; none where it does not exist yet.

    Raises:
        ValueError: the file is damaged; it is named with the line.
    """
    rows = read_json_lines(path) if path.exists() else []
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is damaged: it holds {type(row).__name__}, expected an object")
    return [row for _, row in rows]
