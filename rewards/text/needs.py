"""Requirements of the rewards of a text: columns of the data, valid options, and optional packages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, get_args

from textgym.names import suggest
from textgym.numbers import SettingError, shown
from textgym.types import completion_text


class ReadsColumn(ABC):
    """A reward that compares each completion with texts in a column of the data.

    A dataclass that inherits it implements :meth:`column` and :meth:`score`.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name in logs."""

    @abstractmethod
    def column(self) -> str:
        """Return the name of the column."""

    @abstractmethod
    def score(self, text: str, given: list[str]) -> float:
        """Score one text against the texts of its row, of which there is at least one."""

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that the data must have, which is checked before training."""
        return (self.column(),)

    def __call__(self, completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        """Score ``N`` completions.

        Raises:
            ValueError: the data lacks the column, or a row of it holds no text.
        """
        rows = values_of(self.name, self.column(), columns)
        texts = [texts_in(self.column(), row) for row in rows]
        return [self.score(completion_text(one), given) for one, given in zip(completions, texts, strict=True)]


def values_of(reward: str, column: str, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    """Return a column's ``N`` values.

    Raises:
        ValueError: there is no such column.
    """
    if column not in columns:
        others = ", ".join(sorted(set(columns) - {"prompts", "completion_ids"})) or "none"
        raise ValueError(
            f"{reward!r} reads the column {column!r}, got the columns {others}; add it to the data, or name another "
            "column in the reward's options"
        )
    return columns[column]


def texts_in(column: str, value: Any) -> list[str]:
    """Return the texts of one row: a text, or a list of at least one text.

    Raises:
        ValueError: the value is neither.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"column {column!r} holds {shown(value)}; expected a text, or a list of at least one text. Rows without "
            "one cannot be scored: remove them from the data"
        )
    return list(texts)


def choice(name: str, value: Any, known: Any) -> None:
    """Reject a value that a ``Literal`` does not list.

    Raises:
        SettingError: it is not one of them.
    """
    values = get_args(known)
    if value not in values:
        hint = suggest(str(value), map(str, values), before="; ")
        raise SettingError(f"{name}={shown(value)}; expected one of {', '.join(map(repr, values))}{hint}")


def require(reward: str, module: str, distribution: str) -> None:
    """Check that an optional package is installed, without importing it.

    Raises:
        ImportError: it is not; the message names the extra that installs it.
    """
    if find_spec(module) is None:
        raise ImportError(
            f"reward {reward!r}: the package {distribution} is not installed; pip install 'textgym[metrics]'"
        )
