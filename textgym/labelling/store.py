"""Answers of people: one SQLite database, in which an answer is a transaction.

Several processes may read and write one file at once: the page, a learner, a reward trainer. An answer is on the disk
when :meth:`LabelStore.record` returns. Answers that are taken back stay in the file, marked.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from textgym.labelling.database import connect
from textgym.labelling.draws import draw_new
from textgym.prompts import plain_content
from textgym.rewards.labels.labelling import Question
from textgym.types import Messages, Prompt, Ranking

SCORES = (1, 7)
"""The lowest and the highest overall score, as in Ouyang et al. 2022 (arXiv:2203.02155)."""
LONGEST_NAME = 100  # of a labeller, in characters


def question_id(prompt: str | Messages, completions: Sequence[str]) -> str:
    """Return the SHA-256, in hexadecimal, of a prompt and its completions in their order."""
    content = json.dumps([plain_content(prompt), list(completions)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """A labeller's answer to a question of K completions.

    Attributes:
        question: see :func:`question_id`.
        labeller: name of the person.
        order: the order in which the completions were shown: ``order[0]`` is the number of the one that stood first.
        ranks: K ranks, by completion and not by place; 0 for the best, equal ranks are ties. None if skipped.
        skipped: the reason for which the question was skipped; None if it was ranked.
        flags: for each axis, K truth values by completion.
        scores: K overall scores from 1 to 7 by completion, None where none was given.
        seconds: time that the question was looked at.
        repeat: 0 for the first answer of this labeller to this question, 1 when it was asked again.
        number: place in the order of arrival, from 1; the store sets it, and it is not compared.
    """

    question: str
    labeller: str
    order: tuple[int, ...]
    ranks: tuple[int, ...] | None
    skipped: str | None = None
    flags: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    scores: tuple[int | None, ...] | None = None
    seconds: float = 0.0
    repeat: int = 0
    number: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Watched:
    """A person's feedback to a completion whose text appeared bit by bit.

    Attributes:
        question: see :func:`question_id`.
        completion: number of the completion in the question.
        labeller: name of the person.
        tokens: ``T`` texts, which join to the completion.
        shown: ``[T]`` time at which each appeared, in seconds since the start; they do not fall.
        events: ``E`` pairs of a time and a value; the times do not fall.
    """

    question: str
    completion: int
    labeller: str
    tokens: tuple[str, ...]
    shown: tuple[float, ...]
    events: tuple[tuple[float, float], ...]


class LabelStore:
    """Questions and answers in one SQLite file; use it as a context manager.

    Args:
        path: the file, which is created if it does not exist.

    Raises:
        FileNotFoundError: the directory does not exist.
        ValueError: the file is another database, no database, or has another version of the schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._connection = connect(self.path)

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was recorded is in it already."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a transaction that no other writer interrupts; an exception undoes it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query, whose values are all given by place or all by name."""
        return self._connection.execute(query, named or values).fetchall()

    # --- questions -------------------------------------------------------------------------------------------------

    def add(self, questions: Sequence[Question], group: str = "") -> int:
        """Add questions; those that are in the file already are left as they are.

        Args:
            questions: their prompts' columns must be JSON; tokens of prompts are not kept.
            group: a name under which :meth:`questions` finds them again, such as an iteration's.

        Returns:
            The number of new ones.

        Raises:
            ValueError: a question has no completions, or columns that are not JSON.
        """
        rows = [_question_row(question, group) for question in questions]
        with self.transaction() as connection:
            ((last,),) = connection.execute("SELECT coalesce(max(number), 0) FROM questions").fetchall()
            connection.executemany(
                "INSERT OR IGNORE INTO questions (id, prompt, completions, size, columns, part) VALUES (?,?,?,?,?,?)",
                rows,
            )
            ((added,),) = connection.execute("SELECT count(*) FROM questions WHERE number > ?", (last,)).fetchall()
            draw_new(connection, last)
        return int(added)

    def questions(self, group: str | None = None) -> tuple[Question, ...]:
        """Return all questions, or those of a group, in the order of adding."""
        found = self.rows(
            "SELECT prompt, completions, columns FROM questions WHERE ? IS NULL OR part = ? ORDER BY number",
            group,
            group,
        )
        return tuple(_question(*row) for row in found)

    def question(self, which: str) -> Question:
        """Return the question with an id.

        Raises:
            ValueError: there is none.
        """
        found = self.rows("SELECT prompt, completions, columns FROM questions WHERE id = ?", which)
        if not found:
            raise ValueError(f"question {which!r:.80} is not in {str(self.path)!r}; was it added to another file?")
        return _question(*found[0])

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all questions, in the order of adding."""
        return tuple(which for (which,) in self.rows("SELECT id FROM questions ORDER BY number"))

    def asked(self) -> dict[str, Question]:
        """Return all questions by id, in the order of adding."""
        found = self.rows("SELECT id, prompt, completions, columns FROM questions ORDER BY number")
        return {which: _question(*row) for which, *row in found}

    # --- answers ---------------------------------------------------------------------------------------------------

    def record(self, answer: Answer) -> int:
        """Store an answer; it is on the disk when this returns.

        Returns:
            The answer's number. The same answer once more is a request that was sent twice: it is not stored again, and
            the number of the first is returned.

        Raises:
            ValueError: the question is unknown, ranks are missing or malformed, or the labeller has given another
                answer to this question; :meth:`undo` takes that back.
        """
        _check(answer, len(self.question(answer.question).completions))
        with self.transaction() as connection:
            standing = connection.execute(
                f"SELECT {ANSWER} FROM answers WHERE question = ? AND labeller = ? AND repeat = ? AND undone IS NULL",
                (answer.question, answer.labeller, answer.repeat),
            ).fetchall()
            if standing:
                earlier = _answer(*standing[0])
                if earlier != answer or earlier.number is None:
                    raise ValueError(
                        f"{answer.labeller!r} has answered question {answer.question:.12}… (repeat={answer.repeat}) "
                        "otherwise already; undo that answer first"
                    )
                return earlier.number
            number = _last_number(connection) + 1
            connection.execute(
                "INSERT INTO answers (number, question, labeller, repeat, content, seconds, ranked) "
                "VALUES (?,?,?,?,?,?,?)",
                (
                    *(number, answer.question, answer.labeller, answer.repeat, _content(answer)),
                    *(answer.seconds, answer.ranks is not None),
                ),
            )
            connection.execute("UPDATE questions SET answered = answered + 1 WHERE id = ?", (answer.question,))
            connection.execute(
                "DELETE FROM leases WHERE question = ? AND labeller = ?", (answer.question, answer.labeller)
            )
        return number

    def undo(self, labeller: str) -> Answer | None:
        """Take back a labeller's last answer, which stays in the file, marked; return it, or None if there is none."""
        with self.transaction() as connection:
            found = connection.execute(
                f"SELECT {ANSWER} FROM answers WHERE labeller = ? AND undone IS NULL ORDER BY number DESC LIMIT 1",
                (labeller,),
            ).fetchall()
            if not found:
                return None
            answer = _answer(*found[0])
            connection.execute(
                "UPDATE answers SET undone = ? WHERE number = ?", (_last_number(connection) + 1, answer.number)
            )
            connection.execute("UPDATE questions SET answered = answered - 1 WHERE id = ?", (answer.question,))
        return answer

    def answers(self, upto: int | None = None) -> tuple[Answer, ...]:
        """Return the answers in force, by number.

        Args:
            upto: return those that were in force when :meth:`count` was this: a later answer is left out, and a later
                undoing, too. So the result for a number never changes. None for now.
        """
        last = math.inf if upto is None else upto
        found = self.rows(
            f"SELECT {ANSWER} FROM answers WHERE number <= ? AND (undone IS NULL OR undone > ?) ORDER BY number",
            last,
            last,
        )
        return tuple(_answer(*row) for row in found)

    def rankings(self, upto: int | None = None) -> tuple[Ranking, ...]:
        """Return a ranking for each answer of :meth:`answers` that was not skipped, in their order."""
        asked = dict(zip(self.ids(), self.questions(), strict=True))
        return tuple(
            Ranking(asked[answer.question].prompt.content, asked[answer.question].completions, answer.ranks)
            for answer in self.answers(upto)
            if answer.ranks is not None
        )

    def answered(self) -> int:
        """Return the number of questions with at least one answer in force, skipped ones among them."""
        ((number,),) = self.rows("SELECT count(*) FROM questions WHERE answered > 0")
        return int(number)

    def count(self) -> int:
        """Return the number of the last event, an answer or an undoing; 0 if there was none."""
        return _last_number(self._connection)

    # --- scalar feedback -------------------------------------------------------------------------------------------

    def record_watched(self, watched: Watched) -> None:
        """Store a person's feedback to a completion; the same once more changes nothing.

        Raises:
            ValueError: the question or the completion is unknown, the tokens do not join to the completion, times run
                backwards or are not one for each token, or the labeller has given other feedback to it.
        """
        _check_watched(watched, self.question(watched.question))
        content = json.dumps([watched.tokens, watched.shown, watched.events])
        key = (watched.question, watched.completion, watched.labeller)
        with self.transaction() as connection:
            standing = connection.execute(
                "SELECT content FROM watched WHERE question = ? AND completion = ? AND labeller = ?", key
            ).fetchall()
            if not standing:
                connection.execute(
                    "INSERT INTO watched (question, completion, labeller, content) VALUES (?,?,?,?)", (*key, content)
                )
            elif standing[0][0] != content:
                raise ValueError(f"{watched.labeller!r} has given other feedback to this completion already")

    def watched(self) -> tuple[Watched, ...]:
        """Return all feedback to completions that appeared bit by bit, in the order of arrival."""
        found = self.rows("SELECT question, completion, labeller, content FROM watched ORDER BY number")
        return tuple(_watched(*row) for row in found)


