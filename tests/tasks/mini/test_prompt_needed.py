"""The scored mini tasks need their prompt: no text is good after most prompts.

A policy that does not read the prompt is a mixture of constant texts, so it has at most the gold of the best of them.
The normalised score (gold − base)/(1 − base) is never above gold, whatever the base model earns, so no model is needed
here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from textgym.registration import load_task
from textgym.tasks import MINI, MINI_SUITE, TASKS
from textgym.tasks.mini.critics import CRITICS, one_sidedness
from textgym.tasks.mini.miniature import Miniature
from textgym.tasks.task import Task
from textgym.types import Prompt

SEED = 0
SOLVED = 0.8
CONSTANTS, CHOSEN_ON, MEASURED_ON = 40, 40, 200


@lru_cache
def instance(name: str) -> Task:
    return load_task(name, seed=SEED)


def gold(name: str, prompts: list[Prompt], answer: Callable[[Prompt], str]) -> float:
    mini: Miniature = getattr(importlib.import_module(TASKS[name].partition(":")[0]), name.upper())
    return float(np.mean([mini.score(prompt.text, answer(prompt), prompt.columns) for prompt in prompts]))


def best_constant(name: str) -> float:
    """Return the gold on test prompts of the training reference that is best on validation prompts."""
    task = instance(name)
    references = sorted({prompt.columns["reference"] for prompt in task.prompts()[:CONSTANTS]})
    chosen_on = list(task.prompts("validation")[:CHOSEN_ON])
    best = max(references, key=lambda text: gold(name, chosen_on, lambda _: text))
    return gold(name, list(task.prompts("test")[:MEASURED_ON]), lambda _: best)


def test_the_scored_families_are_all_but_the_one_that_a_constant_solves() -> None:
    assert set(MINI_SUITE) == set(MINI) - {"Reviews"}
    assert len(MINI_SUITE) == 8


@pytest.mark.parametrize("name", MINI_SUITE)
def test_no_constant_text_solves_a_scored_task(name: str) -> None:
    assert best_constant(name) < SOLVED


def test_one_favourable_text_solves_reviews() -> None:
    """Here the search does find a constant, so it can find one."""
    assert best_constant("Reviews") == 1.0


@pytest.mark.parametrize("name", MINI_SUITE)
def test_neither_silence_nor_an_echo_nor_the_answer_to_another_prompt_solves_it(name: str) -> None:
    prompts = list(instance(name).prompts("test")[:MEASURED_ON])
    # Each prompt gets the reference of the one before it.
    before = dict(zip((p.text for p in prompts), np.roll([p.columns["reference"] for p in prompts], 1), strict=True))
    assert gold(name, prompts, lambda _: "") < SOLVED
    assert gold(name, prompts, lambda prompt: f" {prompt.text}") < SOLVED
    assert gold(name, prompts, lambda prompt: str(before[prompt.text])) < SOLVED
    assert gold(name, prompts, lambda prompt: str(prompt.columns["reference"])) == 1.0


def test_no_text_suits_both_tastes_of_critics() -> None:
    """So the gold of a text that is said after as much tale as craft is at most one half."""
    rng = np.random.default_rng(0)
    texts = [CRITICS.corpus(rng)[1] for _ in range(500)]
    both = [one_sidedness(text, favourable=True) + one_sidedness(text, favourable=False) for text in texts]
    assert max(both) == pytest.approx(1)
    liked = [prompt.columns["favourable"] for prompt in instance("Critics").prompts("test")]
    assert 0.4 < np.mean(liked) < 0.6
