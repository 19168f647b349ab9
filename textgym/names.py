"""Suggestion of a known name in the place of a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def suggest(
    name: str, known: Iterable[str], *, before: str = "", after: str = "", key: Callable[[str], str] = str
) -> str:
    """Return ``"did you mean 'X'?"`` for the known name that is nearest to an unknown one.

    Args:
        name: the unknown name.
        known: the names to choose from.
        before: text to put in front of a suggestion.
        after: text to append to a suggestion.
        key: the part of a name that is compared, such as ``str.lower``.

    Returns:
        The suggestion between ``before`` and ``after``; an empty string where no name is near.
    """
    compared = {key(one): one for one in known}
    near = difflib.get_close_matches(key(name), compared, n=1)
    return f"{before}did you mean {compared[near[0]]!r}?{after}" if near else ""
