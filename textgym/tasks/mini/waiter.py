"""``textgym/Waiter-v0``: take an order in a dialogue with a guest.

The guest wants a dish, its size and a drink, and has an agenda: it names them one by one, and answers questions. It
corrects what the waiter repeats wrongly, may change its mind once, and leaves when its patience ends. The prompt is how
it opens the dialogue; what it wants is not in the prompt.

A turn of the waiter is a line: a question, perhaps after a repetition ("A large pizza. What would you like to
drink?"); a repetition to be checked ("A large pizza, right?"); or the order ("Order: a large pizza and a tea."), which
ends the dialogue.

There are two simulators of guests. The second has another wording, less patience, changes its mind more often, and
corrects only every second mistake: gold under both tells how much of what was learned is about one simulator.

A scripted waiter, which asks for one missing slot after the other and then orders what it heard, has a gold that is
known by hand: 0.886 with the first simulator, 0.881 with the second, on the test prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from textgym.names import suggest
from textgym.tasks.mini.conversation import (
    TURNS_MODEL,
    Piece,
    Speaker,
    converse,
    line_end_id,
    pieces,
    turns_tokenizer,
)
from textgym.tasks.mini.languages.waiter import (
    CHECK,
    FIRST_WORDING,
    GREETINGS,
    ORDER,
    QUESTIONS,
    REPEAT,
    SECOND_WORDING,
    SLOTS,
    TURNS,
    fill,
    heard,
)
from textgym.tasks.mini.languages.words import FIRST_NAME, LAST_NAME, pick
from textgym.tasks.mini.miniature import Grammatical, Row, draw_splits
from textgym.tasks.task import Task
from textgym.types import Completion, Messages, Prompt
from textgym.worlds.glue import Glue
from textgym.worlds.world import KnownWorld, Outcome, Reply

COST = 0.05
"""Cost of a turn."""
GLUE = Glue("Guest:", "\nWaiter:", closing="\n")
_OPENING = (0.1, 0.4, 0.4, 0.1)  # probabilities that a guest opens with 0, 1, 2, 3 slots

Wording: TypeAlias = Mapping[str, tuple[str, ...]]
Sentence: TypeAlias = tuple[str, Mapping[str, str]]
"""Act of a guest, and the slots that it mentions."""


class Act(NamedTuple):
    """Meaning of a waiter's turn.

    Attributes:
        asks: the slot asked for, ``"anything"``, or None.
        repeats: the slots mentioned, with their values.
        orders: True for the order.
    """

    asks: str | None
    repeats: Mapping[str, str]
    orders: bool


def understood(turn: str) -> Act | None:
    """Return the meaning of a waiter's turn; None if it is not exactly a turn of the language.

    >>> understood(" A small pizza. What would you like to drink?")
    Act(asks='drink', repeats={'size': 'small', 'dish': 'pizza'}, orders=False)
    """
    if not TURNS.accepts(turn):
        return None
    asks = next((slot for slot, texts in QUESTIONS.items() if turn.endswith(texts)), None)
    return Act(asks, heard(turn), turn.startswith(" Order:"))


# --- guests ----------------------------------------------------------------------------------------------------


class Wish(NamedTuple):
    """Order that a guest wants."""

    dish: str
    size: str
    drink: str

    def only(self, slots: Sequence[str]) -> dict[str, str]:
        """Return the values of some slots."""
        return {slot: getattr(self, slot) for slot in slots}


@dataclass(frozen=True)
class Visit:
    """State of a guest.

    Attributes:
        wish: the order that it wants now.
        agenda: the slots that it has not named, in its order.
        second: the slot and value of its second thought; None once it is told.
        patience: number of further turns that it stays for; in reply to the last it leaves.
    """

    wish: Wish
    agenda: tuple[str, ...]
    second: tuple[str, str] | None
    patience: int

    def told(self, slots: Sequence[str]) -> Visit:
        """Return the state after these slots have been named."""
        return replace(self, agenda=tuple(slot for slot in self.agenda if slot not in slots))


Branch: TypeAlias = tuple[float, Visit, tuple[Sentence, ...]]
"""Possible reply: its probability, the state after it, and its sentences."""


@dataclass(frozen=True)
class Guest(KnownWorld):
    """Guests of one kind.

    Attributes:
        wording: sentences of each act.
        patience: least and greatest patience, in turns of the waiter.
        adds: probability that an answer also names the next slot of the agenda.
        adds_if_free: the same in answer to a question for anything.
        corrects: probability that a wrong repetition is corrected.
        changes: probability, in every reply, that the second thought comes, once its slot has been named.
    """

    wording: Wording
    patience: tuple[int, int]
    adds: float
    adds_if_free: float
    corrects: float
    changes: float

    def start(self, prompt: Prompt) -> Visit:
        columns = prompt.columns
        named = heard(prompt.text)
        agenda = tuple(slot for slot in columns["agenda"] if slot not in named)
        return Visit(Wish(**columns["wish"]), agenda, tuple(columns["second"]), columns["patience"])

    def outcomes(self, state: Visit, turn: Completion) -> list[Outcome]:
        act = understood(turn.text)
        if act is not None and act.orders:
            return self._worded((1.0, state, (("thanks", {}),)), done=True)
        state = replace(state, patience=state.patience - 1)
        if state.patience == 0:
            return self._worded((1.0, state, (("leaves", {}),)), done=True)
        if act is None:
            return self._worded((1.0, state, (("does not understand", {}),)))
        branches: list[Branch] = [(1.0, state, ())]
        for goes_on in (self._corrections, self._answers, self._second_thoughts):
            branches = [
                (chance * further, after, (*sentences, *more))
                for chance, before, sentences in branches
                for further, after, more in goes_on(before, act, sentences)
                if further > 0
            ]
        return [outcome for branch in branches for outcome in self._worded(branch)]

    def _corrections(self, visit: Visit, act: Act, said: Sequence[Sentence]) -> list[Branch]:
        wrong = [slot for slot, value in act.repeats.items() if value != getattr(visit.wish, slot)]
        if not wrong:
            return [(1.0, visit, ())]
        corrected = visit.told(wrong), (("corrects", visit.wish.only(wrong)),)
        return [(self.corrects, *corrected), (1 - self.corrects, visit, ())]

    def _answers(self, visit: Visit, act: Act, said: Sequence[Sentence]) -> list[Branch]:
        if act.asks is None:
            return [(1.0, visit, () if said else (("agrees", {}),))]
        free = act.asks == "anything"
        first = visit.agenda[:1] if free else (act.asks,)
        if not first:
            return [(1.0, visit, (("has said all", {}),))]
        added = [slot for slot in visit.agenda if slot not in first][:1]
        chance = (self.adds_if_free if free else self.adds) if added else 0.0
        named = ((1 - chance, first), (chance, (*first, *added)))
        return [(p, visit.told(slots), (("answers", visit.wish.only(slots)),)) for p, slots in named]

    def _second_thoughts(self, visit: Visit, act: Act, said: Sequence[Sentence]) -> list[Branch]:
        if visit.second is None or visit.second[0] in visit.agenda:
            return [(1.0, visit, ())]
        slot, value = visit.second
        changed = replace(visit, wish=visit.wish._replace(**{slot: value}), second=None)
        return [(self.changes, changed, (("changes", {slot: value}),)), (1 - self.changes, visit, ())]

    def _worded(self, branch: Branch, done: bool = False) -> list[Outcome]:
        """Return a branch in all its wordings, which are equally likely."""
        chance, visit, sentences = branch
        texts = [[fill(template, values) for template in self.wording[act]] for act, values in sentences]
        wordings = [" " + " ".join(chosen) for chosen in product(*texts)]
        return [(chance / len(wordings), visit, Reply(text, done=done)) for text in wordings]


SIMULATORS: Mapping[str, Guest] = {
    "first": Guest(FIRST_WORDING, patience=(5, 6), adds=0.3, adds_if_free=0.6, corrects=1.0, changes=0.1),
    "second": Guest(SECOND_WORDING, patience=(4, 5), adds=0.1, adds_if_free=0.4, corrects=0.5, changes=0.2),
}


def _draw(guest: Guest, rng: np.random.Generator) -> Row:
    wish = {slot: pick(rng, values) for slot, values in SLOTS.items()}
    agenda = rng.permutation(list(SLOTS)).tolist()
    slot = pick(rng, tuple(SLOTS))
    second = [slot, pick(rng, [value for value in SLOTS[slot] if value != wish[slot]])]
    low, high = guest.patience
    columns = {"wish": wish, "agenda": agenda, "second": second, "patience": int(rng.integers(low, high + 1))}
    named = {name: wish[name] for name in agenda[: int(rng.choice(len(_OPENING), p=_OPENING))]}
    opening = fill(pick(rng, guest.wording["opens" if named else "opens without a wish"]), named)
    name = f"{pick(rng, FIRST_NAME)} {pick(rng, LAST_NAME)}"
    return f"{name}: {pick(rng, GREETINGS)} {opening}\nWaiter:", columns


# --- waiters ---------------------------------------------------------------------------------------------------


def scripted(said: Sequence[str]) -> str:
    """Return the turn of a waiter that asks for one missing slot after the other, and then orders.

    It takes the last value that it heard, so its orders are always right.

    Args:
        said: everything the guest has said, the prompt first.

    >>> scripted(["Anna Doyle: Hello. A large pizza, please.", " A salad instead."])
    ' What would you like to drink?'
    """
    known = heard(" ".join(said))
    for slot in SLOTS:
        if slot not in known:
            return f" {QUESTIONS[slot][0]}"
    return f" {fill(ORDER, known)}"


def careless(rng: np.random.Generator) -> Speaker:
    """Make a waiter of the corpus: it asks needless questions, mishears, and orders too early."""

    def speak(said: Sequence[str]) -> str:
        known = heard(" ".join(said))
        missing = [slot for slot in SLOTS if slot not in known]
        if rng.random() < (0.2 if missing else 0.8):
            return f" {fill(ORDER, _misheard(rng, known, tuple(SLOTS)))}"
        mentioned = _misheard(rng, known, _some_slots(rng))
        if rng.random() < 0.1:
            return f" {fill(CHECK, mentioned)}"
        asked = pick(rng, missing) if missing and rng.random() < 0.8 else pick(rng, tuple(QUESTIONS))
        question = pick(rng, QUESTIONS[asked])
        return f" {fill(REPEAT, mentioned)} {question}" if rng.random() < 0.3 else f" {question}"

    return speak


def _some_slots(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(rng.permutation(list(SLOTS))[: int(rng.integers(1, len(SLOTS) + 1))].tolist())


def _misheard(rng: np.random.Generator, known: Mapping[str, str], slots: Sequence[str]) -> dict[str, str]:
    """Return values for these slots: some of those heard, otherwise guesses."""
    return {slot: known[slot] if slot in known and rng.random() < 0.6 else pick(rng, SLOTS[slot]) for slot in slots}


# --- rewards ---------------------------------------------------------------------------------------------------


def slots_right(
    prompts: list[Any], completions: list[Any], *, completion_ids: list[list[int]], **columns: list[Any]
) -> list[float]:
    """Return the share of the order's slots that are right, minus 0.05 for each of the waiter's turns, at least 0.

    An order is right if it is what the guest wants at its end: a second thought counts if it was told. Without an order
    in the last turn the reward is 0.
    """
    return [_gold(talk, wish) for talk, wish in zip(completions, columns["wish"], strict=True)]


def _gold(completion: str | Messages, wish: Mapping[str, str]) -> float:
    messages = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    turns = [message["content"] for message in messages if message["role"] == "assistant"]
    act = understood(turns[-1]) if turns else None
    if act is None or not act.orders:
        return 0.0
    # Guests never name a wrong value, so what they said last is what they want.
    told = heard(" ".join(message["content"] for message in messages if message["role"] != "assistant"))
    wanted = {**wish, **told}
    right = sum(act.repeats[slot] == wanted[slot] for slot in SLOTS)
    return max(0.0, right / len(SLOTS) - COST * len(turns))


def _accepts(prompt: str, completion: str) -> bool:
    """Return True if every line is a waiter's turn."""
    return all(TURNS.accepts(line) for line in completion.split("\n"))


