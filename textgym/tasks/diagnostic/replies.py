"""Tasks in which the policy must deal with what a world says: Lookup, Relay, Echo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textgym.tasks.diagnostic.build import diagnostic, letters, uniform
from textgym.tasks.task import Task
from textgym.types import Completion, FloatArray, Prompt
from textgym.worlds.world import KnownWorld, Outcome, Reply

FILLER = "x"
SPARE = 1
"""Turns of Lookup beyond those that are needed: a wrong call can be mended."""
SLIP = 0.04
"""Probability with which the reference of Lookup breaks the syntax, at each word."""


def lookup(keys: int = 3, hops: int = 1, cost: float = 0.05) -> Task:
    """Make a task with a tool: the prompt's key leads, by ``hops`` calls, to the word that answers it.

    The turn "call b ." looks up the key b; the reply is its entry, one of ``keys`` letters at random, which is the key
    of the next call or, after ``hops`` calls, the answer. A call of a wrong key replies "none". Every call costs
    ``cost``. The turn "b ." answers b and ends the episode; the right answer is worth 1, a guess before all calls are
    made nothing. A turn of another form ends the episode without pay, and there are ``hops`` + 2 turns at most. The
    reference follows the syntax, at random: J* → 1 − ``hops``·``cost`` as β → 0.
    """
    _check(2 <= keys <= 24, "keys", keys, "a number from 2 to 24")
    turns = hops + 1 + SPARE
    names = letters(keys)
    return diagnostic(
        "Lookup",
        f"Call a tool, read its reply and copy it: {hops} call{'s'[: hops != 1]} of the right key, at {cost:g} each.",
        words=[".", "call", *names],
        horizon=3 * turns + 2 * (turns - 1),
        beta=0.05,
        chances=_tool_syntax(keys),
        prompts=[{"prompt": f"{key} ?", "key": key} for key in names],
        world=Table(tuple(names), hops, cost),
        replies=("none",),
        turn_end=".",
        turn_tokens=3,
    )


def relay(gap: int = 20, now: float = 0.5) -> Task:
    """Make a task whose first word takes ``now`` at once, or 1 later: after ``gap`` words of the other side.

    The reward comes with the second turn, in which the policy's word does not matter, and the reference says either
    word with probability 1/2: J* = β·log((exp(``now``/β) + exp(1/β))/2). Generalised advantages over own tokens give
    the first word λ of the later reward. Run through the other side's words they would give it λ^(``gap`` + 1), which
    is less than ``now``: with λ = 0.95 and 20 words 0.34.
    """
    _check(now < 1, "now", now, "a number from 0 to below 1")
    return diagnostic(
        "Relay",
        f"Take {now:g} now or 1 later: credit must cross {gap} words that the other side says in between.",
        words=["now", "later"],
        horizon=gap + 2,
        beta=0.05,
        chances=uniform(2),
        world=Debtor(gap, now),
        replies=(FILLER,),
        turn_tokens=1,
    )


def echo(turns: int = 4, words: int = 4, gap: int = 2) -> Task:
    """Make a conversation of ``turns`` turns: say the first word that the other side said last.

    The other side says one of ``words`` words at random, but not the policy's last one, and ``gap`` words of filler.
    Each turn after the first pays 1/(``turns`` − 1) for the right word. The reference says all words with equal
    probability: J* = (K−1)·β·log(1 − 1/V + exp(1/((K−1)·β))/V) with K = ``turns`` and V = ``words``.
    """
    _check(turns >= 2, "turns", turns, "at least 2")
    _check(2 <= words <= 23, "words", words, "a number from 2 to 23")
    names = letters(words)
    return diagnostic(
        "Echo",
        f"Repeat the first word of the other side's last reply, {turns - 1} times: read what the world says.",
        words=names,
        horizon=turns + (turns - 1) * (1 + gap),
        beta=0.02,
        chances=uniform(words),
        world=Speaker(tuple(names), turns, gap),
        replies=(FILLER,),
        turn_tokens=1,
    )


def _tool_syntax(keys: int) -> FloatArray:
    """Return ``[V, V]`` probabilities of ".", "call" and the keys after each of them.

    The row of "." is also that after the other side's words, with which a turn begins.
    """
    key = np.full(keys, 1 / keys)
    begins, called, named = np.array([0, 0.5, *key / 2]), np.array([0, 0, *key]), np.eye(keys + 2)[0]
    syntax = np.stack([begins, called, *[named] * keys])
    return (1 - SLIP) * syntax + SLIP * uniform(keys + 2)


# --- worlds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table(KnownWorld):
    """World of Lookup. A state has the key to call, or the answer; the calls still needed; and the turns left."""

    keys: tuple[str, ...]
    hops: int
    cost: float

    def start(self, prompt: Prompt) -> tuple[str, int, int]:
        return str(prompt.columns["key"]), self.hops, self.hops + 1 + SPARE

    def outcomes(self, state: tuple[str, int, int], turn: Completion) -> Sequence[Outcome]:
        word, needed, turns = state
        said, last = turn.text.split(), turns == 1
        if len(said) == 1 and said[0] in self.keys:
            return [(1.0, state, Reply("", float(said[0] == word and not needed), done=True))]
        if len(said) != 2 or said[0] != "call" or said[1] not in self.keys:
            return [(1.0, state, Reply("", done=True))]
        if not needed or said[1] != word:
            return [(1.0, (word, needed, turns - 1), Reply("none ?", -self.cost, last))]
        entries = [(entry, (entry, needed - 1, turns - 1)) for entry in self.keys]
        return [(1 / len(entries), after, Reply(f"{entry} ?", -self.cost, last)) for entry, after in entries]


@dataclass(frozen=True)
class Debtor(KnownWorld):
    """World of Relay. A state is what is owed for the first turn, None before it."""

    gap: int
    now: float

    def start(self, prompt: Prompt) -> None:
        return None

    def outcomes(self, state: float | None, turn: Completion) -> Sequence[Outcome]:
        if state is not None:
            return [(1.0, state, Reply("", state, done=True))]
        at_once, owed = (0.0, 1.0) if turn.text.strip() == "later" else (self.now, 0.0)
        return [(1.0, owed, Reply(" ".join([FILLER] * self.gap), at_once))]


@dataclass(frozen=True)
class Speaker(KnownWorld):
    """World of Echo. A state has the word to repeat, empty before the first reply, and the turns left."""

    words: tuple[str, ...]
    turns: int
    gap: int

    def start(self, prompt: Prompt) -> tuple[str, int]:
        return "", self.turns

    def outcomes(self, state: tuple[str, int], turn: Completion) -> Sequence[Outcome]:
        (word, left), said = state, turn.text.strip()
        reward = float(said == word) / (self.turns - 1)
        if left == 1:
            return [(1.0, ("", 0), Reply("", reward, done=True))]
        others = [other for other in self.words if other != said]
        says = [(other, " ".join([other, *[FILLER] * self.gap])) for other in others]
        return [(1 / len(says), (other, left - 1), Reply(text, reward)) for other, text in says]


def _check(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}={got}; expected {expected}")
