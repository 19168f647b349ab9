"""The SQLite file of a labelling task: its schema, and how it is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

APPLICATION = 0x74676C62
"""SQLite's ``application_id`` of these files: "tglb" in ASCII."""
VERSION = 1
"""SQLite's ``user_version``: the version of the schema."""
BUSY = 30.0  # seconds that a writer waits for the others

# Numbers of answers and of undoings come from one sequence, so that the answers in force after event n can be told at
# any later time. ``shared`` and ``again`` are the draws of textgym.labelling.assignment.
SCHEMA = """
CREATE TABLE questions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    prompt TEXT NOT NULL,
    completions TEXT NOT NULL,
    size INTEGER NOT NULL,
    columns TEXT NOT NULL,
    part TEXT NOT NULL,
    shared INTEGER NOT NULL DEFAULT 0,
    again INTEGER NOT NULL DEFAULT 0,
    answered INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX questions_open ON questions (shared, number) WHERE answered = 0 AND size > 1;
CREATE INDEX questions_shared ON questions (shared, number) WHERE size > 1;
CREATE INDEX questions_again ON questions (again, number) WHERE size > 1;
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    question TEXT NOT NULL REFERENCES questions (id),
    labeller TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    content TEXT NOT NULL,
    seconds REAL NOT NULL,
    ranked INTEGER NOT NULL,
    undone INTEGER
);
CREATE UNIQUE INDEX answers_once ON answers (question, labeller, repeat) WHERE undone IS NULL;
CREATE INDEX answers_of ON answers (labeller, number) WHERE undone IS NULL;
CREATE INDEX answers_undone ON answers (undone) WHERE undone IS NOT NULL;
CREATE TABLE watched (
    number INTEGER PRIMARY KEY,
    question TEXT NOT NULL REFERENCES questions (id),
    completion INTEGER NOT NULL,
    labeller TEXT NOT NULL,
    content TEXT NOT NULL,
    UNIQUE (question, completion, labeller)
);
CREATE TABLE leases (question TEXT PRIMARY KEY, labeller TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE draws (seed INTEGER NOT NULL, shared REAL NOT NULL, repeat REAL NOT NULL);
INSERT INTO draws VALUES (0, 0, 0);
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, or create it; no transaction is begun by itself.

    A database of another application, and one of another version, is not changed.

    Raises:
        FileNotFoundError: the directory does not exist.
        ValueError: the file is another database, no database, or has another version of the schema.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{str(path)!r}: no such directory as {str(path.parent)!r}; make it first")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a directory; expected a database of answers")
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        _prepare(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(f"{str(path)!r} cannot be opened: {error}") from error
        raise ValueError(f"{str(path)!r} is no database of answers ({error}); give another file") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _is_ours(connection, path):
        # Two processes may create the file at once, so the second looks again inside of its transaction.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if not _is_ours(connection, path):
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Return True for a database of answers, False for an empty one.

    Raises:
        ValueError: it is another one, or has another version.
    """
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if (application, version, tables) == (0, 0, 0):
        return False
    if application != APPLICATION:
        raise ValueError(f"{str(path)!r} is a database of another program; expected one of textgym's answers")
    if version != VERSION:
        raise ValueError(
            f"{str(path)!r} has version {version} of the schema, this textgym reads version {VERSION}; use the version "
            "of textgym that made it, or another file"
        )
    return True
