"""Validation of numbers and words in settings; error messages name the setting.

A bool is not a number, 2.5 is not a count, and infinity is neither. Scalars of NumPy and torch become Python numbers,
so that settings can be written to any file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

LARGEST = 2**63 - 1
"""The largest count, which is the largest index of an array."""
LARGEST_FLOAT = 3.4028234663852886e38
"""The largest number of float32, in which training computes."""
LARGEST_RATE = 1e30
"""The largest learning rate: Adam divides it by as little as 0.1, and the quotient must be finite in float32."""
LARGEST_SEED = 2**32 - 1
"""The largest seed that all generators accept."""
LONGEST_WAIT = 1e9
"""The longest time limit, in seconds; threads cannot wait much longer."""
MOST_TOKENS = 2**24
"""The largest size of a prompt, a response and a vocabulary; no model comes near it."""
TEMPERATURES = {"low": 1e-6, "high": 1e6}
"""Limits of temperatures: beyond them logits overflow float32, or all tokens are equally probable."""


class SettingError(ValueError):
    """Invalid value of a setting; the message names the setting."""


def count(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Return a whole number; 8.0 counts as one.

    Args:
        name: the setting's name, for the message.
        value: a number of Python, NumPy or torch.
        least: the smallest valid number.
        most: the largest valid number.

    Raises:
        SettingError: ``value`` is not a whole number, or out of range.
    """
    found = plain(value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not isinstance(found, int) or not least <= found <= most:
        beyond = most < LARGEST or (found is not None and found > most)
        limits = f"from {least} to {most}" if beyond else f"at least {least}"
        raise SettingError(f"{name}={shown(value)}; expected a whole number, {limits}")
    return found


def finite(
    name: str,
    value: Any,
    low: float = -LARGEST_FLOAT,
    high: float = LARGEST_FLOAT,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number.

    Args:
        name: the setting's name, for the message.
        value: a number of Python, NumPy or torch.
        low: the smallest valid number.
        high: the largest valid number.
        above: an exclusive lower bound.
        below: an exclusive upper bound.

    Raises:
        SettingError: ``value`` is not a finite number, or out of range.
    """
    # NaN fails every comparison below, so it represents values that are not numbers.
    number = math.nan
    if (found := plain(value)) is not None:
        with suppress(OverflowError):
            number = float(found)
    if not (low <= number <= high and above < number < below):
        bounds = (
            ("at least", low, low > -LARGEST_FLOAT or number < low),
            ("more than", above, above > -math.inf),
            ("at most", high, high < LARGEST_FLOAT or number > high),
            ("less than", below, below < math.inf),
        )
        limits = " and ".join(f"{words} {bound:g}" for words, bound, is_relevant in bounds if is_relevant)
        raise SettingError(f"{name}={shown(value)}; expected a finite number{limits and ', '}{limits}")
    return number


def random_seed(name: str, value: Any) -> int:
    """Return a random seed: a whole number from 0 to 2³² − 1.

    Raises:
        SettingError: ``value`` is not one.
    """
    return count(name, value, 0, LARGEST_SEED)


def check(settings: Any, rule: Callable[..., Any], *names: str, **limits: Any) -> None:
    """Validate fields of a dataclass with a rule, and replace them by the rule's result.

    Args:
        settings: the dataclass, frozen or not.
        rule: such as :func:`count` or :func:`finite`.
        names: names of the fields.
        limits: keyword arguments of the rule.

    Raises:
        SettingError: a field breaks the rule.
    """
    for name in names:
        # Works on frozen dataclasses too, from their ``__post_init__``.
        object.__setattr__(settings, name, rule(name, getattr(settings, name), **limits))


def check_given(settings: Any, rule: Callable[..., Any], *names: str, **limits: Any) -> None:
    """Validate fields as :func:`check` does, except those that are None."""
    check(settings, rule, *(name for name in names if getattr(settings, name) is not None), **limits)


def check_words(settings: Any, *names: str) -> None:
    """Reject fields that are blank strings, as an unset shell variable leaves them; None is allowed.

    Raises:
        SettingError: a field is empty, or only white space.
    """
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str) and not value.strip():
            raise SettingError(f"{name}={value!r} is empty; leave the setting out, or give it a value")


def plain(value: Any) -> int | float | None:
    """Convert a number to Python's int or float; return None for other values, such as True."""
    if not isinstance(value, int | float) and hasattr(value, "item"):
        with suppress(Exception):  # ``item`` fails for arrays of several numbers and for tensors on the meta device
            value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    with suppress(OverflowError):  # a Fraction may be too large for a float
        return int(value) if isinstance(value, Integral) else float(value)
    return None


def shown(value: Any) -> str:
    """Return the beginning of a value's ``repr``; for a very large integer, its order of magnitude."""
    # Python refuses to print integers of more than 4300 digits.
    if isinstance(value, int) and value.bit_length() > 128:
        return f"{'−' if value < 0 else ''}10^{int(value.bit_length() * math.log10(2))}"
    try:
        return f"{value!r:.80}"
    except Exception:  # a foreign object's repr may raise anything
        return f"something of type {type(value).__name__}"
