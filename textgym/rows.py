"""Rows of data files: reading them, their places for messages, and a record of the rows that are left out."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from textgym.files import JsonLine, json_lines, parse_json, read_text
from textgym.types import Truncation

NO_LIMIT = 10**9
"""``skip_bad`` of runs from versions that left out any number of bad rows."""
SHOWN = 3  # number of bad rows that a message quotes

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """Place of a row in its source.

    Attributes:
        source: the file, or a name of the data for messages.
        row: number of the row, from 1, blank lines left out; None for a line that is not a row.
        line: number of the line in the file, from 1; None if rows are not lines.
    """

    source: str
    row: int | None
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}" if self.row is None else f"{self.source}, row {self.row}"


class BadRowError(ValueError):
    """Unusable row: malformed, blank, with equal completions, or with too many tokens."""


class TooLongError(BadRowError):
    """Row with too many tokens; ``truncation="drop"`` leaves it out without counting it as bad."""


@dataclass(frozen=True)
class Omission:
    """Row that was left out.

    Attributes:
        place: its place.
        reason: the reason.
        dropped: True if it was too long and ``truncation="drop"`` applied; False if it is a bad row.
    """

    place: Place
    reason: str
    dropped: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"

    @property
    def record(self) -> dict[str, Any]:
        """The omission as ``skipped.jsonl`` lists it."""
        where = {"file": self.place.source, "row": self.place.row, "line": self.place.line}
        return {**where, "reason": self.reason, "kind": "dropped" if self.dropped else "bad"}


@dataclass
class Screening:
    """Record of the rows that a command leaves out or shortens.

    Args:
        truncation: treatment of rows with too many tokens.
        skip_bad: number of bad rows that may be left out; None raises at the first one.
    """

    truncation: Truncation = "error"
    skip_bad: int | None = None
    shortened: int = 0
    """Rows whose prompt lost its beginning."""
    # A dict keeps the order and holds each omission once.
    _found: dict[Omission, None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.truncation not in ("error", "left", "drop"):
            raise ValueError(f"truncation={self.truncation!r} is not one of 'error', 'left', 'drop'")
        if self.skip_bad is not None and (isinstance(self.skip_bad, bool) or self.skip_bad < 0):
            raise ValueError(f"skip_bad={self.skip_bad}; expected 0 or more")

    @property
    def omissions(self) -> tuple[Omission, ...]:
        """Rows that were left out, in order; each once, even if a file is read twice."""
        return tuple(self._found)

    @property
    def bad(self) -> list[Omission]:
        """Rows that were left out because they cannot be used."""
        return [omission for omission in self.omissions if not omission.dropped]

    @property
    def dropped(self) -> list[Omission]:
        """Rows with too many tokens, left out by ``truncation="drop"``."""
        return [omission for omission in self.omissions if omission.dropped]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of rows that were left out or shortened, without zeros, keyed as in ``evaluation.json``."""
        found = {"skipped_rows": len(self.bad), "dropped_rows": len(self.dropped), "shortened_rows": self.shortened}
        return {name: count for name, count in found.items() if count}

    @contextmanager
    def row(self, place: Place) -> Iterator[None]:
        """Leave out the row at ``place`` if the block raises :class:`BadRowError`.

        Raises:
            BadRowError: the row is bad, and ``skip_bad`` is None; the message begins with the place.
        """
        try:
            yield
        except BadRowError as error:
            dropped = isinstance(error, TooLongError) and self.truncation == "drop"
            if not dropped and self.skip_bad is None:
                raise type(error)(f"{place}: {error}") from error
            self._found[Omission(place, str(error), dropped)] = None

    def check(self) -> None:
        """Check that no more rows are bad than may be left out.

        Raises:
            BadRowError: names the first bad rows and their number.
        """
        bad, limit = self.bad, self.skip_bad or 0
        if len(bad) <= limit:
            return
        if len(bad) == 1:
            raise BadRowError(f"{bad[0]}. Fix the row, or leave it out with skip_bad=1 (--skip-bad 1)")
        others = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise BadRowError(
            f"{len(bad)} bad rows, more than skip_bad={limit} allows: {'; '.join(map(str, bad[:SHOWN]))}{others}. "
            f"Fix them, or leave them out with skip_bad={len(bad)} (--skip-bad {len(bad)})"
        )

    def require_some(self, kept: Iterable[object], source: str) -> None:
        """Check the number of bad rows, and that at least one row of a source is left.

        Raises:
            BadRowError: see :meth:`check`.
            ValueError: no row is left.
        """
        self.check()
        if not any(True for _ in kept):
            first = next((f". {omission}" for omission in self.omissions if omission.place.source == source), "")
            raise ValueError(f"{source}: no row is left to use{first}")


