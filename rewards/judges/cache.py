"""Answers of a server on disk, so that a run repeats without asking again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

NAME = "answers.sqlite"
"""Name of the cache in a directory."""

BUSY = 60.0  # seconds to wait for another process that writes; a write takes about a millisecond

_TABLE = "CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"


def digest(request: Any) -> str:
    """Return the SHA-256 of a request, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """Answers by the digest of their requests, in an SQLite file that several processes may share.

    An answer is in the file once :meth:`put` returns, and survives a process that is killed. SQLite's write-ahead log
    lets processes read while one writes; it needs a disk of this machine, not one of the network.

    Args:
        path: the file, or a directory, in which it is called ``answers.sqlite``.
        replay: open a file that exists, and write nothing.

    Raises:
        ValueError: the file cannot be opened, or is no such cache.
    """

    def __init__(self, path: Path, replay: bool = False) -> None:
        self.path = path / NAME if path.is_dir() else path
        if replay and not self.path.is_file():
            raise ValueError(
                f"replay=True answers from the cache alone, but there is no file {str(self.path)!r}; expected the "
                "cache of an earlier run"
            )
        try:
            self._file = self._opened(replay)
        except sqlite3.Error as error:
            raise ValueError(
                f"cache={str(path)!r} cannot be {'read' if replay else 'written'} ({error}); expected a cache of "
                "answers, a new file in a directory that exists, or such a directory"
            ) from error

    def _opened(self, replay: bool) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode={'ro' if replay else 'rwc'}"
        file = sqlite3.connect(address, timeout=BUSY, isolation_level=None, uri=True)
        try:
            if not replay:
                # The log stays the file's mode once it is set. A killed process loses nothing with NORMAL; of a machine
                # that loses power, the last answers may be missing, and are asked for again.
                file.execute("PRAGMA journal_mode = WAL")
                file.execute("PRAGMA synchronous = NORMAL")
                file.execute(_TABLE)
            file.execute("SELECT answer FROM answers LIMIT 0")
        except BaseException:
            file.close()
            raise
        return file

    def get(self, key: str) -> str | None:
        """Return the answer to a request; None if there is none."""
        row = self._file.execute("SELECT answer FROM answers WHERE request = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str, instead: str | None = None) -> str:
        """Keep the answer to a request unless there is one, and return the one that is kept.

        All who ask then go by one answer, also where two processes ask the same at the same time: what they computed
        with is what a replay finds.

        Args:
            key: digest of the request.
            answer: the new answer.
            instead: an answer that the new one replaces, as it could not be read.
        """
        self._file.execute(
            "INSERT INTO answers VALUES (?, ?) ON CONFLICT DO UPDATE SET answer = excluded.answer WHERE answer = ?",
            (key, answer, instead),
        )
        return self.get(key) or answer

    def close(self) -> None:
        """Close the file."""
        self._file.close()
