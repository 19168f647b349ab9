"""The files of a run, finished or cut short, as the reports read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from textgym.files import json_lines


def read_run_object(path: Path, needed_by: str = "") -> dict[str, Any]:
    """Return the JSON object of a file; empty if there is no file, unless a function needs it.

    Args:
        path: the file.
        needed_by: the function that cannot do without the file.

    Raises:
        FileNotFoundError: a needed file is missing.
        ValueError: the file holds something else.
    """
    if not path.exists() and not needed_by:
        return {}
    content = json.loads(run_text(path, needed_by))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_run_lines(path: Path, needed_by: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objects of a JSON Lines file, and a notice for each line that is not one.

    A run that was killed leaves half a line behind; that must not cost the report of all that came before.

    Args:
        path: the file.
        needed_by: the function that cannot do without the file; without it a missing file counts as empty.

    Raises:
        FileNotFoundError: a needed file is missing.
    """
    rows: list[dict[str, Any]] = []
    notices: list[str] = []
    if not path.exists() and not needed_by:
        return rows, notices
    for line in json_lines(run_text(path, needed_by), str(path)):
        if isinstance(line.value, dict):
            rows.append(line.value)
        else:
            notices.append(
                f"{path.name}: line {line.number} is not a JSON object and was left out. Was the run cut short?"
            )
    return rows, notices


def run_text(path: Path, needed_by: str) -> str:
    """Return a file's text; if the file is missing, the error names the function that needs it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: give {needed_by} the directory of a run, which holds it")
    return path.read_text(encoding="utf-8", errors="replace")