def placed(rows: Iterable[Value] | Mapping[Place, Value], source: str) -> dict[Place, Value]:
    """Return rows keyed by place: the given places, or numbers from 1."""
    if isinstance(rows, Mapping):
        return dict(rows)
    return {Place(source, number): row for number, row in enumerate(rows, start=1)}


def in_file_order(texts: Mapping[Place, Sequence[str]]) -> list[Sequence[str]]:
    """Return the texts of each row from the first on, with an empty entry for a row that was left out."""
    by_row = {place.row: own for place, own in texts.items() if place.row is not None}
    return [by_row.get(row, ()) for row in range(1, max(by_row, default=0) + 1)]


# --- reading -----------------------------------------------------------------------------------------------


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a data file; see :func:`read_placed_rows`."""
    return list(read_placed_rows(path).values())


def read_placed_rows(path: str | Path, screening: Screening | None = None) -> dict[Place, dict[str, Any]]:
    """Read a data file: JSON Lines, a JSON array of objects, Parquet, or a directory that ``datasets`` saved.

    JSON is read as UTF-8, with or without a byte order mark, and may be compressed by gzip (``.gz``).

    Args:
        path: the file or directory.
        screening: records lines that are not JSON objects; without it they are errors.

    Returns:
        The rows, keyed by place.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: the file cannot be read, a line is not a JSON object (file and line are named), or there is no row.
    """
    path, screening = Path(path), screening or Screening()
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r}: no such file; expected JSON Lines, Parquet or a saved data set")
    if path.is_dir() or path.suffix == ".parquet":
        found = placed(_read_saved(path), str(path))
    else:
        found = _read_json(_read_text(path), str(path), screening)
    if not found:
        raise ValueError(f"{str(path)!r} is empty; expected at least one row")
    return found


def _read_json(text: str, source: str, screening: Screening) -> dict[Place, dict[str, Any]]:
    lines = list(json_lines(text, source))
    if not lines:
        return {}
    found: dict[Place, dict[str, Any]] = {}
    array = _array(text, lines, source)
    if array is not None:
        for place, value in placed(array, source).items():
            with screening.row(place):
                found[place] = _object(value)
    else:
        for row, line in enumerate(lines, start=1):
            with screening.row(Place(source, None, line.number)):
                found[Place(source, row, line.number)] = _object(_parsed(line, source))
    if array is None or array:
        screening.require_some(found, source)
    return found


def _array(text: str, lines: Sequence[JsonLine], source: str) -> list[Any] | None:
    """Return the values of a JSON array; None for JSON Lines.

    Raises:
        ValueError: the text is neither; the message names the line.
    """
    begin, whole = lines[0].text.strip(), lines[0].error is None
    if begin[0] == "[" and (len(lines) == 1 or not whole):
        values: list[Any] = parse_json(text, source)
        return values
    if begin[0] == "{" and not whole and _is_json(text):
        raise ValueError(
            f"{source} holds one JSON object; expected one object a line (JSON Lines), or an array of them"
        )
    return None


def _is_json(text: str) -> bool:
    try:
        parse_json(text, "")
    except ValueError:
        return False
    return True


def _parsed(line: JsonLine, source: str) -> Any:
    if line.error is None:
        return line.value
    said = str(line.error).removeprefix(f"{source}, line {line.number}").removeprefix(" is ").removeprefix(": ")
    raise BadRowError(f"{said}; expected one JSON object a line") from line.error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRowError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _read_text(path: Path) -> str:
    if path.suffix != ".gz":
        return read_text(path)
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not compressed by gzip, or was cut short: {error}") from error


def _read_saved(path: Path) -> list[dict[str, Any]]:
    """Read a Parquet file, or a directory that ``datasets`` saved."""
    try:
        if not path.is_dir():
            import pyarrow.parquet  # slow to import

            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            return rows
        import datasets  # takes seconds to import

        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        raise ValueError(f"{str(path)!r} holds the splits {sorted(data)}; give the directory of one of them")
    return [dict(row) for row in data]
