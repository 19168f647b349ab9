"""Checks of a command's settings that need no model: they are done before torch and transformers are loaded."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from textgym.runs.directory import run_to_resume
from textgym.runs.services import check_services


def check_early(config: Any) -> None:
    """Check that the files that a command is to read exist, and that its run may begin or go on in its directory.

    Args:
        config: the settings of a command.

    Raises:
        FileNotFoundError: a file or directory of the settings does not exist; the setting is named.
        ValueError: a service that metrics are to be sent to cannot get them.
        FileExistsError: ``out`` is not empty, and neither ``overwrite`` nor ``resume`` is set.
    """
    for name, path in _inputs(config):
        if not path.exists():
            raise FileNotFoundError(f"{name}={str(path)!r}: no such file or directory")
    check_services(getattr(config, "log", ()))
    if hasattr(config, "overwrite"):
        run_to_resume(config.out, config.overwrite, getattr(config, "resume", False))


def _inputs(config: Any) -> list[tuple[str, Path]]:
    """Return the settings of type Path that are read, with their names; several of a name one by one."""
    values = [(field.name, getattr(config, field.name)) for field in fields(config) if field.name != "out"]
    several = [(name, value if isinstance(value, tuple) else (value,)) for name, value in values]
    return [(name, path) for name, paths in several for path in paths if isinstance(path, Path)]
