"""Leases: a question that a person looks at is kept for them, so that nobody else is asked it."""

from __future__ import annotations

import sqlite3

LEASE = 120.0  # seconds that a question is kept for a person who does not say that the page is still open


def take_lease(connection: sqlite3.Connection, question: str, labeller: str, now: float) -> None:
    """Keep a question for a labeller for :data:`LEASE` seconds, unless another one holds it; call it in a transaction.

    Args:
        connection: a database of answers.
        question: its id.
        labeller: name of the person.
        now: time in seconds, on one clock for all callers.
    """
    connection.execute(
        "INSERT INTO leases VALUES (:question, :labeller, :until) ON CONFLICT (question) DO UPDATE "
        "SET labeller = excluded.labeller, until = excluded.until "
        "WHERE leases.labeller = excluded.labeller OR leases.until <= :now",
        {"question": question, "labeller": labeller, "until": now + LEASE, "now": now},
    )
