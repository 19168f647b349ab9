"""The calculator's task: the tool by hand, gold, and the same problems and mistakes with and without it."""

import re
from itertools import chain
from typing import Any

import numpy as np
import pytest

from textgym.tasks.mini.arithmetic import ARITHMETIC, Equation, draw_problem
from textgym.tasks.mini.calculator import CALCULATOR, NO_NUMBER, calculator, prompt_text, talk, turns
from textgym.tasks.mini.conversation import converse
from textgym.tasks.mini.languages.words import NUMBER
from textgym.testing import reference_probe, score
from textgym.types import Completion, Prompt
from textgym.worlds.world import Reply

WORKING = [Equation(7, "plus", 3, 10), Equation(10, "minus", 2, 8)]
LINES = [" <call>plus(seven, three)</call>", " <call>minus(ten, two)</call>", " The answer is eight."]


def gold(*turns: str, answer: str = "eight") -> float:
    messages = [{"role": role, "content": text} for turn in turns for role, text in (("assistant", turn), ("tool", ""))]
    reward: Any = calculator().gold
    (score,) = reward(["Problem:"], [messages], completion_ids=[[]], answer=[answer])
    return score


def solve(text: str) -> int:
    """Solve a problem from its words alone."""
    told = [NUMBER.index(word) for word in re.findall("[a-z]+", text) if word in NUMBER]
    if "together" in text:
        return sum(told)
    if "How many more" in text:
        return told[0] - told[1]
    changes = re.findall(r"(buys|finds|gets|gives away|loses|sells) (\w+)", text)
    have = told[0] * told[1] if "each" in text else told[0]
    for verb, number in changes:
        have += NUMBER.index(number) * (1 if verb in ("buys", "finds", "gets") else -1)
    return have


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        (" <call>plus(seven, three)</call>", "ten"),
        (" <call>minus(seven, three)</call>", "four"),
        (" <call>times(seven, two)</call>", "fourteen"),
        (" <call>times(four, five)</call>", "twenty"),
        (" <call>minus(seven, seven)</call>", "zero"),
        (" <call>minus(three, seven)</call>", f"error: ValueError: {NO_NUMBER}"),
        (" <call>times(seven, three)</call>", f"error: ValueError: {NO_NUMBER}"),
        (" <call>plus(seven, apples)</call>", f"error: ValueError: {NO_NUMBER}"),
    ],
)
def test_the_tool_by_hand(turn: str, says: str) -> None:
    ((_, _, reply),) = CALCULATOR.outcomes(0, Completion(turn, (), "stop"))
    assert reply == Reply(says)


def test_a_line_without_a_call_is_the_answer() -> None:
    ((_, _, reply),) = CALCULATOR.outcomes(0, Completion(" The answer is ten.", (), "stop"))
    assert reply.done


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (LINES, 1),
        ([" The answer is eight."], 1),
        ([*LINES[:2], " The answer is ten."], 0),
        ([*LINES[:2], " The answer is eight"], 0),
        ([" The answer is eight.", " The answer is eight."], 0),  # one answer is stated, and it is the last line
        ([" The answer is eight.", " Or nine."], 0),
        (LINES[:2], 0),
        ([""], 0),
    ],
)
def test_gold_by_hand(turns: list[str], expected: float) -> None:
    assert gold(*turns) == expected


def test_a_solution_is_calls_and_an_answer() -> None:
    assert turns((WORKING, 8)) == LINES


def test_references_are_right_with_and_without_the_tool() -> None:
    """Problems are read again from their text by the solver of Arithmetic's tests."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        problem = draw_problem(rng)
        _, answer = problem.solution()
        text = prompt_text(problem, tool=True)
        assert solve(text) == answer
        lines = turns(problem.solution())
        messages = converse(CALCULATOR, Prompt(text, text, ()), lambda said, lines=lines: lines[len(said) - 1], 0)
        results = [message["content"] for message in messages if message["role"] == "tool"]
        assert results[-2:] == [NUMBER[answer], ""]
        assert gold(*lines, answer=NUMBER[answer]) == 1
    for tool in (True, False):
        task = calculator(tool)
        assert score(task.gold, [reference_probe(task, prompt) for prompt in task.prompts("test")[:50]]) == [1.0] * 50


def test_the_problems_are_the_same_with_and_without_the_tool() -> None:
    with_tool, plain = calculator(), calculator(tool=False)
    for split in ("train", "test"):
        pairs = zip(with_tool.prompts(split), plain.prompts(split), strict=True)
        for one, other in pairs:
            assert one.text == other.text.replace("Answer:", "Calculator:") != other.text
            assert one.columns["answer"] == other.columns["answer"]
    assert plain.world is None
    assert with_tool.world is CALCULATOR


def test_careless_solvers_are_right_three_times_in_ten_with_and_without_the_tool() -> None:
    for tool in (True, False):
        rng = np.random.default_rng(0)
        talks = [talk(rng, 0.0, tool) for _ in range(1000)]
        right = [f"The answer is {NUMBER[solve(one[0][0])]}.\n" in one[-1][0] for one in talks]
        assert np.mean(right) == pytest.approx(0.3, abs=0.05)
        careful = [talk(rng, 1.0, tool) for _ in range(200)]
        assert all(f"The answer is {NUMBER[solve(one[0][0])]}.\n" in one[-1][0] for one in careful)


@pytest.mark.parametrize("tool", [True, False])
def test_the_corpus_is_tokens_of_words_that_concatenate(tool: bool) -> None:
    task, rng = calculator(tool), np.random.default_rng(0)
    for _ in range(200):
        parts = talk(rng, 0.0, tool)
        ids = [task.tokenizer(text)["input_ids"] for text, _ in parts]
        assert list(chain(*ids)) == task.tokenizer("".join(text for text, _ in parts))["input_ids"]
        assert len(ids[0]) <= task.max_prompt_length
        assert sum(map(len, ids[1:])) <= task.max_new_tokens
        assert not tool or max(len(one) for one, (_, own) in zip(ids, parts, strict=True) if own) <= 16


def test_without_the_tool_it_is_arithmetic() -> None:
    """Wherever Arithmetic's gold is 1, so is this one."""
    plain, rng = calculator(tool=False), np.random.default_rng(2)
    for _ in range(100):
        example = ARITHMETIC.draw(rng)
        assert plain.gold([""], [example.reference], completion_ids=[[]], answer=[example.columns["answer"]]) == [1.0]
