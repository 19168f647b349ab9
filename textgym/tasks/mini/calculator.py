"""``textgym/Calculator-v0``: solve the word problems of Arithmetic with a calculator.

A turn is a line. A line with a call, such as ``<call>plus(seven, three)</call>``, is answered with the result; any
other line is the answer. Without the tool (``tool=False``) working and answer are one line, as in Arithmetic. The
problems and the base model are the same, so that the difference in gold is the worth of the tool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from textgym import worlds
from textgym.tasks.mini.arithmetic import Problem, Solution, answers, draw_problem, written, wrong_solution
from textgym.tasks.mini.conversation import TURNS_MODEL, Piece, converse, line_end_id, pieces, turns_tokenizer
from textgym.tasks.mini.languages.words import NUMBER
from textgym.tasks.mini.miniature import Row, draw_splits
from textgym.tasks.task import Task, per_text
from textgym.types import Prompt
from textgym.worlds.glue import Glue

GLUE = Glue(" ", "\n", closing="\n")

_RIGHT = 0.3  # probability that a careless solver is right


# --- the calculator --------------------------------------------------------------------------------------------


def plus(a: str, b: str) -> str:
    """Add two numbers.

    Args:
        a: a number from zero to twenty, in words.
        b: another.
    """
    return _word(_number(a) + _number(b))


def minus(a: str, b: str) -> str:
    """Subtract one number from another.

    Args:
        a: a number from zero to twenty, in words.
        b: the number that is subtracted.
    """
    return _word(_number(a) - _number(b))


def times(a: str, b: str) -> str:
    """Multiply two numbers.

    Args:
        a: a number from zero to twenty, in words.
        b: another.
    """
    return _word(_number(a) * _number(b))


def _number(word: str) -> int:
    if word not in NUMBER:
        raise ValueError(NO_NUMBER)
    return NUMBER.index(word)


def _word(number: int) -> str:
    if not 0 <= number < len(NUMBER):
        raise ValueError(NO_NUMBER)
    return NUMBER[number]


NO_NUMBER = "no number from zero to twenty"
CALCULATOR = worlds.tools([plus, minus, times], shown=(ValueError,), time_limit=None)


# --- problems and solutions ------------------------------------------------------------------------------------


def prompt_text(problem: Problem, tool: bool) -> str:
    """Return the prompt with a problem, which ends with the kind of solution that is wanted."""
    return f"Problem: {problem.text} {'Calculator' if tool else 'Answer'}:"


def turns(solution: Solution) -> list[str]:
    """Return a solution as turns: a call for each line of the working, and the answer.

    >>> from textgym.tasks.mini.arithmetic import Equation
    >>> turns(([Equation(7, "plus", 3, 10)], 10))
    [' <call>plus(seven, three)</call>', ' The answer is ten.']
    """
    equations, answer = solution
    calls = [f" <call>{sign}({NUMBER[left]}, {NUMBER[right]})</call>" for left, sign, right, _ in equations]
    return [*calls, f" The answer is {NUMBER[answer]}."]


def talk(rng: np.random.Generator, care: float, tool: bool) -> list[Piece]:
    """Draw a solution of the corpus. Careless solvers make the same mistakes with and without the tool.

    Args:
        rng: generator.
        care: probability that the solution is a reference; others are right three times in ten.
        tool: True for a solution with the calculator.
    """
    problem = draw_problem(rng)
    right = rng.random() < care + (1 - care) * _RIGHT
    solution = problem.solution() if right else wrong_solution(rng, problem)
    text = prompt_text(problem, tool)
    if not tool:
        return pieces(text, [{"role": "assistant", "content": written(solution)}], GLUE)
    lines = turns(solution)
    # The solver knows all its lines beforehand, and does not look at the results.
    messages = converse(CALCULATOR, Prompt(text, text, ()), lambda said: lines[len(said) - 1], seed=0)
    return pieces(text, messages, GLUE)


# --- the task --------------------------------------------------------------------------------------------------


def right_answer(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    """Return 1 if the last turn ends in "The answer is <number>.", the number is right, and no other answer is stated.

    Otherwise return 0. Calls cost nothing.
    """
    return float(answers(completion, columns["answer"]))


@lru_cache
def calculator(tool: bool = True) -> Task:
    """Return the task, built once with and once without the tool.

    Args:
        tool: True for problems that are solved with the calculator.
    """

    def draw(rng: np.random.Generator) -> Row:
        problem = draw_problem(rng)
        solution = problem.solution()
        reference = turns(solution) if tool else written(solution)
        return prompt_text(problem, tool), {"answer": NUMBER[solution[1]], "reference": reference}

    tokenizer = turns_tokenizer()
    line_end = line_end_id(tokenizer)
    task = Task(
        name="Calculator",
        description="Solve a word problem with a calculator, which is called from the text.",
        tokenizer=tokenizer,
        splits=draw_splits(draw, tokenizer, np.random.default_rng(0)),
        gold=per_text(right_answer),
        end_token_ids=(line_end,),
        max_prompt_length=26,
        max_new_tokens=20,
        base_model=TURNS_MODEL,
    )
    if not tool:
        return task
    return replace(
        task,
        end_token_ids=(int(tokenizer.eos_token_id),),
        max_new_tokens=48,
        world=CALCULATOR,
        turn_end_ids=(line_end,),
        max_turn_tokens=16,
        glue=GLUE,
    )