# --- the task --------------------------------------------------------------------------------------------------


def talk(rng: np.random.Generator, care: float) -> list[Piece]:
    """Draw a dialogue of the corpus, with a guest of either kind.

    Args:
        rng: generator.
        care: probability that the waiter is the scripted one.
    """
    guest = pick(rng, tuple(SIMULATORS.values()))
    text, columns = _draw(guest, rng)
    speak = scripted if rng.random() < care else careless(rng)
    return pieces(text, converse(guest, Prompt(text, text, (), columns), speak, int(rng.integers(2**32))), GLUE)


@lru_cache
def waiter(simulator: str = "first") -> Task:
    """Return the task, built once for each simulator.

    Args:
        simulator: the kind of guests, ``"first"`` or ``"second"``.
    """
    if simulator not in SIMULATORS:
        hint = suggest(simulator, SIMULATORS, before="; ")
        raise ValueError(f"simulator={simulator!r} is not one of {sorted(SIMULATORS)}{hint}")
    guest, tokenizer = SIMULATORS[simulator], turns_tokenizer()
    return Task(
        name="Waiter",
        description="Take an order in a dialogue with a guest: ask, repeat, and order what the guest wants.",
        tokenizer=tokenizer,
        splits=draw_splits(partial(_draw, guest), tokenizer, np.random.default_rng(0)),
        gold=slots_right,
        end_token_ids=(int(tokenizer.eos_token_id),),
        max_prompt_length=22,
        max_new_tokens=112,
        metrics={"grammatical": Grammatical(_accepts)},
        base_model=TURNS_MODEL,
        world=guest,
        turn_end_ids=(line_end_id(tokenizer),),
        max_turn_tokens=16,
        glue=GLUE,
    )
