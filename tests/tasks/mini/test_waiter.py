"""The waiter's task: its language, its guests, gold by hand, and the exact score of the scripted waiter."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any

import numpy as np
import pytest

from tests.tasks.mini.rules import reachable
from textgym.tasks.mini.conversation import converse
from textgym.tasks.mini.languages.waiter import FIRST_WORDING, QUESTIONS, SECOND_WORDING, SLOTS, TURNS, fill, heard
from textgym.tasks.mini.waiter import (
    SIMULATORS,
    Guest,
    Visit,
    Wish,
    careless,
    scripted,
    slots_right,
    talk,
    understood,
    waiter,
)
from textgym.types import Completion, Prompt

WISH = {"dish": "pizza", "size": "large", "drink": "tea"}
COLUMNS = {"wish": WISH, "agenda": ["dish", "drink", "size"], "second": ["dish", "soup"], "patience": 5}
OPENING = "Anna Doyle: Hello. A pizza, please.\nWaiter:"

# One wording for each act, and no chance: what is said can be written down by hand.
PLAIN = Guest({act: texts[:1] for act, texts in FIRST_WORDING.items()}, (5, 5), 0.0, 0.0, corrects=1.0, changes=0.0)


def prompt(text: str = OPENING, **columns: Any) -> Prompt:
    return Prompt(text, text, (), {**COLUMNS, **columns})


def said(guest: Guest, state: Any, turn: str) -> dict[str, float]:
    """Return the possible replies with their probabilities."""
    found: dict[str, float] = {}
    for chance, _, reply in guest.outcomes(state, Completion(turn, (), "stop")):
        found[str(reply.says)] = found.get(str(reply.says), 0.0) + chance
    return found


def gold(*turns: str, wish: dict[str, str] = WISH) -> float:
    """Return the gold of a conversation: the waiter's and the guest's turns."""
    roles = ("assistant", "user")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    (score,) = slots_right([OPENING], [messages], completion_ids=[[]], wish=[wish])
    return score


# --- the language ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (" What can I get you?", ("anything", {}, False)),
        (" What would you like?", ("anything", {}, False)),
        (" What would you like to drink?", ("drink", {}, False)),
        (" A large one. What would you like to eat?", ("dish", {"size": "large"}, False)),
        (" A soup and a tea, right?", (None, {"dish": "soup", "drink": "tea"}, False)),
        (" Order: a large pizza and a tea.", (None, WISH, True)),
    ],
)
def test_turns_are_understood(turn: str, expected: tuple[Any, ...]) -> None:
    assert understood(turn) == expected


@pytest.mark.parametrize(
    "turn",
    [
        "",
        "What can I get you?",  # no space
        " What can I get you? ",
        " A pizza.",  # neither a question nor a check
        " A pizza, right? Which size would you like?",
        " A large pizza and a small pizza, right?",  # a list of guesses
        " Order: a pizza and a tea.",  # no size
        " Order: a large pizza and a tea. Order: a small pizza and a tea.",
        " order: a large pizza and a tea.",
    ],
)
def test_other_turns_are_not(turn: str) -> None:
    assert understood(turn) is None


def test_every_rule_is_used_and_every_phrase_is_a_phrase_of_the_grammar() -> None:
    assert reachable(TURNS, TURNS.start) == set(TURNS.rules)
    for some in product((False, True), repeat=3):
        values = {slot: SLOTS[slot][0] for slot, chosen in zip(SLOTS, some, strict=True) if chosen}
        if values:
            text = f" {fill('{Phrase}, right?', values)}"
            assert TURNS.accepts(text)
            assert heard(text) == values


def test_guests_name_nothing_but_their_wish() -> None:
    """Otherwise what was said last would not be what is wanted."""
    for wording in (FIRST_WORDING, SECOND_WORDING):
        assert all(heard(text) == {} for texts in wording.values() for text in texts)
        assert wording.keys() == FIRST_WORDING.keys()
    first, second = ({text for texts in w.values() for text in texts} for w in (FIRST_WORDING, SECOND_WORDING))
    assert not first & second


# --- guests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "reply"),
    [
        (" Which size would you like?", " A large one, please."),
        (" What would you like to drink?", " A tea, please."),
        (" What would you like to eat?", " A pizza, please."),  # said already, said again
        (" What can I get you?", " A tea, please."),  # next on the agenda
        (" A pizza, right?", " Yes."),
        (" A soup, right?", " No, a pizza."),
        (" A small soup and a tea, right?", " No, a large pizza."),
        (" A soup. What would you like to drink?", " No, a pizza. A tea, please."),
        (" A small one. What can I get you?", " No, a large one. A tea, please."),
        (" Hello!", " Sorry?"),
        ("", " Sorry?"),
    ],
)
def test_replies_by_hand(turn: str, reply: str) -> None:
    assert said(PLAIN, PLAIN.start(prompt()), turn) == {reply: 1.0}


def test_a_guest_names_its_agenda_and_then_says_that_it_is_all() -> None:
    state, free = PLAIN.start(prompt()), Completion(" What can I get you?", (), "stop")
    replies = []
    for _ in range(3):
        ((_, state, reply),) = PLAIN.outcomes(state, free)
        replies.append(reply.says)
    assert replies == [" A tea, please.", " A large one, please.", " That is all."]


def test_patience_is_the_number_of_turns() -> None:
    question, order = " What would you like to eat?", " Order: a large pizza and a tea."
    for patience in (1, 3):
        replies = []
        state = PLAIN.start(prompt(patience=patience))
        for _ in range(patience):
            ((_, state, reply),) = PLAIN.outcomes(state, Completion(question, (), "stop"))
            replies.append((reply.says, reply.done))
        assert replies == [(" A pizza, please.", False)] * (patience - 1) + [(" I have to go.", True)]
    # Even an impatient guest waits for the end of an order.
    ((_, _, reply),) = PLAIN.outcomes(PLAIN.start(prompt(patience=1)), Completion(order, (), "stop"))
    assert reply == (" Thank you.", 0.0, True)


def test_chances_by_hand() -> None:
    talkative = replace(PLAIN, adds=0.3, adds_if_free=0.6, corrects=0.5, changes=0.2)
    state = talkative.start(prompt())
    # The dish is named, so its second thought may come with any reply. Next on the agenda are the drink and the size.
    assert said(talkative, state, " Which size would you like?") == pytest.approx(
        {
            " A large one, please.": 0.7 * 0.8,
            " A large one and a tea, please.": 0.3 * 0.8,
            " A large one, please. Sorry, rather a soup.": 0.7 * 0.2,
            " A large one and a tea, please. Sorry, rather a soup.": 0.3 * 0.2,
        }
    )
    assert said(talkative, replace(state, second=None), " What can I get you?") == pytest.approx(
        {" A tea, please.": 0.4, " A large one and a tea, please.": 0.6}
    )
    assert said(talkative, replace(state, second=("size", "small")), " A stew, right?") == pytest.approx(
        {" No, a pizza.": 0.5, " Yes.": 0.5}
    )


def test_an_answer_adds_the_next_slot_of_the_agenda() -> None:
    talkative = replace(PLAIN, adds=1.0, adds_if_free=1.0)
    state = talkative.start(prompt("Anna: Hello."))
    assert said(talkative, state, " What can I get you?") == {" A pizza and a tea, please.": 1.0}
    assert said(talkative, state, " Which size would you like?") == {" A large pizza, please.": 1.0}


@pytest.mark.parametrize(("corrects", "agenda"), [(1.0, ("drink",)), (0.0, ("drink", "size"))])
def test_a_mistake_that_is_let_pass_is_not_named(corrects: float, agenda: tuple[str, ...]) -> None:
    guest = replace(PLAIN, corrects=corrects)
    ((_, state, _),) = guest.outcomes(guest.start(prompt()), Completion(" A small one, right?", (), "stop"))
    assert state.agenda == agenda


def test_a_second_thought_comes_once_and_changes_the_wish() -> None:
    hasty = replace(PLAIN, changes=1.0)
    state, check = hasty.start(prompt()), Completion(" A pizza, right?", (), "stop")
    ((_, state, reply),) = [one for one in hasty.outcomes(state, check) if one[0] > 0]
    assert reply.says == " Yes. Sorry, rather a soup."
    assert state == Visit(Wish("soup", "large", "tea"), ("drink", "size"), None, 4)
    ((_, _, reply),) = hasty.outcomes(state, check)
    assert reply.says == " No, a soup."


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_chances_sum_to_one_and_all_wordings_occur(simulator: str) -> None:
    guest = SIMULATORS[simulator]
    turns = [
        " A small soup and a water. What would you like to eat?",
        " What can I get you?",
        " A pizza, right?",
        " Hm.",
        " Order: a small soup and a tea.",
    ]
    seen = set()
    for turn, patience, opening in product(turns, (1, 5), (OPENING, "Anna: A large pizza and a tea.")):
        outcomes = guest.outcomes(guest.start(prompt(opening, patience=patience)), Completion(turn, (), "stop"))
        assert math.fsum(chance for chance, _, _ in outcomes) == pytest.approx(1, abs=1e-12)
        assert min(chance for chance, _, _ in outcomes) > 0
        seen |= {str(reply.says) for _, _, reply in outcomes}
    for act, texts in guest.wording.items():
        for text in texts if not act.startswith("opens") else ():
            start = text.partition("{")[0] or "A"
            assert any(start in reply for reply in seen), text


# --- gold ------------------------------------------------------------------------------------------------------

RIGHT = " Order: a large pizza and a tea."
ASK = " Which size would you like?"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ((RIGHT, " Thank you."), 0.95),
        ((ASK, " A large one.", RIGHT, " Thank you."), 0.9),
        ((ASK, " A large one.", ASK, " A large one.", RIGHT, " Thank you."), 0.85),
        ((" Order: a large soup and a tea.", " Thank you."), 2 / 3 - 0.05),
        ((" Order: a small soup and a milk.", " Thank you."), 0.0),
        # No order, or none at the end.
        ((ASK, " I have to go."), 0.0),
        ((" Order: a large pizza and a tea. Right?", " Sorry?"), 0.0),
        ((" A large pizza and a tea, right?", " Yes."), 0.0),
        # The last word counts.
        ((ASK, " A large one. Sorry, rather a soup.", RIGHT, " Thank you."), 2 / 3 - 0.1),
        ((ASK, " Sorry, rather a soup.", " Order: a large soup and a tea.", " Thank you."), 0.9),
        # Cut by the horizon.
        ((ASK, " A large one.", " Order: a large"), 0.0),
        ((ASK, " A large one.", RIGHT), 0.9),
        ((), 0.0),
    ],
)
def test_gold_by_hand(turns: tuple[str, ...], expected: float) -> None:
    assert gold(*turns) == pytest.approx(expected)


def test_gold_reads_a_plain_text_as_one_turn() -> None:
    scores = slots_right([""] * 2, [RIGHT, "no order"], completion_ids=[[], []], wish=[WISH] * 2)
    assert scores == pytest.approx([0.95, 0])


# --- waiters ---------------------------------------------------------------------------------------------------


def questions_needed(missing: int, adds: float) -> float:
    """Return the expected number of questions: each names one missing slot, and with probability ``adds`` another."""
    if missing < 2:
        return missing
    return 1 + (1 - adds) * questions_needed(missing - 1, adds) + adds * questions_needed(missing - 2, adds)


def expected_gold(guest: Guest, state: Visit, said: Sequence[str], messages: Sequence[dict[str, str]]) -> float:
    """Return the scripted waiter's expected gold by enumeration of everything that the guest may say."""
    turn = scripted(said)
    total = 0.0
    for chance, after, reply in guest.outcomes(state, Completion(turn, (), "stop")):
        pair = [{"role": "assistant", "content": turn}, {"role": "user", "content": str(reply.says)}]
        talk, text = [*messages, *pair], [*said, str(reply.says)]
        if reply.done:
            total += chance * slots_right([""], [talk], completion_ids=[[]], wish=[WISH])[0]
        else:
            total += chance * expected_gold(guest, after, text, talk)
    return total


