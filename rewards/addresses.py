"""Directories in a reward's address, such as ``rm:DIR,too_long=truncate,0.5``. Nothing heavy is imported here."""

from __future__ import annotations

import re

PREFIXES = ("rm", "clf")
"""Prefixes of rewards that are a directory: of a reward model, or of a classifier."""


def model_directory(text: str) -> str | None:
    """Return the directory in ``rm:DIR`` or ``clf:DIR``, with or without options and weight; None for other rewards."""
    kind, colon, rest = text.partition(":")
    return split_address(rest)[0] if colon and kind in PREFIXES else None


def split_address(rest: str) -> tuple[str, list[str]]:
    """Return a directory's name and the options and weights after it: what reads like neither belongs to the name."""
    parts = rest.split(",")
    last = max(i for i, part in enumerate(parts) if i == 0 or not _is_setting(part))
    return ",".join(parts[: last + 1]), parts[last + 1 :]


def _is_setting(part: str) -> bool:
    if re.match(r"[A-Za-z_]+=", part):
        return True
    try:
        float(part)
    except ValueError:
        return False
    return True
