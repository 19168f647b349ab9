"""Templates of what a judge is asked: a text with fields such as ``{prompt}``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgym.files import read_text
from textgym.rewards.functions import RESERVED

FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A field; other braces, as of JSON that the judge shall write, are text."""

_SHOWN = 300  # characters of a value in a message


@dataclass(frozen=True)
class Template:
    """Text with fields, which are filled once: a field within a filled text stays as it is.

    Attributes:
        text: the text.
    """

    text: str

    @classmethod
    def read(cls, path: Path, needed: Collection[str]) -> Template:
        """Read a template from a file.

        Args:
            path: the file.
            needed: fields that it must have.

        Raises:
            ValueError: it cannot be read, lacks a field, or has one with the name of a list.
        """
        try:
            template = cls(read_text(path))
        except OSError as error:
            raise ValueError(f"template={str(path)!r} cannot be read ({error.strerror}); expected a file") from error
        if lacking := [f"{{{name}}}" for name in needed if name not in template.fields]:
            has = ", ".join(f"{{{name}}}" for name in template.fields) or "no field"
            raise ValueError(f"template={str(path)!r} lacks the field {', '.join(lacking)}; it has {has}")
        if listed := [name for name in template.fields if name in RESERVED]:
            raise ValueError(
                f"template={str(path)!r} has the field {{{listed[0]}}}, which is a list; expected {{prompt}}, "
                "{completion} or a column of the data"
            )
        return template

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, each once."""
        return tuple(dict.fromkeys(FIELD.findall(self.text)))

    @property
    def digest(self) -> str:
        """Beginning of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    def filled(self, values: Mapping[str, Any]) -> str:
        """Return the text with its fields filled; see :func:`as_text`."""
        return FIELD.sub(lambda match: as_text(values[match[1]]), self.text)


def as_text(value: Any) -> str:
    """Return a value as text: a conversation with a line for each message, a list of texts with one for each text."""
    if isinstance(value, list | tuple):
        return "\n".join(as_text(one) for one in value)
    if isinstance(value, Mapping) and {"role", "content"} <= value.keys():
        return f"{value['role']}: {value['content']}"
    return str(value)


def described(values: Mapping[str, Any]) -> str:
    """Return values with their names for a message, shortened if they are long."""
    texts = {name: str(value) for name, value in values.items()}
    cut = {name: text if len(text) <= _SHOWN else text[:_SHOWN] + "…" for name, text in texts.items()}
    return "\n".join(f"  {name}: {text!r}" for name, text in cut.items())
