"""Published settings, a YAML file each: ``textgym train --preset rl4lms/imdb-ppo``.

A folder is a source and a file is a run. A file's comments say where each number stands, and what ``textgym`` does
otherwise.
"""

from __future__ import annotations

from pathlib import Path

from textgym.names import suggest

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Return the names of all presets, in alphabetical order."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def preset_file(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        ValueError: there is no such preset; the nearest is named.
    """
    known = preset_names()
    if name not in known:
        hint = suggest(name, known, after=" ")
        raise ValueError(f"preset={name!r} is unknown; {hint}Known: {', '.join(known)}")
    return FOLDER / f"{name}.yaml"
