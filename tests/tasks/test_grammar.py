"""Grammars whose languages and probabilities are known on paper."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgym.tasks.grammar import Grammar, Rules

BRACKETS = Grammar({"brackets": {"": 3, "({brackets}){brackets}": 1}}, "brackets")
ARITHMETIC = Grammar(
    {"sum": {"{factor}": 2, "{factor} + {sum}": 1}, "factor": {"{digit}": 3, "({sum})": 1}, "digit": ["1", "2"]},
    "sum",
)
AMBIGUOUS = Grammar({"pair": ["{run}{run}"], "run": ["a", "aa"]}, "pair")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), ("()", True), ("(()())()", True), ("(", False), (")(", False), ("(()", False), ("()x", False)],
)
def test_recursion_and_empty_texts(text: str, expected: bool) -> None:
    assert BRACKETS.accepts(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("1 + (2 + 1) + 2", True), ("((2))", True), ("1 +", False), ("1+2", False), ("3", False)],
)
def test_arithmetic(text: str, expected: bool) -> None:
    assert ARITHMETIC.accepts(text) is expected


def test_a_word_may_be_the_beginning_of_another() -> None:
    grammar = Grammar({"s": ["{word}{rest}"], "word": ["star", "starling", "s"], "rest": ["", "ling"]}, "s")
    assert all(map(grammar.accepts, ["star", "starling", "starlingling", "s", "sling"]))
    assert not any(map(grammar.accepts, ["", "st", "ling", "starl", "starlinglingling"]))


def test_the_probability_of_a_text_sums_over_its_derivations() -> None:
    # a+aa and aa+a both give "aaa": 2 * 1/4.
    probabilities = [math.exp(AMBIGUOUS.log_probability("a" * length)) for length in range(6)]
    assert probabilities == pytest.approx([0, 0, 1 / 4, 1 / 2, 1 / 4, 0])


def test_weights_multiply_along_a_derivation() -> None:
    # sum -> factor + sum (1/3), factor -> digit (3/4), "1" (1/2); sum -> factor (2/3), digit (3/4), "2" (1/2).
    expected = (1 / 3) * (3 / 4) * (1 / 2) * (2 / 3) * (3 / 4) * (1 / 2)
    assert ARITHMETIC.log_probability("1 + 2") == pytest.approx(math.log(expected))
    assert ARITHMETIC.log_probability("1 + 3") == -math.inf


def test_texts_are_drawn_with_their_probability() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(AMBIGUOUS.sample(rng) for _ in range(4_000))
    for text in ("aa", "aaa", "aaaa"):
        # Four standard deviations of a share of 4,000 are at most 0.032.
        assert counts[text] / 4_000 == pytest.approx(math.exp(AMBIGUOUS.log_probability(text)), abs=0.032)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([BRACKETS, ARITHMETIC, AMBIGUOUS]))
def test_what_is_sampled_is_accepted(seed: int, grammar: Grammar) -> None:
    text = grammar.sample(np.random.default_rng(seed))
    assert grammar.accepts(text)
    assert grammar.log_probability(text) > -math.inf
    assert not grammar.accepts(text + "!")


def test_every_symbol_is_a_language_of_its_own() -> None:
    assert ARITHMETIC.accepts("2", "digit")
    assert not ARITHMETIC.accepts("1 + 2", "factor")
    assert ARITHMETIC.sample(np.random.default_rng(0), "digit") in {"1", "2"}


def test_sampling_is_a_function_of_the_generator() -> None:
    def draw() -> list[str]:
        rng = np.random.default_rng(7)
        return [ARITHMETIC.sample(rng) for _ in range(50)]

    assert draw() == draw()


@pytest.mark.parametrize(
    ("rules", "start", "message"),
    [
        ({"s": ["a"]}, "t", "start='t'"),
        ({"s": ["{missing} a"]}, "s", "missing"),
        ({"s": []}, "s", "'s' has no production"),
        ({"s": {"a": 1, "b": 0}}, "s", "not positive"),
        ({"s": ["a", "{s}b"]}, "s", "left-recursive: s -> s"),
        ({"s": ["{t}b"], "t": ["a", "{s}"]}, "s", "left-recursive"),
        ({"s": ["{nothing}{s}b", "a"], "nothing": ["", "x"]}, "s", "left-recursive"),
    ],
)
def test_a_faulty_table_is_refused(rules: Rules, start: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grammar(rules, start)
