"""Questions and answers for the tests of labelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textgym.labelling.store import Answer, LabelStore, question_id
from textgym.rewards.labels.labelling import Question
from textgym.types import Prompt


def question(name: str, size: int = 4, **columns: Any) -> Question:
    """Return a question whose completions are named after it."""
    return Question(tuple(f"{name} {i}" for i in range(size)), Prompt(name, name, (), columns))


def answer(asked: Question, labeller: str = "anna", ranks: tuple[int, ...] | None = None, **other: Any) -> Answer:
    """Return an answer to a question, in the order of its completions."""
    size = len(asked.completions)
    which = question_id(asked.prompt.content, asked.completions)
    own = tuple(range(size)) if ranks is None and "skipped" not in other else ranks
    return Answer(which, labeller, **{"order": tuple(range(size)), "ranks": own, **other})


def record_until_killed(path: Path, first: int, acknowledged: Any) -> None:
    """Record answers to the questions from number ``first`` on, each twice, and tell each number that is returned."""
    with LabelStore(path) as store:
        for place, asked in enumerate(store.questions()[first:], start=first):
            given = answer(asked)
            number = store.record(given)
            acknowledged.send((place, number))
            assert store.record(given) == number


def record_all(path: Path, labeller: str) -> None:
    """Record an answer to every question."""
    with LabelStore(path) as store:
        for asked in store.questions():
            store.record(answer(asked, labeller))
