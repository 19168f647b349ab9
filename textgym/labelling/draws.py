"""Which questions several people get, and which one person gets again: draws by hash of seed and question."""

from __future__ import annotations

import hashlib
import sqlite3


def draw(seed: int, purpose: str, question: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{question}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def draw_all(connection: sqlite3.Connection, seed: int, shared: float, repeat: float) -> None:
    """Set the shares, and draw all questions anew; call it in a transaction.

    Args:
        connection: a database of answers.
        seed: random seed.
        shared: share of the questions that every labeller gets.
        repeat: share of the questions that their labeller gets again, later.
    """
    if connection.execute("SELECT seed, shared, repeat FROM draws").fetchone() != (seed, shared, repeat):
        connection.execute("UPDATE draws SET seed = ?, shared = ?, repeat = ?", (seed, shared, repeat))
        draw_new(connection, 0)


def draw_new(connection: sqlite3.Connection, after: int) -> None:
    """Draw the questions with numbers above ``after``, at the shares that are set."""
    seed, shared, repeat = connection.execute("SELECT seed, shared, repeat FROM draws").fetchone()
    ids = [which for (which,) in connection.execute("SELECT id FROM questions WHERE number > ?", (after,))]
    connection.executemany(
        "UPDATE questions SET shared = ?, again = ? WHERE id = ?",
        [(draw(seed, "shared", which) < shared, draw(seed, "repeat", which) < repeat, which) for which in ids],
    )
