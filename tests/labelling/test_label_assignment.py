"""Who is asked what: shared questions go to everyone, others to one person, repeats to the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labelling.label_questions import answer, question
from textgym.labelling.assignment import (
    FREE,
    GAP,
    REPEATABLE,
    UNANSWERED,
    Asked,
    keep_question,
    next_question,
    next_watched,
    progress,
    set_shares,
    shown_order,
)
from textgym.labelling.draws import draw
from textgym.labelling.leases import LEASE
from textgym.labelling.store import LabelStore, Watched

N = 200


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "answers.sqlite") as opened:
        opened.add([question(f"q{i}", 2) for i in range(N)])
        yield opened


def give(store: LabelStore, labeller: str, asked: Asked, **other: object) -> None:
    store.record(answer(store.question(asked.question), labeller, repeat=asked.repeat, **other))


def work(store: LabelStore, *labellers: str) -> list[tuple[str, Asked]]:
    """Let people answer in turn until nobody is asked anything."""
    done: list[tuple[str, Asked]] = []
    while True:
        before = len(done)
        for labeller in labellers:
            if asked := next_question(store, labeller, now=len(done)):
                give(store, labeller, asked)
                done.append((labeller, asked))
        if len(done) == before:
            return done


def test_one_person_gets_all_questions_in_their_order(store: LabelStore) -> None:
    assert work(store, "anna") == [("anna", Asked(which)) for which in store.ids()]


def test_shared_questions_go_to_everyone_and_others_to_one(store: LabelStore) -> None:
    set_shares(store, shared=0.25, repeat=0, seed=5)
    shared = {which for which in store.ids() if draw(5, "shared", which) < 0.25}
    assert 30 < len(shared) < 70
    counts = Counter(asked.question for _, asked in work(store, "anna", "ben", "cleo"))
    assert counts == {which: 3 if which in shared else 1 for which in store.ids()}


def test_repeats_come_to_the_same_person_after_a_gap(store: LabelStore) -> None:
    set_shares(store, shared=0, repeat=0.2, seed=5)
    again = {which for which in store.ids() if draw(5, "repeat", which) < 0.2}
    done = work(store, "anna", "ben")
    for labeller in ("anna", "ben"):
        own = [asked for name, asked in done if name == labeller]
        first = {asked.question: place for place, asked in enumerate(own) if asked.repeat == 0}
        second = {asked.question: place for place, asked in enumerate(own) if asked.repeat == 1}
        assert second.keys() == first.keys() & again
        early = [place for which, place in second.items() if place - first[which] <= GAP]
        assert all(place > max(first.values()) for place in early)  # only where nothing else was left
        assert len(early) < len(second) / 2
    assert next_question(store, "anna", 0) is None


def test_what_was_skipped_is_not_asked_again(store: LabelStore) -> None:
    set_shares(store, shared=0, repeat=1, seed=0)
    asked = next_question(store, "anna", 0)
    assert asked is not None
    give(store, "anna", asked, skipped="broken", ranks=None)
    assert [found for _, found in work(store, "anna", "ben") if found.question == asked.question] == []


def test_a_question_is_held_until_its_lease_ends(store: LabelStore) -> None:
    ids = store.ids()
    assert next_question(store, "anna", 0) == next_question(store, "anna", 1) == Asked(ids[0])
    assert next_question(store, "ben", 2) == Asked(ids[1])
    # Anna's lease was renewed at second 1; ben has a question of his own until then.
    give(store, "ben", Asked(ids[1]))
    assert next_question(store, "ben", LEASE) == Asked(ids[2])
    give(store, "ben", Asked(ids[2]))
    assert next_question(store, "ben", 1 + LEASE) == Asked(ids[0])  # she has left
    give(store, "anna", Asked(ids[0]))  # and comes back: her answer counts, too
    assert next_question(store, "anna", 1 + LEASE) == Asked(ids[3])


def test_a_question_is_open_again_when_its_answer_is_taken_back(store: LabelStore) -> None:
    ids = store.ids()
    give(store, "anna", Asked(ids[0]))
    assert next_question(store, "ben", 0) == Asked(ids[1])
    store.undo("anna")
    assert next_question(store, "anna", 1) == Asked(ids[0])


def test_a_question_whose_answer_is_taken_back_is_held(store: LabelStore) -> None:
    ids = store.ids()
    give(store, "anna", Asked(ids[0]))
    store.undo("anna", now=0)
    assert next_question(store, "ben", LEASE - 1) == Asked(ids[1])
    keep_question(store, "anna", ids[0], LEASE - 1)
    assert next_question(store, "cleo", LEASE) == Asked(ids[2])


def test_keeping_takes_a_question_that_nobody_else_has(store: LabelStore) -> None:
    first, second = store.ids()[:2]
    keep_question(store, "anna", first, 0)
    assert next_question(store, "ben", 1) == Asked(second)
    keep_question(store, "anna", second, 2)  # it is ben's
    assert next_question(store, "ben", 3) == Asked(second)
    keep_question(store, "cleo", first, LEASE)  # anna's time is over
    assert next_question(store, "anna", LEASE) == Asked(store.ids()[2])
    with pytest.raises(ValueError, match="is not in"):
        keep_question(store, "anna", "unknown", 0)


def test_new_questions_are_asked_and_drawn_at_the_same_shares(store: LabelStore) -> None:
    set_shares(store, shared=0.25, repeat=0, seed=5)
    work(store, "anna", "ben")
    new = [question(f"new{i}", 2) for i in range(40)]
    store.add(new, "later")
    ids = store.ids()[N:]
    shared = {which for which in ids if draw(5, "shared", which) < 0.25}
    assert 0 < len(shared) < 40
    assert Counter(asked.question for _, asked in work(store, "anna", "ben")) == {
        which: 2 if which in shared else 1 for which in ids
    }


def test_progress_counts_what_is_done_and_left(store: LabelStore) -> None:
    assert (progress(store, "anna", 0).seconds, progress(store, "anna", 0).last) == (None, None)
    give(store, "anna", Asked(store.ids()[0]), seconds=3.0)
    give(store, "anna", Asked(store.ids()[1]), seconds=5.0)
    next_question(store, "ben", 0)
    found = progress(store, "anna", 1)
    assert (found.answered, found.left, found.seconds, found.last) == (2, N - 3, 4.0, 2)
    assert progress(store, "ben", 1).left == N - 2


def test_a_completion_alone_is_watched_but_never_ranked(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "one.sqlite") as store:
        store.add([question("p", 1), question("q", 2)])
        one, two = store.ids()
        assert next_question(store, "anna", 0) == Asked(two)
        seen = []
        while found := next_watched(store, "anna"):
            seen.append(found)
            text = store.question(found[0]).completions[found[1]]
            store.record_watched(Watched(found[0], found[1], "anna", (text,), (0.0,), ()))
        assert seen == [(one, 0), (two, 0), (two, 1)]
        assert next_watched(store, "ben") == (one, 0)


def test_orders_are_uniform_and_differ_between_people_and_repeats() -> None:
    orders = Counter(shown_order(0, f"{i}", "anna", 0, 3) for i in range(1200))
    assert len(orders) == 6
    assert all(140 < count < 260 for count in orders.values())
    assert shown_order(0, "q", "anna", 0, 9) == shown_order(0, "q", "anna", 0, 9)
    assert len({shown_order(0, "q", name, repeat, 9) for name in ("anna", "ben") for repeat in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("source", "index"),
    [(FREE, "questions_open"), (UNANSWERED, "questions_shared"), (REPEATABLE, "questions_again")],
)
def test_no_query_scans_a_whole_table(store: LabelStore, source: str, index: str) -> None:
    query = f"EXPLAIN QUERY PLAN SELECT number, id FROM {source} ORDER BY number LIMIT 1"
    plan = [row[3] for row in store.rows(query, labeller="anna", now=0, before=1)]
    assert f"INDEX {index} " in plan[0]
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], plan
