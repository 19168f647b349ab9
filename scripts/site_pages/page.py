"""A page or a file of the site that is generated, and the Markdown that several of them need."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Made:
    """A generated file of the site.

    Attributes:
        uri: its path in the site's sources, such as ``algorithms/PPO.md``.
        content: Markdown, or the bytes of a picture.
    """

    uri: str
    content: str | bytes


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows with the same keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(docstring: str) -> str:
    """Return a docstring as Markdown: roles such as ``:class:`PPO``` become code, ``::`` before a listing a colon."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring)
    return re.sub(r"::\n(?=\n[ ]{4})", ":\n", plain)
