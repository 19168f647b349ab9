"""Numbers, shares and counts in the form that readers see."""

from __future__ import annotations

import math
from typing import Any


def exponent(value: float) -> int:
    """Return the power of ten of the first significant digit: 0 for 3.2, −2 for 0.032."""
    return math.floor(math.log10(abs(value)))


def decimals(uncertainty: float) -> int:
    """Return the decimal places for an uncertainty: two of its digits if it starts with 1 or 2, else one."""
    power = exponent(uncertainty)
    digits = 2 if abs(uncertainty) / 10.0**power < 3 else 1
    return min(max(digits - 1 - power, 0), 5)


def number(value: float | None, places: int | None = None, sign: bool = False) -> str:
    """Return a number as text: three significant digits unless ``places`` is given, and a true minus sign.

    Very small and very large numbers get a power of ten.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if places is None:
        if not 1e-3 <= abs(value) < 1e9 and value:
            power = exponent(value)
            return f"{value / 10.0**power:.2g}e{power}".replace("-", "−")
        places = 0 if value == round(value) else max(2 - exponent(value), 0)
    value = round(value, places) + 0.0  # adding 0.0 makes a plain zero of a negative one
    return f"{value:{'+' if sign else ''},.{places}f}".replace("-", "−")


def is_finite(value: Any) -> bool:
    """Return True for a number that is neither NaN nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


NBSP = "\u00a0"  # keeps a number and its interval on one line


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage."""
    return f"{number(100 * share, 1)}{NBSP}%"


def count_of(count: float, thing: str) -> str:
    """Return a number of things, in the plural unless it is one: ``1 pair``, ``2 pairs``."""
    return f"{number(count)} {thing}{'' if count == 1 else 's'}"
