"""Search spaces of settings: the values that tuning draws from, declared beside each algorithm's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol


class Range(Protocol):
    """The values that tuning may give to one setting."""

    def at(self, share: float) -> Any:
        """Return the value at a share of the range, from 0 to below 1."""

    def __contains__(self, value: object) -> bool: ...


@dataclass(frozen=True)
class LogRange:
    """Positive numbers from ``low`` to ``high``, each factor equally likely; drawn with three significant digits."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"low={self.low}, high={self.high}; expected 0 < low < high")

    def at(self, share: float) -> float:
        rounded = float(f"{self.low * (self.high / self.low) ** share:.3g}")
        return min(max(rounded, self.low), self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}, by factors"


@dataclass(frozen=True)
class Choice:
    """A few values, each equally likely."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < 2:
            raise ValueError(f"values={self.values}; expected at least two that differ")

    def at(self, share: float) -> Any:
        return self.values[int(share * len(self.values))]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


Space = Mapping[str, Range]
"""A range for each setting that is tuned, by name."""


def search_space(kind: type) -> dict[str, Range]:
    """Return the search space of a settings class: the ``search`` of all its bases, and its own.

    None in a class takes a setting of its bases out of the space.

    Raises:
        ValueError: a setting is unknown, or its own default, which is the published value, is not within its range.
    """
    declared: dict[str, Range | None] = {}
    for base in reversed(kind.__mro__):
        declared |= vars(base).get("search", {})
    space = {name: values for name, values in declared.items() if values is not None}
    check_space(kind.__name__, space, {field.name: field.default for field in fields(kind)})
    return space


def check_space(whose: str, space: Space, published: Mapping[str, Any]) -> None:
    """Check that a search space holds the published value of each setting, so that tuning may find it.

    Raises:
        ValueError: it does not, or there is no such setting.
    """
    for name, values in space.items():
        if name not in published:
            raise ValueError(f"search space of {whose}: there is no setting {name!r}; it has {', '.join(published)}")
        value = published[name]
        if value is MISSING or value not in values:
            raise ValueError(
                f"search space of {whose}: {name} = {values} leaves out the published value {value!r}; add it, or "
                f"declare search = {{{name!r}: None}} to keep {name} as it is"
            )
