"""``schedule.jsonl``: the reward model of each iteration, with the answers it learned from. It replays a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from textgym.files import read_json_lines, write_json_lines
from textgym.labelling.store import LabelStore

LABELS, SCHEDULE = "labels.sqlite", "schedule.jsonl"


@dataclass(frozen=True)
class Version:
    """A reward model of a run.

    Attributes:
        number: counts from 1.
        answers: it learned from the answers up to this number, as :meth:`textgym.labelling.LabelStore.count` counts.
        labels: number of rankings among them.
        digest: SHA-256 of its weights and settings.
    """

    number: int
    answers: int
    labels: int
    digest: str


@dataclass(frozen=True)
class ScheduleRow:
    """Reward model and questions that were settled before an iteration.

    Attributes:
        iteration: counts from 0.
        reward: number of the reward model's version.
        answers, labels, digest: see :class:`Version`.
        asked: number of questions asked so far.
        questions: SHA-256 of their ids.
    """

    iteration: int
    reward: int
    answers: int
    labels: int
    digest: str
    asked: int
    questions: str

    @property
    def version(self) -> Version:
        """The reward model of the iteration."""
        return Version(self.reward, self.answers, self.labels, self.digest)


def schedule_row(iteration: int, version: Version, asked: Sequence[str]) -> ScheduleRow:
    """Return the row of an iteration that takes a reward model, after these questions were asked."""
    own = (version.number, version.answers, version.labels, version.digest)
    return ScheduleRow(iteration, *own, len(asked), digest_of(asked))


def read_schedule(run: Path) -> list[ScheduleRow]:
    """Read the rows of a run; none if there is no schedule yet.

    Raises:
        ValueError: a row is malformed; the message names it.
    """
    path = run / SCHEDULE
    if not path.is_file():
        return []
    names = {one.name for one in fields(ScheduleRow)}
    rows: list[ScheduleRow] = []
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or row.keys() != names or row["iteration"] != len(rows):
            raise ValueError(f"{path}, line {number}: expected iteration {len(rows)} with {', '.join(sorted(names))}")
        rows.append(ScheduleRow(**row))
    return rows


def write_schedule(run: Path, rows: Iterable[ScheduleRow]) -> None:
    """Write all rows so far, as a whole."""
    write_json_lines(run / SCHEDULE, map(asdict, rows))


def check_store(store: LabelStore, rows: Sequence[ScheduleRow]) -> None:
    """Check that a database holds the questions and answers of a schedule.

    Raises:
        ValueError: it holds others, or fewer.
    """
    if not rows:
        return
    last, ids = rows[-1], store.ids()
    if len(ids) < last.asked or digest_of(ids[: last.asked]) != last.questions:
        raise ValueError(
            f"{str(store.path)!r} holds other questions than the {last.asked} that {SCHEDULE} beside it lists; put the "
            "run's own database back, or begin anew with --overwrite"
        )
    needed = max(row.answers for row in rows)
    if store.count() < needed:
        raise ValueError(
            f"{str(store.path)!r} holds {store.count()} answers, and {SCHEDULE} beside it lists a reward model that "
            f"learned from {needed}; put the run's own database back, or begin anew with --overwrite"
        )


def digest_of(ids: Sequence[str]) -> str:
    """Return the SHA-256 of ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