@pytest.mark.parametrize(
    ("simulator", "needed"),
    # With 3 slots missing: 1 + .7·1.7 + .3·1 = 2.49 questions, and 1 + .9·1.9 + .1·1 = 2.81.
    [("first", (0, 1, 1.7, 2.49)), ("second", (0, 1, 1.9, 2.81))],
)
def test_the_scripted_waiters_gold_is_known(simulator: str, needed: tuple[float, ...]) -> None:
    guest = SIMULATORS[simulator]
    # One wording is enough: the waiter does not look at it.
    plain = replace(guest, wording={act: texts[:1] for act, texts in guest.wording.items()})
    for missing, questions in enumerate(needed):
        assert questions_needed(missing, guest.adds) == pytest.approx(questions)
        opening = f"Anna: {fill('{Phrase}', {s: WISH[s] for s in COLUMNS['agenda'][: 3 - missing]})}"
        state = plain.start(prompt(opening, patience=guest.patience[0]))
        assert expected_gold(plain, state, [opening], []) == pytest.approx(1 - 0.05 * (questions + 1))


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_played_the_scripted_waiter_has_the_gold_that_is_known(simulator: str) -> None:
    task = waiter(simulator)
    guest, prompts = SIMULATORS[simulator], task.prompts("test")
    talks = [converse(guest, one, scripted, seed) for seed, one in enumerate(prompts)]
    scores = slots_right([], talks, completion_ids=[], wish=[one.columns["wish"] for one in prompts])
    known = [1 - 0.05 * (1 + questions_needed(3 - len(heard(one.text)), guest.adds)) for one in prompts]
    assert np.mean(known) == pytest.approx({"first": 0.886, "second": 0.881}[simulator], abs=5e-4)
    assert min(scores) >= 1 - 4 * 0.05
    # 1,000 episodes with at most three questions: a standard error below 0.001.
    assert np.mean(scores) == pytest.approx(np.mean(known), abs=0.003)


