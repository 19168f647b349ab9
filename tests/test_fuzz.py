"""Random environments under random inputs: see ``tests/fuzzing.py``."""

from __future__ import annotations

import os

import pytest

from tests.fuzzing import Fuzz
from textgym.tasks import DIAGNOSTIC, MINI

STEPS = int(os.environ.get("TEXTGYM_FUZZ_STEPS", "100000"))

ignored = pytest.mark.filterwarnings(
    "ignore:.*should be|.*expects|.*Casting input|.*was closed:UserWarning"  # Gymnasium's checker, of bad input
)


@pytest.mark.parametrize("seed", range(3))
def test_random_inputs_are_answered_or_refused(seed: int) -> None:
    fuzz = Fuzz(seed, DIAGNOSTIC)
    fuzz.run(1500)
    assert min(fuzz.did[each] for each in ("step", "end", "reset", "refusal", "render", "pickle")) > 0


def test_random_inputs_of_tasks_in_english() -> None:
    Fuzz(0, MINI[:2]).run(300)


@pytest.mark.long
@ignored
def test_a_hundred_thousand_steps() -> None:
    fuzz = Fuzz(1)
    fuzz.run(STEPS)
    print(fuzz.steps, dict(fuzz.did))