# --- rows ----------------------------------------------------------------------------------------------------------

ANSWER = "number, question, labeller, repeat, content, seconds"


def _question_row(question: Question, group: str) -> tuple[Any, ...]:
    if not question.completions:
        raise ValueError(f"a question on prompt {question.content!r:.200} has no completions; expected at least one")
    try:
        columns = json.dumps(dict(question.prompt.columns))
    except (TypeError, ValueError) as error:
        raise ValueError(f"columns of prompt {question.content!r:.200} cannot be stored as JSON: {error}") from error
    return (
        question_id(question.prompt.content, question.completions),
        json.dumps(question.content),
        json.dumps(question.completions),
        len(question.completions),
        columns,
        group,
    )


def _question(prompt: str, completions: str, columns: str) -> Question:
    content = json.loads(prompt)
    text = content if isinstance(content, str) else "\n".join(message["content"] for message in content)
    return Question(tuple(json.loads(completions)), Prompt(content, text, (), json.loads(columns)))


def _content(answer: Answer) -> str:
    flags = {axis: list(values) for axis, values in answer.flags.items()}
    return json.dumps([answer.order, answer.ranks, answer.skipped, flags, answer.scores])


def _answer(number: int, question: str, labeller: str, repeat: int, content: str, seconds: float) -> Answer:
    order, ranks, skipped, flags, scores = json.loads(content)
    return Answer(
        question=question,
        labeller=labeller,
        order=tuple(order),
        ranks=None if ranks is None else tuple(ranks),
        skipped=skipped,
        flags={axis: tuple(values) for axis, values in flags.items()},
        scores=None if scores is None else tuple(scores),
        seconds=seconds,
        repeat=repeat,
        number=number,
    )


