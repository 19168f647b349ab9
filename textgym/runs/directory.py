"""The directory of a run: whether it may begin or go on there, and the settings that it keeps."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from textgym.files import read_json, read_json_lines, remove_directory, write_json
from textgym.rewards.addresses import model_directory

CHECKPOINT = "checkpoint"


NAMELESS = ("hyperparameters", "settings")  # parts whose settings are called by their own names


LATER: Mapping[str, Any] = {
    "bad_rows": "error",
    "special_tokens": "parse",
    "skip_special_tokens": True,
    "warmup_iterations": 0,
}
"""Settings that came later, with the values that mean what was done before: those of runs that do not have them."""


PACKAGES = ("textgym", "torch", "transformers", "gymnasium", "stable-baselines3", "accelerate", "numpy")


Config = TypeVar("Config")


def model_source(source: str) -> str:
    """Where a model lies: a run's directory stands for its checkpoint."""
    checkpoint = Path(source) / CHECKPOINT
    return str(checkpoint) if checkpoint.is_dir() else source


def versions() -> dict[str, str]:
    """What made the numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def settings_of(config: Any) -> dict[str, Any]:
    """A command's dataclass as ``config.json`` keeps it; where the run stands and how it was begun is left out."""
    kept = {name: value for name, value in asdict(config).items() if name not in ("out", "overwrite", "resume")}
    plain: dict[str, Any] = _plain(kept)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def begun_with(config: Any) -> dict[str, Any] | None:
    """The settings of the run that a command is to resume, by name, with those that came later; None without one."""
    if not (config.resume and _is_run(config.out)):
        return None
    return {**LATER, **_flat(read_json(config.out / "config.json"))}


def as_begun(config: Config) -> Config:
    """A command's settings; in a run to resume, those of :data:`LATER` that stand at their defaults are the run's."""
    begun = begun_with(config)
    if begun is None:
        return config
    given: Any = config
    left = [f.name for f in fields(given) if f.name in LATER and getattr(given, f.name) == f.default]
    made: Config = replace(given, **{name: begun[name] for name in left})
    return made


def check_run(out: Path, config: Mapping[str, Any], overwrite: bool, resume: bool) -> bool:
    """Whether a run may begin or go on in a directory; nothing is written.

    Returns:
        Whether there is a checkpoint to continue from.

    Raises:
        FileExistsError: something stands there and neither ``overwrite`` nor ``resume`` is set, or it is no run.
        ValueError: the run to resume had other settings, which are named; or the run to overwrite holds what this one
            reads.
    """
    if not run_to_resume(out, overwrite, resume):
        require_inputs_outside(out, config)
        return False
    _require_equal(read_json(out / "config.json"), dict(config), out)
    cut_off = next(out.glob(f".{CHECKPOINT}.*"), None)
    if cut_off is not None and not (out / CHECKPOINT).is_dir():
        raise ValueError(
            f"the run was killed while a checkpoint was replaced; the older one is in {str(cut_off / 'old')!r}: rename "
            f"it to {str(out / CHECKPOINT)!r}"
        )
    if not (out / CHECKPOINT).is_dir():
        print(f"--resume: {str(out)!r} has no checkpoint yet")
    return (out / CHECKPOINT).is_dir()


def run_to_resume(out: Path, overwrite: bool, resume: bool) -> bool:
    """Whether a run stands in a directory and is to be continued; nothing is written.

    Raises:
        FileExistsError: something stands there and neither ``overwrite`` nor ``resume`` is set, or it is no run.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        if resume:
            print(f"--resume: nothing stands in {str(out)!r}, so the run begins anew")
        return False
    is_run = _is_run(out)
    if not (is_run and (overwrite or resume)):
        mend = "pass --overwrite to replace it or --resume to continue it" if is_run else "choose another directory"
        raise FileExistsError(f"out={str(out)!r} exists and {'is a run' if is_run else 'is not a run'}; {mend}")
    return resume


def require_inputs_outside(out: Path, config: Mapping[str, Any]) -> None:
    """ValueError where a setting names a file or directory inside the one that is overwritten."""
    for value in _flat(config).values():
        for text in value if isinstance(value, list | tuple) else [value]:
            path = _path_in(text) if isinstance(text, str) else None
            if path is not None and path.resolve().is_relative_to(out.resolve()):
                raise ValueError(
                    f"{str(path)!r} lies in out={str(out)!r}, which --overwrite removes; choose another out"
                )


def _path_in(text: str) -> Path | None:
    """The path that a setting names, alone or as in 'rm:DIR' and 'file.py:function', with or without ',weight'."""
    bare = model_directory(text) or text.partition(",")[0]
    named = (Path(part) for part in (text, bare, bare.rpartition(":")[0]) if part)
    return next((path for path in named if path.exists()), None)


def _is_run(out: Path) -> bool:
    """Whether this command made the directory; a model's directory also holds a config.json."""
    try:
        return bool({"command", "versions"} <= read_json(out / "config.json").keys())
    except (OSError, ValueError, AttributeError):
        return False


def begin_run(out: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the directory of a new run; with ``overwrite`` the run that :func:`check_run` found there is removed."""
    if overwrite and out.is_dir():
        remove_directory(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", {**config, "versions": versions()})


def _require_equal(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """A run goes on with the settings it began with, or its numbers would mean nothing."""
    difference = changed_settings(old, new)
    if difference:
        raise ValueError(f"--resume of {str(out)!r} with other settings ({difference}); repeat the run's own settings")


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between the settings that a run began with and others, in words; empty where nothing does."""
    here = _comparable(json.loads(json.dumps(new)))
    there = {name: value for name, value in LATER.items() if name in here} | _comparable(old)
    changed = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    return ", ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in changed)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, equal where they mean the same."""
    found = _flat(config)
    return {**found, "target_kl": found.get("target_kl") or None}  # no bound is 0 or None


def _flat(config: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Settings by the names that the command line has for them, those of a part after its name and a dot."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(value, dict):
            found[part + name] = value
        elif name != "versions":  # which are no settings
            found |= _flat(value, part if name in NAMELESS else f"{part}{name}.")
    return found


def read_kept(path: Path) -> dict[str, Any]:
    """Return a JSON object that the run keeps; an empty one where the file does not exist yet."""
    content: dict[str, Any] = read_json(path) if path.exists() else {}
    return content


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file that the run keeps; none where it does not exist yet."""
    return [row for _, row in read_json_lines(path)] if path.exists() else []
