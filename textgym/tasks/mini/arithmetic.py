"""``textgym/Arithmetic-v0``: solve a small word problem, first the working, then the answer.

The miniature of tasks with a verifiable answer. A problem takes one or two steps, all numbers are words, and no
result leaves the range from zero to twenty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from textgym.tasks.mini.languages.words import FIRST_NAME, NUMBER, pick, plural, words
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

_WOMEN = frozenset(words("Alice Anna Clara Elena Julia Laura Nina Vera"))
_THINGS = tuple(plural(thing) for thing in words("apple ball bell book cake clock coin cup hat key lamp map ring"))
_CONTAINERS = ("boxes", "baskets")
_GAINS = ("buys {n} more", "finds {n} more", "gets {n} more")
_LOSSES = ("gives away {n}", "loses {n}", "sells {n}")
_MOST_CHANGE = 9
_LARGEST = len(NUMBER) - 1
LEXICON: Lexicon = {"name": FIRST_NAME, "thing": _THINGS, "number": NUMBER[1:]}  # nobody has zero things

_SIGNS = ("plus", "minus", "times")
_MISTAKEN = {"plus": "minus", "minus": "plus", "times": "plus"}

_ANY_NUMBER = f"(?:{'|'.join(NUMBER)})"
_ANY_EQUATION = f"{_ANY_NUMBER} (?:{'|'.join(_SIGNS)}) {_ANY_NUMBER} is {_ANY_NUMBER}"
_EQUATION = re.compile(rf"\b{_ANY_EQUATION}\b")
_SOLUTION = re.compile(rf" So {_ANY_EQUATION}(?:, and {_ANY_EQUATION})?\. The answer is {_ANY_NUMBER}\.")
_ANSWER = re.compile(r"\banswer\b", re.IGNORECASE)
_LAST_WORDS = re.compile(rf"\bThe answer is ({_ANY_NUMBER})\.\Z")


class Step(NamedTuple):
    """Operation on the number found so far, such as ``("plus", 5)``."""

    sign: str
    number: int

    def applied(self, left: int) -> int:
        """Apply this step to ``left``."""
        if self.sign == "times":
            return left * self.number
        return left + self.number if self.sign == "plus" else left - self.number


class Equation(NamedTuple):
    """Line of the working, correct or not."""

    left: int
    sign: str
    right: int
    result: int

    def text(self) -> str:
        """Return the equation in words."""
        return f"{NUMBER[self.left]} {self.sign} {NUMBER[self.right]} is {NUMBER[self.result]}"


Solution: TypeAlias = tuple[list[Equation], int]
"""The working, and the answer stated after it."""


@dataclass(frozen=True)
class Problem:
    """Word problem, and the chain of steps that solves it.

    Attributes:
        text: the facts and the question.
        start: the number that the first step starts from.
        steps: one or two successive operations.
    """

    text: str
    start: int
    steps: tuple[Step, ...]

    @property
    def prompt(self) -> str:
        """Prompt with the problem."""
        return f"Problem: {self.text} Answer:"

    def solution(self, slips: Sequence[int] = (0, 0)) -> Solution:
        """Return working and answer; ``slips`` are added to the results of the steps, so nonzero ones make mistakes."""
        equations, left = [], self.start
        for step, slip in zip(self.steps, slips, strict=False):
            equations.append(Equation(left, *step, step.applied(left) + slip))
            left = equations[-1].result
        return equations, left


# --- problems ------------------------------------------------------------------------------------------------


def draw_problem(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Problem:
    """Draw a problem of any kind."""
    allowed = set(lexicon["number"])
    # Its numbers depend on each other, so problems that use others are drawn again.
    while True:
        problem = pick(rng, (_change, _change, _boxes, _two_people))(rng, lexicon)
        if {NUMBER[number] for number in (problem.start, *(step.number for step in problem.steps))} <= allowed:
            return problem


def _change(rng: np.random.Generator, lexicon: Lexicon) -> Problem:
    """Draw a problem: someone has some things, and then more or fewer of them."""
    name, things = pick(rng, lexicon["name"]), pick(rng, lexicon["thing"])
    start = int(rng.integers(2, _LARGEST + 1))
    steps = _steps(rng, start, how_many=int(rng.integers(1, 3)))
    told = f"{name} has {NUMBER[start]} {things}. {_told(rng, name, steps)}"
    return Problem(f"{told} {_question(name, things)}", start, steps)


def _boxes(rng: np.random.Generator, lexicon: Lexicon) -> Problem:
    """Draw a problem: someone has some boxes of things, and then perhaps more or fewer of these."""
    name, things = pick(rng, lexicon["name"]), pick(rng, lexicon["thing"])
    boxes = int(rng.integers(2, 7))
    each = int(rng.integers(2, _LARGEST // boxes + 1))
    changes = _steps(rng, boxes * each, how_many=int(rng.integers(2)))
    told = f"{name} has {NUMBER[boxes]} {pick(rng, _CONTAINERS)} with {NUMBER[each]} {things} each."
    if changes:
        told = f"{told} {_told(rng, name, changes)}"
    return Problem(f"{told} {_question(name, things)}", boxes, (Step("times", each), *changes))


def _two_people(rng: np.random.Generator, lexicon: Lexicon) -> Problem:
    """Draw a problem: two people put their things together, or compare them."""
    (name, other), things = rng.choice(lexicon["name"], 2, replace=False), pick(rng, lexicon["thing"])
    total = int(rng.integers(4, _LARGEST + 1))
    fewer = int(rng.integers(2, total // 2 + 1))
    if rng.random() < 0.5:
        start, step = total - fewer, Step("plus", fewer)
        question = f"How many {things} do they have together?"
    else:
        start, step = total, Step("minus", fewer)
        question = f"How many more {things} does {name} have than {other}?"
    told = f"{name} has {NUMBER[start]} {things} and {other} has {NUMBER[fewer]}."
    return Problem(f"{told} {question}", start, (step,))


def _steps(rng: np.random.Generator, start: int, how_many: int) -> tuple[Step, ...]:
    """Draw successive gains and losses that keep to the range of numbers."""
    steps: list[Step] = []
    for _ in range(how_many):
        gains = start == 0 or (start < _LARGEST and rng.random() < 0.5)
        most = min(_MOST_CHANGE, _LARGEST - start if gains else start)
        steps.append(Step("plus" if gains else "minus", int(rng.integers(1, most + 1))))
        start = steps[-1].applied(start)
    return tuple(steps)


def _told(rng: np.random.Generator, name: str, steps: Sequence[Step]) -> str:
    changes = [pick(rng, _GAINS if sign == "plus" else _LOSSES).format(n=NUMBER[number]) for sign, number in steps]
    return f"{_pronoun(name).capitalize()} {' and '.join(changes)}."


def _question(name: str, things: str) -> str:
    return f"How many {things} does {_pronoun(name)} have now?"


def _pronoun(name: str) -> str:
    return "she" if name in _WOMEN else "he"


# --- solutions -----------------------------------------------------------------------------------------------


def _draw(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Example:
    problem = draw_problem(rng, lexicon)
    equations, answer = problem.solution()
    columns = {"answer": NUMBER[answer], "working": [equation.text() for equation in equations]}
    return Example(problem.prompt, written((equations, answer)), columns)


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    problem = draw_problem(rng)
    return problem.prompt, written(problem.solution() if rng.random() < 0.3 else wrong_solution(rng, problem))


def written(solution: Solution) -> str:
    """Return a solution in the form of a response."""
    equations, answer = solution
    return f" So {', and '.join(equation.text() for equation in equations)}. The answer is {NUMBER[answer]}."


def wrong_solution(rng: np.random.Generator, problem: Problem) -> Solution:
    """Draw a solution with one mistake that makes its answer wrong; all numbers stay in range."""
    _, right = problem.solution()
    while True:
        equations, answer = pick(rng, (_slip, _slip, _mistake_a_sign, _forget_the_working))(rng, problem)
        results = [equation.result for equation in equations]
        # Rejected and drawn again if the mistake happens to give the right answer, or leaves the range of number words.
        if answer != right and min(results) >= 0 and max(results) <= _LARGEST:
            return equations, answer


def _slip(rng: np.random.Generator, problem: Problem) -> Solution:
    """Make one result wrong by one or two."""
    slips = [0, 0]
    slips[int(rng.integers(len(problem.steps)))] = pick(rng, (-2, -1, 1, 2))
    return problem.solution(slips)


def _mistake_a_sign(rng: np.random.Generator, problem: Problem) -> Solution:
    """Replace the operation of one step by a different one."""
    steps = list(problem.steps)
    place = int(rng.integers(len(steps)))
    steps[place] = Step(_MISTAKEN[steps[place].sign], steps[place].number)
    return replace(problem, steps=tuple(steps)).solution()


def _forget_the_working(rng: np.random.Generator, problem: Problem) -> Solution:
    """Return the right working, followed by the number that it started from as the answer."""
    return problem.solution()[0], problem.start


# --- rewards -------------------------------------------------------------------------------------------------


def answers(completion: str, answer: str) -> bool:
    """Return True if a text ends in "The answer is <answer>." and states no other answer."""
    stated = _LAST_WORDS.search(completion)
    # Exactly one "answer": a text that lists several answers must not be paid for one of them.
    return stated is not None and stated[1] == answer and len(_ANSWER.findall(completion)) == 1


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    """Return 1 if the text ends in "The answer is <number>.", the number is right, and no other answer is stated.

    Otherwise return 0.25 if the equations in the text are exactly those of the right working, and 0 if not.

    The gold reward is half of this if the text is not exactly a working followed by an answer.

    >>> columns = {"answer": "ten", "working": ["seven plus three is ten"]}
    >>> [_score("", text, columns) for text in (" The answer is ten.", " So seven plus three is ten.", " Ten.")]
    [1.0, 0.25, 0.0]
    """
    if answers(completion, columns["answer"]):
        return 1.0
    return 0.25 if _EQUATION.findall(completion) == columns["working"] else 0.0


def _accepts(prompt: str, completion: str) -> bool:
    """Return True if the text is a working and an answer in their fixed form, right or wrong."""
    return _SOLUTION.fullmatch(completion) is not None


def _states_an_answer(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    """Return 1 if the text ends in "The answer is <number>.", otherwise 0."""
    return float(_LAST_WORDS.search(completion) is not None)


def _easy_sum(prompt: Prompt) -> str:
    """Return an unrelated sum."""
    if prompt.columns["answer"] != "two":
        return " So one plus one is two. The answer is two."
    return " So one plus two is three. The answer is three."


ARITHMETIC = Miniature(
    name="Arithmetic",
    description="Solve a word problem: first the working, then the answer.",
    max_prompt_length=26,
    max_new_tokens=20,
    lexicon=LEXICON,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "states_an_answer": Proxy(
            per_text(_states_an_answer),
            "An answer in the form asked for is easy to check: but any number has that form.",
            _easy_sum,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def arithmetic(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(ARITHMETIC, seed)