def _watched(question: str, completion: int, labeller: str, content: str) -> Watched:
    tokens, shown, events = json.loads(content)
    pairs = tuple((time, value) for time, value in events)
    return Watched(question, completion, labeller, tuple(tokens), tuple(shown), pairs)


def _last_number(connection: sqlite3.Connection) -> int:
    """Return the last number of the sequence that answers and undoings share."""
    query = "SELECT max(coalesce((SELECT max(number) FROM answers), 0), coalesce((SELECT max(undone) FROM answers), 0))"
    ((number,),) = connection.execute(query).fetchall()
    return int(number)


# --- checks --------------------------------------------------------------------------------------------------------


def _check(answer: Answer, size: int) -> None:
    check_name(answer.labeller)
    if sorted(answer.order) != list(range(size)):
        raise ValueError(f"order={answer.order!r:.200}; expected each of the completions 0 … {size - 1} once")
    if answer.skipped is None:
        _check_ranks(answer.ranks, size)
    elif answer.ranks is not None or not answer.skipped.strip():
        raise ValueError(
            f"skipped={answer.skipped!r:.200} with ranks={answer.ranks!r:.200}; expected a reason without ranks"
        )
    for axis, values in answer.flags.items():
        if len(values) != size or not all(type(value) is bool for value in values):
            raise ValueError(f"flags[{axis!r}]={values!r:.200}; expected {size} truth values, one a completion")
    low, high = SCORES
    if answer.scores is not None and (
        len(answer.scores) != size
        or not all(score is None or (type(score) is int and low <= score <= high) for score in answer.scores)
    ):
        raise ValueError(f"scores={answer.scores!r:.200}; expected {size} whole numbers from {low} to {high}, or None")
    if not (math.isfinite(answer.seconds) and answer.seconds >= 0):
        raise ValueError(f"seconds={answer.seconds!r}; expected a finite number, at least 0")
    if answer.repeat < 0:
        raise ValueError(f"repeat={answer.repeat!r}; expected a whole number, at least 0")


