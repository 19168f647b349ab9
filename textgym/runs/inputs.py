"""Inputs of a run: the files and directories that its settings name, and their fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from textgym.files import fingerprint
from textgym.reports.settings import flat
from textgym.rewards.specs.addresses import model_directory, split_address
from textgym.rewards.specs.shelf import shelf_names

FILES = (
    "prompts",
    "validation",
    "data",
    "demonstrations",
    "preferences",
    "model",
    "reference",
    "value",
    "pretraining",
    "against",
    "fixed_model",
    "paraphrases",
)
WORDS = ("trunk", "separate", "task", "mini", "without-adapters")  # values of such settings that are not paths
REWARDS = ("reward", "gold", "labeller")
"""Settings that may name an input, by the last part of their name; several rewards are separated by spaces."""


def named_paths(config: Mapping[str, Any]) -> list[Path]:
    """Return the existing files and directories that the settings of a command name, each once."""
    return list(dict.fromkeys(_paths(config)))


def fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """Compute the SHA-256 of each input, by path; for a directory over its files, for a run over its model."""
    return {str(path): _digest(path) for path in named_paths(config)}


def changed_inputs(known: Mapping[str, str] | None, config: Mapping[str, Any]) -> str:
    """Describe the first input that has changed, with both digests; empty if none has.

    Args:
        known: the fingerprints of the run; None for a run of an earlier version, which kept none.
        config: the present settings. A missing input is reported when it is used.
    """
    for path in named_paths(config) if known else []:
        before = (known or {}).get(str(path))
        now = _digest(path)
        if before not in (None, now):
            return f"{str(path)!r} (SHA-256 {before[:12]}… then, {now[:12]}… now)"
    return ""


def reward_path(text: str) -> Path | None:
    """Return the file or directory in a reward specification.

    It is that of 'rm:DIR', of another reward that is made from a file ('json-schema:FILE'), of 'file.py:function' or of
    'module:function'.
    """
    if directory := model_directory(text):
        return Path(directory)
    name, colon, rest = text.partition(":")
    if colon and name in shelf_names():
        return Path(split_address(rest)[0])
    source = text.partition(",")[0].rpartition(":")[0]
    if not source or source.endswith(".py"):
        return Path(source) if source else None
    try:
        found = find_spec(source)
    except (ImportError, ValueError):  # reported when the reward is resolved
        return None
    return Path(found.origin) if found and found.origin else None


def _paths(config: Mapping[str, Any]) -> Iterator[Path]:
    for name, value in flat(config).items():
        kind = name.rpartition(".")[2]
        if not isinstance(value, str) or not value:
            continue
        found = [Path(value)] if kind in FILES and value not in WORDS else []
        if kind in REWARDS:
            found = [path for item in value.split() if (path := reward_path(item))]
        # A value that is no existing path is a hub id or a task's name; those have no fingerprint.
        yield from (path for path in found if _exists(path))


def _digest(path: Path) -> str:
    return fingerprint(path / "checkpoint" if (path / "checkpoint").is_dir() else path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # not a valid file name, for example too long
        return False
