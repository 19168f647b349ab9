"""Beyond enumeration: the dynamic programme and the bracket, held against it where both run."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from textgym.agents.ppo import PPO
from textgym.env.vector import TokenVectorEnv
from textgym.exact import Automaton, bracket, markov_optimum, optimum
from textgym.exact.bracket import objective_interval, optimum_interval
from textgym.lm.sampling import Sampling
from textgym.registration import load_task, task_mdp
from textgym.tasks.diagnostic.build import chain, diagnostic, letters

V, T = 3, 5


def random_automaton(rng: np.random.Generator, states: int = 4) -> Automaton:
    return Automaton(
        rng.integers(states, size=(states, V)), rng.normal(size=(states, V)) / T, rng.uniform(size=states), start=1
    )


# --- dynamic programming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, "c"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 2)])
def test_the_dynamic_programme_equals_enumeration(end: str | None, sampling: Sampling) -> None:
    rng = np.random.default_rng(3)
    automaton, chances, beta = random_automaton(rng), rng.dirichlet(np.ones(V), size=V), 0.3
    task = diagnostic(
        "Chain", "Any.", lambda ids, _: automaton(ids), words=letters(V), horizon=T, beta=beta, chances=chances, end=end
    )
    mdp = task_mdp(task)
    exact = optimum(mdp, beta, sampling=sampling)
    last, ends = mdp.prompts[0].ids[-1], mdp.end_token_ids
    log_probs = chain(chances, len(task.tokenizer))
    found = markov_optimum(log_probs, automaton, beta, T, last, ends, sampling)
    # The GPT-2 that equals the chain does so to fp32.
    assert found.value == pytest.approx(exact.value, abs=1e-5)
    assert (found.reward, found.kl) == pytest.approx((exact.best.reward, exact.best.kl), abs=1e-4)
    assert found.reference == pytest.approx(exact.reference.objective, abs=1e-5)
    assert found.value == pytest.approx(found.reward - beta * found.kl, abs=1e-12)
    np.testing.assert_allclose(np.exp(found.log_probs[0, last, 1]), exact.next_token_probs(0), atol=1e-5)


def test_long_horizons_are_cheap_and_scale() -> None:
    """Without states that interact, every token is a bandit of its own: J* is T times that of one."""
    bandit = Automaton(np.zeros((1, 2), int), np.array([[0.0, 1.0]]), np.zeros(1))
    log_probs = np.log(np.array([[0.5, 0.5], [0.5, 0.5]]))
    one, many = (markov_optimum(log_probs, bandit, 0.5, horizon, 0).value for horizon in (1, 1000))
    assert one == pytest.approx(0.5 * np.log(0.5 + 0.5 * np.exp(2.0)))
    assert many == pytest.approx(1000 * one)


def test_bad_automata_are_refused() -> None:
    good = random_automaton(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"expected \[Q, V\], \[Q, V\] and \[Q\]"):
        Automaton(good.next_state, good.reward[:, :1], good.final)
    with pytest.raises(ValueError, match="states from 0 to 3"):
        Automaton(good.next_state + 4, good.reward, good.final)
    with pytest.raises(ValueError, match="beta=0"):
        markov_optimum(np.zeros((3, 3)), good, 0.0, 3, 0)
    with pytest.raises(ValueError, match="2 actions, the automaton 3"):
        markov_optimum(np.zeros((3, 2)), good, 1.0, 3, 0)


# --- the bracket ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters"), [("Emit", {}), ("Copy", {"symbols": 3, "length": 1})])
def test_the_bracket_contains_the_known_optimum(name: str, parameters: dict[str, int]) -> None:
    task = load_task(name, **parameters)
    mdp = task_mdp(task)
    beta = 0.3  # large enough for the reference's own samples to find the optimum
    exact = optimum(mdp, beta)
    found = bracket(mdp, beta, samples=2000 // len(mdp.prompts))
    assert exact.value in found.estimate
    assert found.best == -1
    assert exact.reference.objective in found.lower
    assert found.lower.high < exact.value


def test_a_trained_policy_tightens_the_bracket() -> None:
    task = load_task("Emit")
    mdp = task_mdp(task)
    exact = optimum(mdp, 0.05)
    ppo = PPO(
        env=TokenVectorEnv(mdp, 64, "Disabled"), learning_rate=5e-3, beta=0.05, episodes_per_iteration=128, seed=0
    )
    ppo.learn(128 * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few effective samples from the reference alone: the point of this test
        alone = bracket(mdp, 0.05, samples=400)
    found = bracket(mdp, 0.05, [ppo.policy], samples=400)
    assert found.best == 0
    assert found.lower.value > alone.lower.value
    assert found.effective_samples > 2 * alone.effective_samples
    assert exact.evaluate(ppo.policy).objective in found.lower
    assert exact.value in found.estimate


def test_few_effective_samples_are_said() -> None:
    with pytest.warns(UserWarning, match=r"effective samples of 200 .* likely too low"):
        bracket("textgym/Emit-v0", 0.02, samples=200)


def test_intervals_by_hand() -> None:
    reward = np.array([[0.0, 1.0, 0.0, 1.0]])
    interval = objective_interval(reward, np.zeros((1, 4)), 0.1)
    assert interval.value == 0.5
    assert interval.high - 0.5 == pytest.approx(3.182 * np.sqrt(1 / 3) / 2, rel=1e-3)  # Student, of 4 responses
    estimate, effective = optimum_interval(reward, np.zeros((1, 4)), 1.0, np.random.default_rng(0))
    assert estimate.value == pytest.approx(np.log((1 + np.e) / 2))
    assert effective == pytest.approx((2 + 2 * np.e) ** 2 / (2 + 2 * np.e**2))
    # A response that the policy says three times as often as the reference weighs half: v = 2/(1+3).
    tilted, _ = optimum_interval(np.array([[1.0, 0.0]]), np.log([[3.0, 1.0]]), 1.0, np.random.default_rng(0))
    assert tilted.value == pytest.approx(np.log((0.5 * np.e + 1) / 1.5))


def test_bad_input_to_the_bracket() -> None:
    mdp: Any = task_mdp(load_task("Emit"))
    with pytest.raises(ValueError, match="beta=0"):
        bracket(mdp, 0)
    with pytest.raises(ValueError, match="samples=1"):
        bracket(mdp, 0.1, samples=1)
    with pytest.raises(ValueError, match="make them equal"):
        bracket(mdp, 0.1, [PPO(env=TokenVectorEnv(mdp, 2, "Disabled"), sampling=Sampling(0.5)).policy])