def _check_ranks(ranks: tuple[int, ...] | None, size: int) -> None:
    if ranks is None:
        raise ValueError("ranks are missing; expected them, or the reason for which the question was skipped")
    if len(ranks) != size:
        raise ValueError(f"{len(ranks)} ranks for {size} completions; expected one each")
    if not all(type(rank) is int and 0 <= rank < size for rank in ranks) or min(ranks) != 0:
        raise ValueError(f"ranks={ranks!r:.200}; expected whole numbers from 0, the best, to at most {size - 1}")


def check_name(labeller: str) -> None:
    """Raise ValueError unless a labeller's name is printable and not too long."""
    if not labeller.strip() or len(labeller) > LONGEST_NAME or not labeller.isprintable():
        raise ValueError(f"labeller={labeller!r:.200}; expected a name of 1 to {LONGEST_NAME} printable characters")


def _check_watched(watched: Watched, question: Question) -> None:
    check_name(watched.labeller)
    if not 0 <= watched.completion < len(question.completions):
        raise ValueError(f"completion={watched.completion}; the question has {len(question.completions)} of them")
    if "".join(watched.tokens) != question.completions[watched.completion]:
        raise ValueError("tokens do not join to the text of the completion; expected all of it, in order")
    if not all(watched.tokens):
        raise ValueError("tokens: one is empty; expected texts")
    if len(watched.shown) != len(watched.tokens):
        raise ValueError(f"shown has {len(watched.shown)} times for {len(watched.tokens)} tokens; expected one each")
    for name, times in (("shown", watched.shown), ("events", tuple(time for time, _ in watched.events))):
        if not all(math.isfinite(time) and time >= 0 for time in times) or list(times) != sorted(times):
            raise ValueError(f"{name}: times {times!r:.200} run backwards, or are not seconds since the start")
    if not all(math.isfinite(value) for _, value in watched.events):
        raise ValueError(f"events: values {[value for _, value in watched.events]!r:.200}; expected finite numbers")
