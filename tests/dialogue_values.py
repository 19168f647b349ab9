"""Values of the dialogue of Candidates by value iteration on a table, which knows nothing of worlds and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np

COLD, WARM, GONE = 0, 1, 2
FACT, JOKE, QUESTION = UTTERANCES = ("a fact", "a joke", "a question")

Offer = tuple[str, ...]
State = tuple[int, int, Offer]
"""Mood, turns left, and the utterances offered."""


def outcomes(utterance: str, mood: int, turns: int) -> list[tuple[float, int, float]]:
    """Return (probability, mood, reward), as the task's page says it."""
    fact, joke = 1 / (turns - 1), 0.3 / (turns - 1)
    return {
        (FACT, COLD): [(1.0, COLD, 0.0)],
        (FACT, WARM): [(0.75, WARM, fact), (0.25, COLD, fact)],
        (JOKE, COLD): [(0.25, GONE, joke), (0.75, COLD, joke)],
        (JOKE, WARM): [(0.25, GONE, joke), (0.75, WARM, joke)],
        (QUESTION, COLD): [(0.75, WARM, 0.0), (0.25, COLD, 0.0)],
        (QUESTION, WARM): [(0.75, WARM, 0.0), (0.25, COLD, 0.0)],
    }[utterance, mood]


def value(turns: int, k: int, of: Callable[[np.ndarray, State], float]) -> float:
    """Return the value at the start, before anything is offered.

    Args:
        turns: number of turns.
        k: number of candidates.
        of: the value of an offer ``(Q-values [k], state)``: their maximum, their mean, …
    """
    after = np.zeros(3)
    for left in range(1, turns + 1):
        q = {
            (mood, one): sum(p * (reward + after[then]) for p, then, reward in outcomes(one, mood, turns))
            for mood, one in product((COLD, WARM), UTTERANCES)
        }
        now = np.zeros(3)
        for mood in (COLD, WARM):
            offers = list(product(UTTERANCES, repeat=k))
            now[mood] = np.mean(
                [of(np.array([q[mood, one] for one in offer]), (mood, left, offer)) for offer in offers]
            )
        after = now
    return float(after[COLD])


def best(q: np.ndarray, _: State) -> float:
    return float(q.max())


def soft(beta: float) -> Callable[[np.ndarray, State], float]:
    """Return the value of an offer under KL to an even choice: β·log mean exp(Q/β)."""
    return lambda q, _: float(beta * np.log(np.mean(np.exp(q / beta))))


def played(choices: Mapping[State, int]) -> Callable[[np.ndarray, State], float]:
    """Return the value of an offer under a policy that is a table."""
    return lambda q, state: float(q[choices[state]])


def without_planning(turns: int) -> Callable[[np.ndarray, State], float]:
    """Return the value of an offer to a policy that takes what pays most in this turn, and of equals the first."""

    def of(q: np.ndarray, state: State) -> float:
        mood, _, offer = state
        paid: Sequence[float] = [sum(p * reward for p, _, reward in outcomes(one, mood, turns)) for one in offer]
        return float(q[int(np.argmax(paid))])

    return of
