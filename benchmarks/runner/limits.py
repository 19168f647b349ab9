"""Limits of an experiment's settings: each ``sweep.py`` states those of its own, which are checked before any run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from textgym.numbers import count, finite

Limit: TypeAlias = Callable[[str, Any], object]
"""Raises ValueError for a value that no run could use; it gets the setting's name and the value."""


def at_least(fewest: int) -> Limit:
    """Return the limit of whole numbers that begin at ``fewest``."""
    return lambda name, value: count(name, value, fewest)


def positive(name: str, value: Any) -> None:
    """Check that a setting is a finite number above 0."""
    finite(name, value, above=0)


def not_negative(name: str, value: Any) -> None:
    """Check that a setting is a finite number of at least 0."""
    finite(name, value, low=0)


def check_limits(settings: Mapping[str, Any], limits: Mapping[str, Limit]) -> None:
    """Check the settings that have limits; None means an algorithm's own value.

    Raises:
        ValueError: a value is outside of its limits; the message names the setting.
    """
    for name, value in settings.items():
        if value is not None and name in limits:
            limits[name](name, value)
