"""Choose who is asked what next: shared questions go to everyone, others to one person, some to the same person twice.

All draws are hashes of seed and question, so that a page that is started again asks as before. Every query goes through
an index: its time grows with the questions that a person has answered of the shared ones, not with the whole set.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np

from textgym.labelling.draws import draw_all
from textgym.labelling.leases import take_lease
from textgym.labelling.store import LabelStore
from textgym.numbers import LARGEST

GAP = 10  # answers of a person between the two answers to a repeated question; fewer where nothing else is left

# The indices are named, as SQLite would not choose the partial one, in which answered questions are not.
OPEN = "questions INDEXED BY questions_open WHERE answered = 0 AND size > 1 AND shared = 0"
FREE = f"{OPEN} AND NOT EXISTS (SELECT 1 FROM leases WHERE question = id AND labeller <> :labeller AND until > :now)"
UNANSWERED = (
    "questions INDEXED BY questions_shared WHERE shared = 1 AND size > 1 AND NOT EXISTS (SELECT 1 FROM answers "
    "WHERE question = id AND labeller = :labeller AND repeat = 0 AND undone IS NULL)"
)
REPEATABLE = (
    "questions INDEXED BY questions_again WHERE again = 1 AND size > 1 AND EXISTS (SELECT 1 FROM answers "
    "WHERE question = id AND labeller = :labeller AND repeat = 0 AND undone IS NULL AND ranked "
    "AND answers.number <= :before) AND NOT EXISTS (SELECT 1 FROM answers "
    "WHERE question = id AND labeller = :labeller AND repeat = 1 AND undone IS NULL)"
)


@dataclass(frozen=True)
class Asked:
    """A question for a labeller.

    Attributes:
        question: its id.
        repeat: 0 for the first time, 1 for the second.
    """

    question: str
    repeat: int = 0


@dataclass(frozen=True)
class Progress:
    """State of one labeller's work.

    Attributes:
        answered: answers in force, skipped questions among them.
        left: questions that this labeller can still be asked, repeats not among them.
        seconds: mean time of an answer; None without answers.
        last: number of the last answer in force; None without answers.
    """

    answered: int
    left: int
    seconds: float | None
    last: int | None


def set_shares(store: LabelStore, shared: float, repeat: float, seed: int) -> None:
    """Set the shares of questions that go to everyone, and to the same person again; also for questions of later.

    Args:
        store: the answers.
        shared: share of the questions that every labeller gets, drawn by ``seed``.
        repeat: share of the questions that a person gets once more, at least :data:`GAP` answers later if possible.
        seed: random seed.
    """
    with store.transaction() as connection:
        draw_all(connection, seed, shared, repeat)


def next_question(store: LabelStore, labeller: str, now: float) -> Asked | None:
    """Return a labeller's next question, and keep it for them; None if there is none.

    It is kept for :data:`~textgym.labelling.leases.LEASE` seconds. Asked again without an answer in between, this
    returns the same question.

    Args:
        store: the answers.
        labeller: name of the person.
        now: time in seconds, on one clock for all callers.
    """
    with store.transaction() as connection:
        given = {"labeller": labeller, "now": now, "before": _gap_ago(connection, labeller)}
        if found := _first(connection, REPEATABLE, given):
            return Asked(found[1], repeat=1)
        new = [row for where in (FREE, UNANSWERED) if (row := _first(connection, where, given))]
        if not new:
            # Nothing is left to come in between, so repeats are due at once.
            found = _first(connection, REPEATABLE, {**given, "before": LARGEST})
            return Asked(found[1], repeat=1) if found else None
        _, own = min(new)
        take_lease(connection, own, labeller, now)
        return Asked(own)


def keep_question(store: LabelStore, labeller: str, question: str, now: float) -> None:
    """Keep a question for another :data:`~textgym.labelling.leases.LEASE` seconds, unless somebody else has it by now.

    Raises:
        ValueError: there is no such question.
    """
    store.question(question)
    with store.transaction() as connection:
        take_lease(connection, question, labeller, now)


def progress(store: LabelStore, labeller: str, now: float) -> Progress:
    """Return how many questions a labeller has answered and can still be asked."""
    ((answered, seconds, last),) = store.rows(
        "SELECT count(*), avg(seconds), max(number) FROM answers WHERE labeller = ? AND undone IS NULL", labeller
    )
    ((unclaimed,),) = store.rows(f"SELECT count(*) FROM {OPEN}")
    # Leases are few, so those of others are counted from their own table, and not for every question.
    ((held,),) = store.rows(
        "SELECT count(*) FROM leases CROSS JOIN questions ON id = question "
        "WHERE answered = 0 AND size > 1 AND shared = 0 AND labeller <> ? AND until > ?",
        labeller,
        now,
    )
    ((shared,),) = store.rows(f"SELECT count(*) FROM {UNANSWERED}", labeller=labeller)
    left = unclaimed - held + shared
    return Progress(answered, left, seconds, last)


def shown_order(seed: int, question: str, labeller: str, repeat: int, size: int) -> tuple[int, ...]:
    """Draw the order in which a labeller sees ``size`` completions; it depends on nothing but the arguments."""
    key = [seed, *(int.from_bytes(text.encode()) for text in (question, labeller)), repeat]
    return tuple(np.random.default_rng(key).permutation(size).tolist())


def next_watched(store: LabelStore, labeller: str) -> tuple[str, int] | None:
    """Return the first question and completion to which a labeller has given no feedback; None if there is none."""
    found = store.rows(
        "SELECT id, size, (SELECT count(*) FROM watched WHERE question = questions.id AND labeller = ?) AS seen "
        "FROM questions WHERE seen < size ORDER BY number LIMIT 1",
        labeller,
    )
    if not found:
        return None
    which = found[0][0]
    done = {
        i for (i,) in store.rows("SELECT completion FROM watched WHERE question = ? AND labeller = ?", which, labeller)
    }
    return which, next(i for i in range(found[0][1]) if i not in done)


def _gap_ago(connection: sqlite3.Connection, labeller: str) -> int:
    """Return the number of the labeller's answer that has :data:`GAP` later ones; 0 if there is none."""
    found = connection.execute(
        "SELECT number FROM answers WHERE labeller = ? AND undone IS NULL ORDER BY number DESC LIMIT 1 OFFSET ?",
        (labeller, GAP),
    ).fetchone()
    return found[0] if found else 0


def _first(connection: sqlite3.Connection, source: str, given: dict[str, object]) -> tuple[int, str] | None:
    """Return number and id of the first question of a source, such as :data:`OPEN`."""
    query = f"SELECT number, id FROM {source} ORDER BY number LIMIT 1"
    found: tuple[int, str] | None = connection.execute(query, given).fetchone()
    return found
