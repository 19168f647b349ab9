"""Parsing of the directory in a reward specification such as ``rm:DIR,too_long=truncate,0.5``.

This module imports nothing heavy, so that the command line can use it before torch is loaded.
"""

from __future__ import annotations

import re

PREFIXES = ("rm", "clf")
"""Prefixes of rewards that are loaded from a directory: a reward model, or a classifier."""


def model_directory(text: str) -> str | None:
    """Return the directory in ``rm:DIR`` or ``clf:DIR``, with or without options and weight; None for other rewards."""
    kind, colon, rest = text.partition(":")
    return split_address(rest)[0] if colon and kind in PREFIXES else None


def split_address(rest: str) -> tuple[str, list[str]]:
    """Split the text after the prefix into a directory's name and the options and weights that follow it.

    A part that is neither an option nor a number belongs to the name.
    """
    parts = rest.split(",")
    # A directory's name may hold commas, so the split is at the last part that cannot be an option or a weight.
    last = max(i for i, part in enumerate(parts) if i == 0 or not _is_setting(part))
    return ",".join(parts[: last + 1]), parts[last + 1 :]


def quoted(text: str) -> str:
    """Return a specification for a message: without what may be a key, should somebody write one in it."""
    bare = re.sub(r"(?<=\bkey=)(?![A-Z_][A-Z_0-9]{0,30}(?:,|$))[^,]*", "…", text)
    return repr(re.sub(r"(?<=//)[^/@\s]*@", "…@", bare))


def _is_setting(part: str) -> bool:
    if re.match(r"[A-Za-z_]+=", part):
        return True
    try:
        float(part)
    except ValueError:
        return False
    return True