def test_careless_waiters_talk_well_and_serve_badly() -> None:
    task, guest = waiter(), SIMULATORS["first"]
    rng = np.random.default_rng(0)
    prompts = task.prompts("test")[:500]
    talks = [converse(guest, one, careless(rng), seed) for seed, one in enumerate(prompts)]
    turns = [message["content"] for one in talks for message in one if message["role"] == "assistant"]
    assert all(TURNS.accepts(turn) for turn in turns)
    scores = slots_right([], talks, completion_ids=[], wish=[one.columns["wish"] for one in prompts])
    assert 0.25 < np.mean(scores) < 0.55
    questions = [text for texts in QUESTIONS.values() for text in texts]
    assert all(any(turn.endswith(text) for turn in turns) for text in questions)


# --- the task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_openings_name_the_first_of_the_agenda(simulator: str) -> None:
    counts = [0, 0, 0, 0]
    for one in waiter(simulator).prompts("test"):
        wish, agenda = one.columns["wish"], one.columns["agenda"]
        named = heard(one.text)
        assert named == {slot: wish[slot] for slot in agenda[: len(named)]}
        assert sorted(agenda) == sorted(SLOTS)
        slot, value = one.columns["second"]
        assert value != wish[slot]
        assert value in SLOTS[slot]
        assert one.columns["patience"] in range(4, 7)
        counts[len(named)] += 1
    assert counts == pytest.approx([100, 400, 400, 100], abs=60)


def test_simulators_differ_in_what_they_say_and_do() -> None:
    first, second = SIMULATORS.values()
    assert not {p.text for p in waiter("first").prompts()} & {p.text for p in waiter("second").prompts()}
    assert (first.corrects, first.changes, first.adds) != (second.corrects, second.changes, second.adds)
    with pytest.raises(ValueError, match=r"simulator='secnd' is not one of .*did you mean 'second'"):
        waiter("secnd")


def test_the_corpus_is_tokens_of_words_that_concatenate() -> None:
    tokenizer, rng = waiter().tokenizer, np.random.default_rng(0)
    for care in (0.0, 1.0):
        for _ in range(200):
            parts = talk(rng, care)
            ids = [tokenizer(text)["input_ids"] for text, _ in parts]
            assert list(chain(*ids)) == tokenizer("".join(text for text, _ in parts))["input_ids"]
            assert max(len(one) for one, (_, own) in zip(ids, parts, strict=True) if own) <= 16
            assert len(ids[0]) <= waiter().max_prompt_length
            assert parts[-1][1]
            assert all(text.endswith("\n") for text, own in parts if own)
