"""The database of answers: what was recorded is there, once, whoever is killed or writes beside it."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.labelling.label_questions import answer, question, record_all, record_until_killed
from textgym.labelling.draws import draw
from textgym.labelling.rows import export_feedback
from textgym.labelling.store import Answer, LabelStore, Watched, question_id
from textgym.rewards.labels.labelling import Question
from textgym.types import Prompt, Ranking

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
"""The children run no code of torch, whose threads make Python warn."""
CHAT = [{"role": "user", "content": "Hallo 😀"}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def test_a_question_is_the_hash_of_its_prompt_and_completions() -> None:
    assert question_id("p", ["a", "b"]) == hashlib.sha256(b'["p",["a","b"]]').hexdigest()
    assert len({question_id("p", ["a", "b"]), question_id("p", ["b", "a"]), question_id("p a", ["b"])}) == 3
    assert question_id(CHAT, ["a"]) == question_id([{"content": "Hallo 😀", "role": "user"}], ("a",))
    assert question_id("\ud800", ["a", "b"]) != question_id("?", ["a", "b"])


def test_questions_come_back_in_order_each_once(path: Path) -> None:
    first, chat = question("p", gold=[0.5, 1, 2, 3]), Question(("a", "\ud800"), Prompt(CHAT, "x", (1, 2)))
    with LabelStore(path) as store:
        assert store.add([first, chat, first]) == 2
        assert store.add([question("q", 2), first], group="later") == 1
    with LabelStore(path) as store:
        found = store.questions()
        assert [q.completions for q in found] == [first.completions, ("a", "\ud800"), ("q 0", "q 1")]
        assert [q.content for q in found] == ["p", CHAT, "q"]
        assert found[0].prompt.columns == {"gold": [0.5, 1, 2, 3]}
        assert store.ids() == tuple(question_id(q.prompt.content, q.completions) for q in found)
        assert [q.content for q in store.questions("later")] == ["q"]


def test_questions_that_another_process_adds_meanwhile_disturb_nobody(path: Path) -> None:
    """Before each query of one reader, another process adds a question, answers it and watches it."""

    class Interrupted(LabelStore):
        def rows(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
            new = question(f"new {len(others.ids())}")
            others.add([new])
            others.record(answer(new))
            others.record_watched(watched(new, tokens=(new.completions[1],), shown=(0.0,)))
            return super().rows(query, *values, **named)

    with LabelStore(path) as others, Interrupted(path) as store:
        assert [found.prompt for found in store.rankings()] == ["new 0"]
        assert [found.content for found in store.asked().values()] == ["new 0", "new 1", "new 2"]
        assert tuple(store.asked()) == others.ids()
        assert export_feedback(store, path.with_suffix(".jsonl")) == 5


def test_columns_that_are_not_json_are_an_error(path: Path) -> None:
    with LabelStore(path) as store, pytest.raises(ValueError, match="columns of prompt 'p'"):
        store.add([question("p", at=path)])


def test_an_answer_comes_back_as_it_was_given(path: Path) -> None:
    asked = question("p", 3)
    given = answer(
        asked,
        ranks=(0, 2, 0),
        order=(2, 0, 1),
        flags={"true": (True, False, True)},
        scores=(7, None, 1),
        seconds=4.25,
    )
    skipped = answer(asked, "ben", skipped="the prompt is broken")
    with LabelStore(path) as store:
        store.add([asked])
        assert (store.count(), store.record(given), store.record(skipped), store.count()) == (0, 1, 2, 2)
    with LabelStore(path) as store:
        assert store.answers() == (given, skipped)
        assert [found.number for found in store.answers()] == [1, 2]
        assert store.rankings() == (Ranking("p", asked.completions, (0, 2, 0)),)


def test_a_request_sent_twice_is_one_answer_and_another_answer_an_error(path: Path) -> None:
    asked = question("p")
    with LabelStore(path) as store:
        store.add([asked])
        assert store.record(answer(asked)) == store.record(answer(asked)) == 1
        with pytest.raises(ValueError, match=r"'anna' has answered .* otherwise already; undo"):
            store.record(answer(asked, ranks=(3, 2, 1, 0)))
        assert store.record(answer(asked, repeat=1, ranks=(3, 2, 1, 0))) == 2
        assert len(store.answers()) == 2


def test_what_was_in_force_at_a_number_never_changes(path: Path) -> None:
    """Undoing is an event with a number of its own, so that a learner that has used an answer can be replayed."""
    one, two = question("p"), question("q")
    with LabelStore(path) as store:
        store.add([one, two])
        assert store.undo("anna") is None
        seen = {0: store.answers()}
        for event in (
            lambda: store.record(answer(one)),
            lambda: store.record(answer(two)),
            lambda: store.record(answer(two, "ben")),
            lambda: store.undo("anna"),
            lambda: store.record(answer(two, ranks=(3, 2, 1, 0))),
            lambda: store.undo("anna"),
            lambda: store.undo("anna"),
        ):
            event()
            seen[store.count()] = store.answers()
        assert list(seen) == [0, 1, 2, 3, 4, 5, 6, 7]
        assert seen[4] == (answer(one), answer(two, "ben"))
        assert seen[7] == (answer(two, "ben"),)
        assert {upto: store.answers(upto) for upto in seen} == seen
        assert [len(store.rankings(upto)) for upto in seen] == [0, 1, 2, 3, 2, 3, 2, 1]
        assert store.rows("SELECT count(*) FROM answers") == [(4,)]  # all that were ever given


def test_an_undoing_that_is_sent_twice_takes_back_one_answer(path: Path) -> None:
    one, two = question("p"), question("q")
    with LabelStore(path) as store:
        store.add([one, two])
        store.record(answer(one))
        number = store.record(answer(two))
        assert store.undo("anna", number) == store.undo("anna", number) == answer(two)
        assert store.answers() == (answer(one),)
        assert store.count() == 3
        for labeller, wrong in (("ben", 1), ("anna", 9)):
            with pytest.raises(ValueError, match=rf"number={wrong}; expected that of an answer of '{labeller}'"):
                store.undo(labeller, wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ranks": (0, 1, 2)}, "3 ranks for 4 completions"),
        ({"ranks": (1, 2, 3, 1)}, "from 0, the best"),
        ({"ranks": (0, 1, 2, 4)}, "to at most 3"),
        ({"ranks": (0, 1, 2, True)}, "whole numbers"),
        ({"ranks": None, "skipped": None}, "ranks are missing"),
        ({"ranks": (0, 1, 2, 3), "skipped": "no"}, "expected a reason without ranks"),
        ({"skipped": " "}, "expected a reason"),
        ({"order": (0, 1, 2, 2)}, "each of the completions 0 … 3 once"),
        ({"flags": {"true": (True,)}}, r"flags\['true'\]"),
        ({"flags": {"true": (1, 0, 0, 0)}}, "4 truth values"),
        ({"scores": (0, 1, 2, 3)}, "from 1 to 7"),
        ({"scores": (8, 1, 2, 3)}, "from 1 to 7"),
        ({"scores": (1, 2, 3)}, "expected 4 whole numbers"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": -1.0}, "seconds=-1.0"),
        ({"repeat": -1}, "repeat=-1"),
        ({"repeat": 2}, "repeat=2"),
        ({"repeat": 2**70}, "repeat=1180591620717411303424"),
        ({"repeat": 1}, "repeat=1, but 'anna' has not answered"),
        ({"labeller": " "}, "expected a name"),
        ({"labeller": "a\nb"}, "printable"),
        ({"labeller": "x" * 101}, "1 to 100"),
    ],
)
def test_a_malformed_answer_is_refused(path: Path, wrong: dict[str, object], message: str) -> None:
    asked = question("p")
    with LabelStore(path) as store:
        store.add([asked])
        with pytest.raises(ValueError, match=message):
            store.record(answer(asked, **wrong))  # type: ignore[arg-type]
        assert store.count() == 0


def test_an_answer_to_an_unknown_question_is_refused(path: Path) -> None:
    with LabelStore(path) as store:
        store.add([question("p")])
        with pytest.raises(ValueError, match=r"is not in .*answers.sqlite"):
            store.record(answer(question("another")))


def test_other_files_are_refused_and_left_alone(path: Path, tmp_path: Path) -> None:
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE mine (x)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a database of another program"):
        LabelStore(path)
    assert path.read_bytes() == before
    (tmp_path / "text.sqlite").write_text("no database, but a text that is longer than the header of one" * 20)
    with pytest.raises(ValueError, match="is no database of answers"):
        LabelStore(tmp_path / "text.sqlite")
    with pytest.raises(ValueError, match="is a directory"):
        LabelStore(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        LabelStore(tmp_path / "nowhere" / "answers.sqlite")


def test_another_version_of_the_schema_is_refused(path: Path) -> None:
    LabelStore(path).close()
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(ValueError, match="has version 2 of the schema, this textgym reads version 1"):
        LabelStore(path)


def test_answers_are_written_ahead_and_synced(path: Path) -> None:
    with LabelStore(path) as store:
        assert store.rows("PRAGMA journal_mode") == [("wal",)]
        assert store.rows("PRAGMA synchronous") == [(2,)]  # FULL


@FORKS
def test_none_is_lost_or_doubled_when_the_writer_is_killed_at_50_random_moments(path: Path) -> None:
    """Every number that was returned is in the file; an answer whose number was not heard may be there, once."""
    with LabelStore(path) as store:
        store.add([question(f"q{i}", 2) for i in range(4000)])
        ids = store.ids()
    processes = multiprocessing.get_context("fork")
    moments = random.Random(3)
    heard: dict[int, int] = {}
    killed = 0
    while killed < 50:
        receiver, sender = processes.Pipe(duplex=False)
        # It begins with the last one that was heard: a request that is repeated after a restart is the same answer.
        writer = processes.Process(target=record_until_killed, args=(path, max(heard, default=0), sender))
        writer.start()
        sender.close()
        assert receiver.poll(60)
        time.sleep(moments.uniform(0, 0.03))
        writer.kill()
        writer.join()
        killed += writer.exitcode == -9
        try:
            while True:
                place, number = receiver.recv()
                assert heard.setdefault(place, number) == number
        except EOFError:
            receiver.close()
    with LabelStore(path) as store:
        stored = {found.number: ids.index(found.question) for found in store.answers()}
        assert store.rows("PRAGMA integrity_check") == [("ok",)]
        assert store.count() == len(store.answers())
    assert {number: place for place, number in heard.items()}.items() <= stored.items()
    assert len(set(stored.values())) == len(stored)  # none doubled
    assert max(heard) == len(heard) - 1  # none left out
    assert len(stored) - len(heard) <= 1


@FORKS
def test_two_people_at_once(path: Path) -> None:
    asked = [question(f"q{i}") for i in range(100)]
    with LabelStore(path) as store:
        store.add(asked)
    processes = multiprocessing.get_context("fork")
    people = [processes.Process(target=record_all, args=(path, name)) for name in ("anna", "ben")]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
    with LabelStore(path) as store:
        assert [found.number for found in store.answers()] == list(range(1, 201))
        for name in ("anna", "ben"):
            assert [a.question for a in store.answers() if a.labeller == name] == list(store.ids())


def test_draws_are_uniform_and_depend_on_seed_purpose_and_question() -> None:
    drawn = [draw(0, "shared", str(i)) for i in range(2000)]
    assert drawn == [draw(0, "shared", str(i)) for i in range(2000)]
    assert 0.28 < sum(value < 0.3 for value in drawn) / 2000 < 0.32
    assert draw(0, "shared", "1") != draw(1, "shared", "1") != draw(1, "repeat", "1")


def watched(asked: Question, **other: object) -> Watched:
    which = question_id(asked.prompt.content, asked.completions)
    given = {"tokens": ("p", " 1"), "shown": (0.0, 0.5), "events": ((0.7, 1.0), (0.9, -1.0))}
    return Watched(which, 1, "anna", **{**given, **other})  # type: ignore[arg-type]


def test_feedback_comes_back_as_it_was_given_and_once(path: Path) -> None:
    asked = question("p")
    with LabelStore(path) as store:
        store.add([asked])
        store.record_watched(watched(asked))
        store.record_watched(watched(asked))
        with pytest.raises(ValueError, match="other feedback"):
            store.record_watched(watched(asked, events=()))
        assert store.watched() == (watched(asked),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": ("p", "1")}, "do not join"),
        ({"tokens": ("p", "", " 1"), "shown": (0.0, 0.0, 0.0)}, "empty"),
        ({"shown": (0.0,)}, "1 times for 2 tokens"),
        ({"shown": (0.5, 0.0)}, "shown: times .* run backwards"),
        ({"events": ((0.9, 1.0), (0.7, 1.0))}, "events: times .* run backwards"),
        ({"events": ((0.9, float("inf")),)}, "finite"),
    ],
)
def test_malformed_feedback_is_refused(path: Path, wrong: dict[str, object], message: str) -> None:
    asked = question("p")
    with LabelStore(path) as store:
        store.add([asked])
        with pytest.raises(ValueError, match=message):
            store.record_watched(watched(asked, **wrong))


def test_an_answer_is_equal_whatever_its_number() -> None:
    assert Answer("q", "a", (0, 1), (0, 1), number=3) == Answer("q", "a", (0, 1), (0, 1))
