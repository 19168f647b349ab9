"""Numbers and words that settings hold: checked where they are given, and refused by name.

A bool is no number, 2.5 is no count, and infinity is neither. Scalars of NumPy and torch become Python's own numbers,
so that a setting can be written into any file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

LARGEST = 2**63 - 1
"""The largest count: arrays have no longer index."""
LARGEST_FLOAT = 3.4028234663852886e38
"""The largest number of float32, in which training computes."""
LARGEST_RATE = 1e30
"""The largest learning rate: Adam divides it by as little as 0.1, and the quotient must be a number of float32."""
LARGEST_SEED = 2**32 - 1
"""The largest seed that all generators take."""
LONGEST_WAIT = 1e9
"""The longest time limit, in seconds; threads cannot wait much longer."""
MOST_TOKENS = 2**24
"""The largest size of a prompt, a response and a vocabulary; no model has one near it."""
TEMPERATURES = {"low": 1e-6, "high": 1e6}
"""Beyond these, a quotient of logits leaves float32, or all tokens are equally probable."""


class SettingError(ValueError):
    """A setting has a value without meaning; the message names it."""


def count(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Return a whole number; 8.0 is one, too.

    Args:
        name: of the setting, for the message.
        value: a number of Python, NumPy or torch.
        least: the smallest that is meant.
        most: the largest.

    Raises:
        SettingError: it is none, or lies outside.
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
        name: of the setting, for the message.
        value: a number of Python, NumPy or torch.
        low: the smallest that is meant.
        high: the largest.
        above: a bound that the number must exceed.
        below: a bound that it must not reach.

    Raises:
        SettingError: it is none, or lies outside.
    """
    number = math.nan
    if (found := plain(value)) is not None:
        with suppress(OverflowError):
            number = float(found)
    if not (low <= number <= high and above < number < below):
        sayable = (
            ("at least", low, low > -LARGEST_FLOAT or number < low),
            ("more than", above, above > -math.inf),
            ("at most", high, high < LARGEST_FLOAT or number > high),
            ("less than", below, below < math.inf),
        )
        limits = " and ".join(f"{words} {bound:g}" for words, bound, said in sayable if said)
        raise SettingError(f"{name}={shown(value)}; expected a finite number{limits and ', '}{limits}")
    return number


def random_seed(name: str, value: Any) -> int:
    """Return a random seed: a whole number from 0 to 2³² − 1.

    Raises:
        SettingError: it is none.
    """
    return count(name, value, 0, LARGEST_SEED)


def check(settings: Any, rule: Callable[..., Any], *names: str, **limits: Any) -> None:
    """Put some numbers of a dataclass to a rule, and keep what the rule returns.

    Args:
        settings: the dataclass, frozen or not.
        rule: such as :func:`count` or :func:`finite`.
        names: of the fields.
        limits: for the rule.

    Raises:
        SettingError: a field breaks the rule.
    """
    for name in names:
        object.__setattr__(settings, name, rule(name, getattr(settings, name), **limits))


def check_given(settings: Any, rule: Callable[..., Any], *names: str, **limits: Any) -> None:
    """Do the same as :func:`check`, but for fields that are None."""
    check(settings, rule, *(name for name in names if getattr(settings, name) is not None), **limits)


def check_words(settings: Any, *names: str) -> None:
    """Refuses fields that are empty words, as an unset variable of a shell leaves them; None is none.

    Raises:
        SettingError: a field is empty, or white space alone.
    """
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str) and not value.strip():
            raise SettingError(f"{name}={value!r} is empty; leave the setting out, or give it a value")


def plain(value: Any) -> int | float | None:
    """Return the number as Python's int or float; None for what is no number, such as True."""
    if not isinstance(value, int | float) and hasattr(value, "item"):
        with suppress(Exception):  # an array of several numbers has no item, and a tensor may have no memory
            value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    with suppress(OverflowError):  # of a fraction
        return int(value) if isinstance(value, Integral) else float(value)
    return None


def shown(value: Any) -> str:
    """Return the beginning of a value's ``repr``; of a very large integer, how many digits it has."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"{'−' if value < 0 else ''}10^{int(value.bit_length() * math.log10(2))}"
    try:
        return f"{value!r:.80}"
    except Exception:  # a foreign object's repr may raise anything
        return f"something of type {type(value).__name__}"
