"""Numbers of settings: what is accepted, what is refused, and in what words."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from textgym.numbers import check, check_given, count, finite, plain, random_seed, shown

HUGE = pytest.param(10**5000, id="5000 digits")
NO_NUMBERS = [None, True, False, "3", b"3", [3], np.array([1, 2]), torch.ones(2), torch.ones((), device="meta"), 3j]


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.float32(3), np.array(3), torch.tensor(3), torch.tensor([3])])
def test_a_count_becomes_an_int_of_python(value: Any) -> None:
    found = count("steps", value)
    assert type(found) is int
    assert found == 3


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, 2.5, math.nan, math.inf, 0, -1, 10**20, HUGE, np.True_, torch.tensor(True), 1e30]
)
def test_a_count_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^steps=.*; expected a whole number, (at least 1|from 1 to )"):
        count("steps", value)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]
)
def test_a_number_becomes_a_float_of_python(value: Any) -> None:
    found = finite("rate", value)
    assert type(found) is float
    assert found == 0.5
    assert json.dumps(found) == "0.5"


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, math.nan, math.inf, -math.inf, 1e300, -1e300, 10**400, np.True_, Fraction(10**400, 3)]
)
def test_a_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate=.*; expected a finite number"):
        finite("rate", value)


@pytest.mark.parametrize(
    ("value", "limits", "words"),
    [
        (-0.1, {"low": 0}, "rate=-0.1; expected a finite number, at least 0"),
        (0, {"above": 0}, "rate=0; expected a finite number, more than 0"),
        (1.5, {"above": 0, "high": 1}, "rate=1.5; expected a finite number, more than 0 and at most 1"),
        (1, {"low": 0, "below": 1}, "rate=1; expected a finite number, at least 0 and less than 1"),
        (1e300, {}, "rate=1e+300; expected a finite number, at most 3.40282e+38"),
        (math.nan, {}, "rate=nan; expected a finite number"),
        (10**400, {}, "rate=10^400; expected a finite number"),
    ],
)
def test_bounds_are_said(value: float, limits: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        finite("rate", value, **limits)


@pytest.mark.parametrize(
    ("value", "limits"), [(0, {"low": 0}), (1, {"high": 1}), (1e-30, {"above": 0}), (0.999, {"below": 1})]
)
def test_bounds_themselves(value: float, limits: dict[str, float]) -> None:
    assert finite("rate", value, **limits) == value


def test_a_count_has_bounds_on_both_sides() -> None:
    assert [count("k", k, 0, 4) for k in (0, 4)] == [0, 4]
    with pytest.raises(ValueError, match=r"^k=5; expected a whole number, from 0 to 4$"):
        count("k", 5, 0, 4)


def test_seeds() -> None:
    assert [random_seed("seed", value) for value in (0, 2**32 - 1)] == [0, 2**32 - 1]
    for value in (-1, 2**32, 0.5, True):
        with pytest.raises(ValueError, match=r"^seed="):
            random_seed("seed", value)


@dataclass(frozen=True)
class _Settings:
    steps: Any = 1
    rate: Any = None


def test_a_frozen_dataclass_keeps_the_plain_number() -> None:
    settings = _Settings(np.int64(4))
    check(settings, count, "steps", least=2)
    check_given(settings, finite, "rate")
    assert type(settings.steps) is int
    assert settings == _Settings(4, None)
    with pytest.raises(ValueError, match=r"^rate=nan"):
        check_given(_Settings(rate=math.nan), finite, "steps", "rate")


def test_what_is_shown_is_short() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    assert len(shown("x" * 1000)) == 80
    assert shown(10**5000) == "10^5000"
    assert shown(-(10**5000)) == "−10^5000"
    assert shown(Odd()) == "something of type Odd"
    assert plain(Fraction(10**400, 3)) is None
