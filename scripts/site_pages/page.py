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


def readable(html: str) -> str:
    """Return a page without the marks of reStructuredText that docstrings hold.

    Roles such as ``:class:`~textgym.env.TokenEnv``` become links where the API has the name, and code elsewhere; ``::``
    before a listing becomes a colon.
    """

    def linked(found: re.Match[str]) -> str:
        short, name = found.groups()
        shown = f"<code>{name.rpartition('.')[2] if short else name}</code>"
        return f'<autoref optional identifier="{name}">{shown}</autoref>' if name.startswith("textgym.") else shown

    plain = re.sub(r":(?:class|meth|func|attr|data|mod|exc):<code>(~?)([^<]+)</code>", linked, html)
    return re.sub(r"::</p>(?=\s*<(?:div|pre))", ":</p>", plain)
