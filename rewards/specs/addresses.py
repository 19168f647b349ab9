"""Parsing of the directory in a reward specification such as ``rm:DIR,too_long=truncate,0.5``.

This module imports nothing heavy, so that the command line can use it before torch is loaded.
"""

from __future__ import annotations

import re

PREFIXES = ("rm", "clf", "tamer")
"""Prefixes of rewards that are loaded from a directory: a reward model, a classifier, or a model of feedback."""


def model_directory(text: str) -> str | None:
    """Return the directory in ``rm:DIR`` and the like, with or without options and weight; None for other rewards."""
    kind, colon, rest = text.partition(":")
    return split_address(rest)[0] if colon and kind in PREFIXES else None


def split_address(rest: str) -> tuple[str, list[str]]:
    """Split the text after the prefix into a directory's name and the options and weights that follow it.

    A part that is neither an option nor a number belongs to the name.
    """
    first, *parts = rest.split(",")
    # A directory's name may hold commas, so the split is at the last part that cannot be an option or a weight.
    last = max((i for i, part in enumerate(parts, start=1) if not _is_setting(part)), default=0)
    return ",".join([first, *parts[:last]]), parts[last:]


def split_options(text: str) -> tuple[str, list[str]]:
    """Split a reward of the shelf into what stands before its options, and the options and weights.

    After the first option a part that is neither an option nor a number goes on with the option before it, so that a
    pattern may hold commas.
    """
    first, *parts = text.split(",")
    begun = next((i for i, part in enumerate(parts) if re.match(r"[A-Za-z_]+=", part)), len(parts))
    name, settings = split_address(",".join([first, *parts[:begun]]))
    for part in parts[begun:]:
        if _is_setting(part):
            settings.append(part)
        else:
            settings[-1] += f",{part}"
    return name, settings


def quoted(text: str) -> str:
    """Return a specification for a message: without what may be a key, should somebody write one in it."""
    bare = re.sub(r"((?:key|token|secret|password)=)(?![A-Z_][A-Z_0-9]{0,30}(?:,|$))[^,]*", r"\1…", text, flags=re.I)
    return repr(re.sub(r"(?<=//)[^/@\s]*@", "…@", bare))


def _is_setting(part: str) -> bool:
    if re.match(r"[A-Za-z_]+=", part):
        return True
    try:
        float(part)
    except ValueError:
        return False
    return True
