"""Tasks in which a world keeps something hidden: Gamble, Bisect, Clarify.

A state of these worlds is the belief of one who has seen the episode so far. What is hidden is drawn in ``outcomes``
only, when it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textgym.tasks.diagnostic.build import diagnostic, uniform
from textgym.tasks.task import Task
from textgym.types import Completion, FloatArray, Prompt
from textgym.worlds.world import KnownWorld, Outcome, Reply

BETA = 0.05


def gamble(safe: float = 0.75, rounds: int = 2) -> Task:
    """Make a task of ``rounds`` bets: keep a sure share ``safe`` of a round's stake, or have all or nothing by chance.

    A round's stake is 1/``rounds``, so that a sure round is worth s = ``safe``/``rounds`` and a bet 0.5/``rounds`` on
    average. The reference does either with probability 1/2, and rounds do not depend on each other:
    J* = ``rounds``·β·log((exp(s/β) + exp(0.5/(``rounds``·β)))/2). The formula for a single response,
    β·log E_ref[exp(R/β)], takes the world's luck for the policy's choice and claims more.
    """
    _check(safe <= 1, "safe", safe, "a number from 0 to 1")
    return diagnostic(
        "Gamble",
        f"Keep {safe:g} of a stake for sure, or bet it at even chances: the world's luck is no skill of the policy.",
        words=["keep", "bet"],
        horizon=2 * rounds - 1,
        beta=BETA,
        chances=uniform(2),
        world=Casino(safe, rounds),
        replies=("kept", "won", "lost"),
        turn_tokens=1,
    )


def bisect(hypotheses: int = 8, questions: int = 3, cost: float = 0.05) -> Task:
    """Make a guessing game: one of ``hypotheses`` in a row is true, and up to ``questions`` may be asked about it.

    The other side says how many hypotheses are left, n. A word k below n asks whether the truth is among the first k
    of them; a question costs ``cost``. Every other word guesses one of those left, and so does every word when no
    question is left; a right guess is worth 1. The reference asks each of the n − 1 questions, and guesses, with
    probability 1/n. With q questions left the optimum is V(n, 0) = 1/n and

        V(n, q) = β·log(1/n·[exp(1/(n·β)) + Σ_k exp((−cost + k/n·V(k, q−1) + (n−k)/n·V(n−k, q−1))/β)])

    A good policy halves: with 8 hypotheses and 3 questions J* → 1 − 3·``cost`` as β → 0.
    """
    _check(2 <= hypotheses <= MOST_HYPOTHESES, "hypotheses", hypotheses, f"a number from 2 to {MOST_HYPOTHESES}")
    numbers = [str(k) for k in range(1, hypotheses + 1)]
    return diagnostic(
        "Bisect",
        f"Find one of {hypotheses} hypotheses with {questions} questions, which cost {cost:g} each: halving is best.",
        words=numbers,
        horizon=2 * questions + 1,
        beta=BETA,
        chances=np.array([_asks_or_guesses(n, hypotheses) for n in range(1, hypotheses + 1)]),
        prompts=(numbers[-1],),
        world=Secret(hypotheses, questions, cost),
        turn_tokens=1,
    )


def clarify(priors: tuple[float, ...] = (0.5, 0.9), reliability: float = 0.9, cost: float = 0.1) -> Task:
    """Make a task whose prompt is the probability that "a" is meant, otherwise "b": answer, or ask first.

    To ask costs ``cost``; the reply is right with probability ``reliability``. Then the policy must answer: to ask once
    more costs again and ends the episode. A right answer is worth 1. As β → 0, and with a prior q ≥ 1/2 for each prompt
    that is at most ``reliability``, the best return is max(q, ``reliability`` − ``cost``).
    """
    _check(priors and all(0 < prior <= 1 for prior in priors), "priors", priors, "one or more probabilities above 0")
    _check(0 < reliability <= 1, "reliability", reliability, "a probability above 0")
    return diagnostic(
        "Clarify",
        f"Answer what is probably meant, or ask first for {cost:g}: a question pays where the prompt is vague.",
        words=["ask", *ANSWERS],
        horizon=3,
        beta=BETA,
        chances=uniform(3),
        prompts=[{"prompt": f"{prior:g}", "prior": prior} for prior in priors],
        world=Asker(reliability, cost),
        turn_tokens=1,
    )


MOST_HYPOTHESES = 24
"""As many different rows as the reference can hold with ease."""
ANSWERS = ("a", "b")


def _asks_or_guesses(n: int, words: int) -> FloatArray:
    """Return ``[words]`` probabilities after the number n: 1/n for each question, and 1/n for all guesses together."""
    return np.where(np.arange(1, words + 1) < n, 1 / n, 1 / (n * (words - n + 1)))


# --- worlds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Casino(KnownWorld):
    """World of Gamble. A state is the number of rounds that are left."""

    safe: float
    rounds: int

    def start(self, prompt: Prompt) -> int:
        return self.rounds

    def outcomes(self, state: int, turn: Completion) -> Sequence[Outcome]:
        left = state - 1
        ends = [(1.0, "kept", self.safe)] if turn.text.strip() == "keep" else [(0.5, "won", 1.0), (0.5, "lost", 0.0)]
        return [(chance, left, Reply(says, share / self.rounds, left == 0)) for chance, says, share in ends]


@dataclass(frozen=True)
class Secret(KnownWorld):
    """World of Bisect. A state has the numbers of hypotheses and of questions that are left.

    All hypotheses left are equally likely and stand in a row, so their number is the whole belief.
    """

    hypotheses: int
    questions: int
    cost: float

    def start(self, prompt: Prompt) -> tuple[int, int]:
        return self.hypotheses, self.questions

    def outcomes(self, state: tuple[int, int], turn: Completion) -> Sequence[Outcome]:
        (n, questions), k = state, int(turn.text)
        if k < n and questions:
            return [(part / n, (part, questions - 1), Reply(str(part), -self.cost)) for part in (k, n - k)]
        return _judged(1 / n, state)


@dataclass(frozen=True)
class Asker(KnownWorld):
    """World of Clarify. A state has the probability that "a" is meant, and whether the policy has asked."""

    reliability: float
    cost: float

    def start(self, prompt: Prompt) -> tuple[float, bool]:
        return float(prompt.columns["prior"]), False

    def outcomes(self, state: tuple[float, bool], turn: Completion) -> Sequence[Outcome]:
        (belief, asked), said = state, turn.text.strip()
        if said != "ask":
            return _judged(belief if said == "a" else 1 - belief, state)
        if asked:
            return [(1.0, state, Reply("", -self.cost, done=True))]
        right, wrong = self.reliability, 1 - self.reliability
        # Bayes: each reply has its probability under either meaning.
        both = [("a", belief * right, (1 - belief) * wrong), ("b", belief * wrong, (1 - belief) * right)]
        return [(a + b, (a / (a + b), True), Reply(says, -self.cost)) for says, a, b in both if a + b > 0]


def _judged(chance: float, state: object) -> list[Outcome]:
    """Return the ends of an episode by an answer that is right with probability ``chance``."""
    return [(p, state, Reply("", reward, done=True)) for p, reward in ((chance, 1.0), (1 - chance, 0.0))]


def _check(holds: object, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}={got}; expected {expected}")
