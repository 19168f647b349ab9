"""Policies that give something up do not pass: those of one response per prompt, and those that do not read it."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

import textgym
from tests.collapsed import Collapsed, collapsed, reference, responses, rewards, scores
from textgym.registration import load_task, task_mdp
from textgym.tasks import DIAGNOSTIC_V1, NEEDS_PROMPT
from textgym.types import FloatArray

PASSES = 0.8
"""Score that no collapsed policy reaches; a task counts as solved from 0.95 on."""
INSTANCES = range(5)

scored = pytest.mark.parametrize("seed", INSTANCES)
every = pytest.mark.parametrize("name", DIAGNOSTIC_V1)


@cache
def found(name: str, seed: int) -> Collapsed:
    return collapsed(load_task(name, seed=seed))


# --- the diagnostic suite --------------------------------------------------------------------------------------


@scored
@every
def test_a_policy_of_one_response_per_prompt_does_not_pass(name: str, seed: int) -> None:
    assert found(name, seed).deterministic < PASSES
    assert found(name, seed).constant <= found(name, seed).deterministic


@scored
@pytest.mark.parametrize("name", NEEDS_PROMPT)
def test_a_policy_that_does_not_read_its_prompt_does_not_pass(name: str, seed: int) -> None:
    assert found(name, seed).blind < PASSES
    assert found(name, seed).constant <= found(name, seed).blind


@every
def test_the_optimum_is_the_one_that_textgym_finds(name: str) -> None:
    task = load_task(name)
    assert task.beta is not None
    best = textgym.optimum(task_mdp(task, split="test"), task.beta)
    assert best.value == pytest.approx(found(name, 0).optimum, rel=1e-5)
    assert best.reference.objective == pytest.approx(found(name, 0).reference, rel=1e-5)


# --- the computation itself ------------------------------------------------------------------------------------


def test_copy_by_hand() -> None:
    """Ten words at equal chances, two right ones of them in each of two places, which pay 1/2 each; β is 0.1."""
    got = found("Copy-v1", 0)
    in_place = 0.1 * math.log(0.8 + 0.2 * math.exp(0.5 / 0.1))
    assert got.reference == pytest.approx(0.2, abs=1e-6)
    assert got.optimum == pytest.approx(2 * in_place, abs=1e-6)
    one_of_ten = 1 - 2 * 0.1 * math.log(10)
    assert got.deterministic == pytest.approx((one_of_ten - 0.2) / (2 * in_place - 0.2), abs=1e-5)
    # Each of five letters is right after one test prompt of five in each place: every word is worth the same, 0.1.
    assert got.blind == pytest.approx(0, abs=1e-5)
    assert got.constant == pytest.approx((0.2 - 2 * 0.1 * math.log(10) - 0.2) / (2 * in_place - 0.2), abs=1e-5)


def test_responses_end_with_their_first_end_token() -> None:
    task = load_task("Length-v1", longest=2)
    a, b, end = range(3)
    assert sorted(responses(task)) == sorted(
        [
            [end],
            *([first, end] for first in (a, b)),
            *([first, second, third] for first in (a, b) for second in (a, b) for third in range(3)),
        ]
    )
    np.testing.assert_allclose(np.exp(reference(task, "test")).sum(1), 1, atol=1e-6)


def test_rewards_are_means_and_sums() -> None:
    noisy, exact = (load_task("Noise-v1", sigma=sigma) for sigma in (0.5, 0.0))
    np.testing.assert_array_equal(rewards(noisy, "test"), rewards(exact, "test"))
    sparse, dense = (load_task("Dense-v1", per_token=per_token, horizon=2) for per_token in (False, True))
    np.testing.assert_allclose(rewards(dense, "test"), rewards(sparse, "test"), atol=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_the_closed_forms_are_what_a_search_finds(beta: float) -> None:
    """The reference depends on the prompt here, which no shipped task's does."""
    rng = np.random.default_rng(0)
    reward, log_ref = rng.uniform(size=(3, 4)), np.log(rng.dirichlet(np.ones(4), size=3))

    def objective(logits: FloatArray) -> float:
        """Return J of a policy of as many rows as there are prompts, or of one row for all."""
        log_p = log_softmax(logits.reshape(-1, 4), axis=1)
        return float((np.exp(log_p) * (reward - beta * (log_p - log_ref))).sum(1).mean())

    base = objective(log_ref)
    shared, own = (-minimize(lambda x: -objective(x), np.zeros(n), options={"gtol": 1e-9}).fun for n in (4, 12))
    one_hot = np.where(np.eye(4) > 0, 0.0, -1e3)
    got = scores(reward, log_ref, beta)
    assert got.reference == pytest.approx(base)
    assert got.optimum == pytest.approx(own, abs=1e-7)
    assert got.blind == pytest.approx((shared - base) / (own - base), abs=1e-6)
    assert got.constant == pytest.approx((max(map(objective, one_hot)) - base) / (own - base), abs=1e-6)
    every_choice = (objective(one_hot[list(choice)]) for choice in product(range(4), repeat=3))
    assert got.deterministic == pytest.approx((max(every_choice) - base) / (own - base), abs=1e-6)
