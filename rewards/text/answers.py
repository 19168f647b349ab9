"""Rewards of a right answer: the number at the end of a solution, or an expression that Math-Verify compares."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, ClassVar

from textgym.numbers import check_words, shown
from textgym.rewards.text.needs import require, texts_in, values_of
from textgym.types import completion_text

MARKER = "####"
"""Text before the final answer in solutions of GSM8K."""

NUMBER = re.compile(
    r"""
    (?P<sign>(?<![^\W_]) (?<![)\]}\-−]) [-−])?            # a minus; after a number or a bracket it is a difference
    (?:\\?[$€£¥]\s?)?                                   # the currency of $5, or of LaTeX's \$5
    (?<![^\W_]) (?<![0-9]\.)                            # not the middle of x2, 12, or 1.2.3
    (?P<digits>
        [0-9]{1,3}(?:,[0-9]{3})+(?![0-9]) (?:\.[0-9]+)?  # 1,234.5
      | [0-9]+ (?:\.[0-9]+)?                             # 1234.5
      | (?<!\.)\.[0-9]+                                  # .5
    )
    (?P<exponent>[eE][+-]?[0-9]{1,3}(?![^\W_]|\.[0-9]))?  # 2e-3
    (?:\s?/\s?(?P<divisor>[0-9]+)(?![0-9]|\.[0-9]))?     # 3/4
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Answer:
    """One if the completion's final number equals the reference's, 0 otherwise.

    The final number is the one after the first ``####``, as solutions of GSM8K end; in a completion without that mark
    it is the last number. Thousands separators, currency signs and units are ignored; minus signs, decimals, fractions
    (``3/4``) and powers of ten (``2e-3``) are read. Numbers are compared exactly, as fractions: 0.5 equals 1/2, and
    3.33 does not equal 10/3. An empty completion, or one without a number, scores 0.

    A reference is a number, a text that ends with one (a whole solution of GSM8K will do), or a list of those, of which
    one must be met.

    Source: Cobbe et al. 2021, arXiv:2110.14168 (GSM8K), which compares the texts after ``####``.
    """

    answers: str = "answer"
    """Column of the reference answers."""

    def __post_init__(self) -> None:
        check_words(self, "answers")

    @property
    def name(self) -> str:
        return "answer"

    @property
    def required_columns(self) -> tuple[str, ...]:
        return (self.answers,)

    def __call__(self, completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        """Score ``N`` completions.

        Raises:
            ValueError: the data lacks the column, or a reference holds no number.
        """
        rows = values_of(self.name, self.answers, columns)
        expected = [self._references(row) for row in rows]
        found = [final_number(completion_text(one)) for one in completions]
        return [float(number in known) for number, known in zip(found, expected, strict=True)]

    def _references(self, row: Any) -> list[Fraction]:
        found = [_reference(one) for one in (row if isinstance(row, list | tuple) else [row])]
        numbers = [number for number in found if number is not None]
        if not numbers or len(numbers) < len(found):
            raise ValueError(
                f"column {self.answers!r} holds {shown(row)}; expected a number, or a text that ends with one"
            )
        return numbers


def final_number(text: str) -> Fraction | None:
    """Return the number after the first ``####`` of a text, or else its last number; None if there is none."""
    _, marker, after = text.partition(MARKER)
    if marker:
        found = NUMBER.search(after.lstrip().split("\n", 1)[0])
        return None if found is None else _value(found)
    numbers = list(NUMBER.finditer(text))
    return _value(numbers[-1]) if numbers else None


def _value(found: re.Match[str]) -> Fraction | None:
    digits, exponent, divisor = (found[name] or "" for name in ("digits", "exponent", "divisor"))
    try:
        size = Fraction(digits.replace(",", "") + exponent)
        size = size / int(divisor) if divisor else size
    except (ValueError, ZeroDivisionError):  # thousands of digits, or a division by zero
        return None
    return -size if found["sign"] else size


def _reference(value: Any) -> Fraction | None:
    if isinstance(value, str):
        return final_number(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return Fraction(str(value))  # 0.1 means 1/10, not the nearest float
    except ValueError:  # infinite, or no number
        return None


@dataclass(frozen=True)
class MathVerify:
    r"""One if Math-Verify finds the completion's final expression equal to the reference's, 0 otherwise.

    Expressions are numbers, formulas in LaTeX (within ``$…$``, ``\boxed{…}`` or ``\(…\)``), intervals, sets and
    equations; equal are those that sympy shows to be. A reference in bare LaTeX, without ``$``, is read as a formula.
    An empty completion, or one without an expression, scores 0.

    Math-Verify limits the time of one comparison to five seconds by a signal, and takes a slower one for unequal. Only
    the main thread receives signals, so in other threads (rewards with a time limit run in one) there is no such limit,
    and the reward's own time limit counts.

    Source: Kydlíček 2025, Math-Verify.
    """

    packages: ClassVar[tuple[str, ...]] = ("math-verify", "latex2sympy2-extended", "sympy")

    answers: str = "answer"
    """Column of the reference answers: a text, or a list of texts of which one must be met."""

    def __post_init__(self) -> None:
        check_words(self, "answers")
        require(self.name, "math_verify", "math-verify")

    @property
    def name(self) -> str:
        return "math-verify"

    @property
    def required_columns(self) -> tuple[str, ...]:
        return (self.answers,)

    def __call__(self, completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        """Score ``N`` completions.

        Raises:
            ValueError: the data lacks the column, or a reference holds no expression.
        """
        rows = values_of(self.name, self.answers, columns)
        expected = [self._references(row) for row in rows]
        texts = map(completion_text, completions)
        return [float(any(_verified(one, text) for one in known)) for known, text in zip(expected, texts, strict=True)]

    def _references(self, row: Any) -> list[list[Any]]:
        numbers = isinstance(row, Real) and not isinstance(row, bool)
        found = [_expressions(_as_formula(one)) for one in texts_in(self.answers, str(row) if numbers else row)]
        if not all(found):
            raise ValueError(f"column {self.answers!r} holds {shown(row)}, in which Math-Verify finds no expression")
        return found


TIME_LIMIT = 5
"""Seconds that Math-Verify may take for one expression, in the main thread."""


def _as_formula(reference: str) -> str:
    """Put a bare formula between dollar signs, and leave a text with a formula in it as it is."""
    answer = reference.rpartition(MARKER)[2].strip()
    return answer if re.search(r"\$|\\boxed|\\\(|\\\[", answer) else f"${answer}$"


def _time_limit() -> int | None:
    return TIME_LIMIT if threading.current_thread() is threading.main_thread() else None


def _expressions(text: str) -> list[Any]:
    from math_verify import parse  # imports sympy, which takes seconds

    return list(parse(text, parsing_timeout=_time_limit()))


def _verified(reference: list[Any], text: str) -> bool:
    from math_verify import verify

    found = _expressions(text)
    return bool(found) and bool(verify(reference, found, timeout_seconds=_time_limit()))
