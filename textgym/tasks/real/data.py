"""Data of a real task: read from the hub or a folder, with a check of their columns and first rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from textgym.rows import Place, read_placed_rows
from textgym.tokenization import first_line

Row: TypeAlias = Mapping[str, Any]

CHECKED_ROWS = 100
"""Rows of each split that a checksum covers."""
ANY = "any"
"""Checksum that accepts every data set."""
CONVERTED = "refs/convert/parquet"
"""Branch of the hub with each data set in Parquet: ``datasets`` 4 and later run no loading scripts."""
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Source:
    """Published data set.

    Attributes:
        columns: the columns that the task reads. A dot leads into a column: ``answers.text`` is the list of the texts
            of a list of answers.
        splits: the data set's name of each of the task's splits.
        repo: its id on the hub; None if it is not there.
        config: its configuration; None for the default.
        converted: True if the original is a loading script, so that its Parquet conversion is read; ``config`` is then
            its folder there, None for whichever there is.
        checksum: see :func:`checksum_of`; None if it is not known.
        published: where the data were published, for a message, if they are not on the hub.
    """

    columns: tuple[str, ...]
    splits: Mapping[str, str]
    repo: str | None
    config: str | None = None
    converted: bool = False
    checksum: str | None = None
    published: str = ""

    def open(self, folder: str | Path | None) -> dict[str, Table]:
        """Return the task's splits from a folder, or from the hub if there is none.

        Raises:
            FileNotFoundError: the folder lacks a split.
            ValueError: a split lacks columns, or cannot be read.
        """
        if folder is not None:
            tables = {own: _read_folder(Path(folder), theirs) for own, theirs in self.splits.items()}
        else:
            tables = self._load()
        return {own: replace_rows(table, self.columns) for own, table in tables.items()}

    def _load(self) -> dict[str, Table]:
        if self.repo is None:
            raise ValueError(
                f"these data are not on the hub: pass folder=, with the splits {', '.join(self.splits.values())} and "
                f"the columns {', '.join(self.columns)}. They were published at {self.published}"
            )
        import datasets  # takes seconds to import

        # The branch of conversions has a folder of each configuration, with one of each split. Files are named, as
        # splits would be guessed from the folders' names, and GEM's challenge_train_sample taken for a part of train.
        files = {theirs: f"{self.config or '*'}/{theirs}/*.parquet" for theirs in self.splits.values()}
        settings = {"data_files": files, "revision": CONVERTED} if self.converted else {"name": self.config}
        try:
            loaded = datasets.load_dataset(self.repo, **settings)
        except Exception as error:  # the hub client, pyarrow and fsspec each have their own exception types
            raise ValueError(
                f"{self.repo!r} cannot be loaded from the hub: {type(error).__name__}: {first_line(error)}. Without a "
                "network, pass folder= with its rows"
            ) from error
        if missing := sorted(set(self.splits.values()) - set(loaded)):
            raise ValueError(f"{self.repo!r} has no splits {missing}; it has {sorted(loaded)}")
        return {own: Table(f"{self.repo}, {theirs}", loaded[theirs]) for own, theirs in self.splits.items()}

    def check(self, tables: Mapping[str, Table], expected: str | None) -> str:
        """Check the first rows of all splits against a checksum, and return the one found.

        Args:
            tables: the splits.
            expected: the checksum; None for the known one, if there is one, and ``"any"`` for no check.

        Raises:
            ValueError: the rows have another checksum.
        """
        found = checksum_of(tables)
        expected = self.checksum if expected is None else expected
        if expected not in (None, ANY, found):
            read = " and ".join(table.source for table in tables.values())
            raise ValueError(
                f"checksum={expected!r} is not that of the first {CHECKED_ROWS} rows of {read}: the data are others, "
                f"or have changed. To use these, pass checksum={found!r}, or checksum={ANY!r} for whatever is there"
            )
        return found


@dataclass(frozen=True)
class Table:
    """Rows of a split, read one at a time.

    Attributes:
        source: name for messages.
        rows: the rows; those of the hub stay on disk.
        places: their places; by default numbers from 1.
        columns: the columns to keep; see :func:`pick`.
    """

    source: str
    rows: Sequence[Row] = field(repr=False)
    places: Sequence[Place] | None = field(default=None, repr=False)
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Place, Row]]:
        places = self.places or (Place(self.source, number) for number in range(1, len(self) + 1))
        for place, row in zip(places, self.rows, strict=True):
            yield place, picked(row, self.columns, place)


def replace_rows(table: Table, columns: tuple[str, ...]) -> Table:
    """Return a table of some columns, after a check that its first row has them.

    Raises:
        ValueError: it does not, or there is no row.
    """
    if not len(table):
        raise ValueError(f"{table.source} is empty; expected at least one row")
    made = Table(table.source, table.rows, table.places, columns)
    next(iter(made))
    return made


# --- columns ---------------------------------------------------------------------------------------------------


def pick(value: Any, path: str) -> Any:
    """Return what a path of names leads to; the names of a list are those of its members.

    >>> pick({"answers": [{"text": "Mark"}, {"text": "He is"}]}, "answers.text")
    ['Mark', 'He is']
    >>> pick({"answers": {"text": ["Mark", "He is"]}}, "answers.text")  # as Parquet has it
    ['Mark', 'He is']

    Raises:
        KeyError: there is no such name.
    """
    for name in path.split("."):
        value = [_member(each, name) for each in value] if isinstance(value, list) else _member(value, name)
    return value


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise KeyError(name)
    return value[name]


def picked(row: Row, columns: Sequence[str], place: Place) -> Row:
    """Return the values of some columns by their paths.

    Raises:
        ValueError: columns are missing; the message names them, and those that are there.
    """
    found: dict[str, Any] = {}
    missing = []
    for column in columns:
        try:
            found[column] = pick(row, column)
        except KeyError:
            missing.append(column)
    if missing:
        raise ValueError(
            f"{place}: no column {', '.join(map(repr, missing))}; there are {', '.join(sorted(row)) or 'none'}. "
            f"Expected {', '.join(columns)}, as on the hub"
        )
    return found


def checksum_of(tables: Mapping[str, Table]) -> str:
    """Return the SHA-256 of the first 100 rows of all splits, each in canonical JSON with the columns that are read."""
    digest = hashlib.sha256()
    for split in sorted(tables):
        digest.update(f"{split}\n".encode())
        for _, row in islice(tables[split], CHECKED_ROWS):
            canonical = json.dumps(row, sort_keys=True, separators=(",", ":"))
            digest.update(f"{canonical}\n".encode())
    return digest.hexdigest()


# --- folders ---------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, split: str) -> Table:
    """Read a split: JSON Lines, Parquet (in one file, or in several), or a directory that ``datasets`` saved.

    Raises:
        FileNotFoundError: there is no file of the split.
        ValueError: there are several kinds of files, or one cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r}: no such directory")
    kinds = [kind for kind in _candidates(folder, split) if kind]
    if not kinds:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise FileNotFoundError(
            f"folder={str(folder)!r} has no split {split!r}: expected {split}.jsonl, {split}.parquet, "
            f"{split}-*.parquet, {split}/*.parquet, or {split}/ as saved by datasets; there is {there}"
        )
    if len(kinds) > 1:
        names = ", ".join(kind[0].relative_to(folder).as_posix() for kind in kinds)
        raise ValueError(f"folder={str(folder)!r} has the split {split!r} more than once: {names}; keep one")
    read = [read_placed_rows(path) for path in kinds[0]]
    rows = {place: row for part in read for place, row in part.items()}
    return Table(str(kinds[0][0] if len(kinds[0]) == 1 else folder / split), [*rows.values()], [*rows])


def _candidates(folder: Path, split: str) -> list[list[Path]]:
    """Return the files of a split, for each kind of files that could hold it."""
    single = [[path] for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    saved = [folder / split] if (folder / split / "state.json").is_file() else []
    parts = [sorted(folder.glob(f"{split}-*.parquet")), sorted((folder / split).glob("*.parquet"))]
    return [*single, saved, *parts]
