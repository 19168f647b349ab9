"""Answers: numbers read from texts and compared exactly, and Math-Verify within and outside the main thread."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import math_verify
import numpy as np
import pytest

from textgym.rewards.functions import RewardError, call_reward, check_columns, check_signature
from textgym.rewards.text import answers
from textgym.rewards.text.answers import Answer, MathVerify, final_number


def scores(reward, texts, answer, timeout=None):
    return call_reward(reward, ["p"] * len(texts), texts, [[1]] * len(texts), {"answer": answer}, timeout)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("She has 16 - 3 - 4 = 9 eggs, and makes 9 * 2 = $18 a day.", 18),
        ("#### 18", 18),
        ("9 * 2 = 18\n#### 18 dollars, not 20\n#### 7", 18),
        ("####\n5", 5),
        ("#### none, 5 apples\n7", 5),
        ("#### none\n7", None),
        ("1,234,567.5 km", Fraction(2469135, 2)),
        ("12,34", 34),
        ("1234,567", 567),
        ("-4", -4),
        ("−4", -4),
        ("x=-4", -4),
        ("$-4", -4),
        ("-$4.50", Fraction(-9, 2)),
        (r"\$4", 4),
        ("€ 4", 4),
        ("10-15", 15),
        ("(3)-4", 4),
        ("answer--5", 5),
        ("- 5 apples", 5),
        ("5kg", 5),
        ("50%", 50),
        ("**18**", 18),
        ("_18_", 18),
        ("18 L of H2O", 18),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("It is...18...", 18),
        ("1/2", Fraction(1, 2)),
        ("It is 3 / 4.", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("3/4.5", Fraction(9, 2)),
        ("1/0", None),
        ("2e-3", Fraction(1, 500)),
        ("2e-3.", Fraction(1, 500)),
        ("version 1.2.3", Fraction(6, 5)),
        ("18.", 18),
        ("18.00", 18),
        ("007", 7),
        ("", None),
        ("no number", None),
        ("٣", None),
        ("1" * 5000, None),
        ("2e9999999", 2),
    ],
)
def test_the_final_number(text, number):
    assert final_number(text) == number


def test_numbers_written_in_many_ways_are_read_back():
    rng = np.random.default_rng(0)
    for _ in range(500):
        sign, whole, cents = (
            rng.choice(["", "-"]),
            int(rng.integers(0, 10 ** rng.integers(1, 9))),
            int(rng.integers(100)),
        )
        expected = Fraction(f"{sign}{whole}.{cents:02}")
        written = f"{sign}{rng.choice(['', '$'])}{whole:{rng.choice(['', ','])}}.{cents:02}"
        before, after = ["So 3 + 4, ", "", "x = ", "**"], ["", ".", " km", "**", "%", ", then."]
        text = f"{rng.choice(before)}{written}{rng.choice(after)}"
        assert final_number(text) == expected, text


def test_exact_comparison_with_references_of_many_kinds():
    texts = ["18.0", "It is 1/2", "3.33", "0.1", "1,000", "#### -7", "x", "5 or 6"]
    expected = ["2 * 9 = 18\n#### 18", 0.5, "10/3", 0.1, np.int64(1000), "-7", "0", [4, "6"]]
    assert scores(Answer(), texts, expected) == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("bad", ["none", "", None, True, math.nan, math.inf, [], ["5", "x"], {"a": 1}])
def test_a_reference_without_a_number_is_an_error(bad):
    with pytest.raises(RewardError, match=r"column 'answer' holds .*; expected a number, or a text that ends with one"):
        scores(Answer(), ["5", "5"], ["5", bad])


@pytest.mark.parametrize("kind", [Answer, MathVerify])
def test_data_without_answers_are_refused_before_training(kind):
    reward = kind()
    check_signature(reward)
    with pytest.raises(ValueError, match=f"reward '{reward.name}' requires 'answer', which the data does not have"):
        check_columns(reward, ["solution"])
    check_columns(kind("solution"), ["solution"])
    with pytest.raises(ValueError, match="reads the column 'answer', got the columns solution"):
        reward(completions=["5"], solution=["5"])


# --- Math-Verify ---------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    ("$\\frac{1}{2}$", "0.5"),
    ("\\boxed{x^2 + 2x + 1}", "$(x+1)^2$"),
    ("$\\sqrt{8}$", "$2\\sqrt{2}$"),
    ("\\boxed{\\{1, 2\\}}", "$\\{2, 1\\}$"),
    ("The answer is 1,234.", "#### 1234"),
    ("\\boxed{3}", "4"),
    ("$x + 1$", "$x + 2$"),
    ("no answer", "5"),
    ("", "5"),
]


def test_expressions_are_compared_as_math_verify_does():
    texts, golds = map(list, zip(*EXPRESSIONS, strict=True))
    found = scores(MathVerify(), texts, golds)
    assert found == [1.0] * 5 + [0.0] * 4
    ours = [float(math_verify.verify(math_verify.parse(gold), math_verify.parse(text))) for text, gold in EXPRESSIONS]
    assert found == ours


def test_it_agrees_with_math_verify_on_random_numbers():
    rng = np.random.default_rng(0)

    def number(value):
        ways = [
            f"{value / 4}",
            f"$\\frac{{{value}}}{{4}}$",
            f"{value}/4",
            f"\\boxed{{{value / 4}}}",
            f"so $x = {value / 4}$",
        ]
        return str(rng.choice(ways))

    pairs = [(int(a), int(b)) for a, b in rng.integers(1, 6, (200, 2))]
    texts, golds = [number(a) for a, _ in pairs], [number(b) for _, b in pairs]
    expected = [
        float(math_verify.verify(math_verify.parse(gold), math_verify.parse(text)))
        for text, gold in zip(texts, golds, strict=True)
    ]
    found = scores(MathVerify(), texts, golds)
    assert found == expected
    assert found == [float(a == b) for a, b in pairs]


def test_a_bare_formula_as_reference():
    assert scores(MathVerify(), ["$\\frac{1}{2}$", "2", "$x+1$"], ["\\frac{1}{2}", "\\frac{1}{2}", "x + 1"]) == [
        1.0,
        0.0,
        1.0,
    ]
    assert scores(MathVerify(), ["5", "6", "7"], [5, ["5", "6"], 7.0]) == [1.0, 1.0, 1.0]


def test_it_runs_in_threads_too():
    texts, golds = map(list, zip(*EXPRESSIONS, strict=True))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scores, MathVerify(), texts, golds).result() == [1.0] * 5 + [0.0] * 4
    assert scores(MathVerify(), texts, golds, timeout=60) == [1.0] * 5 + [0.0] * 4


def test_the_main_thread_has_a_time_limit():
    assert answers._time_limit() == 5
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(answers._time_limit).result() is None


@pytest.mark.parametrize("bad", ["", "   ", None, [], {"a": 1}])
def test_a_reference_without_an_expression_is_an_error(bad):
    with pytest.raises(RewardError, match=r"column 'answer' holds "):
        scores(MathVerify(), ["5", "5"], ["5", bad])
