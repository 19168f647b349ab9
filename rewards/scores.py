"""Conversion of a reward's return value to scores for training: floats that float32 can hold, or None."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import torch

from textgym.numbers import LARGEST_FLOAT
from textgym.types import Score


def as_list(result: Any, count: int) -> list[Any]:
    """Return the ``count`` entries of a list, a tuple, an array or a tensor.

    Raises:
        TypeError, ValueError: the value is none of these, has a different number of entries, or cannot be read.
    """
    try:
        values = _plain(result)
    except ValueError as error:
        raise ValueError(f"must return a list with one score for each completion, {error}") from error
    if not isinstance(values, list | tuple):
        raise TypeError(
            f"must return a list with one score for each completion, got {type(result).__name__}: {shown(result)}"
        )
    if len(values) != count:
        raise ValueError(
            f"must return one score for each of the {count} completions, got {len(values)}; give None where it does "
            "not apply"
        )
    return list(values)


def as_score(value: Any, tokens: int) -> Score:
    """Convert one entry to a score: a float, a list of ``tokens`` floats, or None.

    Raises:
        TypeError, ValueError: the value is not a number that float32 can hold, cannot be read, or is a list of the
            wrong length.
    """
    if type(value) is float:  # the common case, kept fast
        return trainable(value)
    value = _plain(value)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        return as_number(value)
    if len(value) != tokens:
        raise ValueError(f"a dense score has one number for each sampled token, expected {tokens}, got {len(value)}")
    return [as_number(entry) for entry in value]


def as_number(value: Any) -> float:
    """Return a float that float32 can hold.

    Raises:
        TypeError, ValueError: the value is no such number.
    """
    value = _plain(value)
    if not isinstance(value, numbers.Real | np.bool_):
        raise TypeError(f"expected a number, a list of numbers or None, got {type(value).__name__}: {shown(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(
            f"expected a finite number, got one of type {type(value).__name__} that is too large for a float"
        ) from error
    return trainable(number)


def trainable(number: float) -> float:
    """Return the number if float32 can hold it.

    Raises:
        ValueError: it is NaN, infinite, or beyond float32.
    """
    if not abs(number) <= LARGEST_FLOAT:  # negated, so that NaN is rejected too
        why = f", which float32 cannot hold (at most {LARGEST_FLOAT:.2g})" if math.isfinite(number) else ""
        raise ValueError(f"expected a finite number, got {number}{why}")
    return number


def shown(value: Any) -> str:
    """Return the beginning of a value's ``repr``, if it has one."""
    try:
        return f"{value!r:.200}"
    except Exception:  # e.g. for an integer of thousands of digits
        return "(cannot be shown)"


def _plain(value: Any) -> Any:
    """Convert arrays and tensors to Python numbers and lists; other values are returned unchanged."""
    if not isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value
    try:
        return value.tolist()
    except (RuntimeError, TypeError) as error:  # a tensor on the meta device has no numbers, a sparse one no list
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"got a {type(value).__name__} that cannot be read ({reason}); return numbers, or a dense tensor"
        ) from error
