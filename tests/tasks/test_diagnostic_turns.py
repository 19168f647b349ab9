"""Diagnostic tasks with a world: what is said and paid, by hand, and the optimum, by closed forms."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

import textgym
from textgym.env.turns import Conversation, present_turn
from textgym.registration import load_task, task_mdp
from textgym.tasks import DIAGNOSTIC, DIAGNOSTIC_TURNS

SIX = ("Gamble", "Bisect", "Clarify", "Lookup", "Relay", "Echo")


def told(name: str, *turns: str, prompt: int = 0, **parameters: Any) -> list[tuple[float, str, float, bool]]:
    """Return the possible answers to the last of some turns: probability, text, reward and end.

    The turns before it were answered by the first that is possible.
    """
    task = load_task(name, **parameters)
    mdp, world = task_mdp(task), task.world
    row = mdp.prompts[prompt]
    state = world.start(row)  # type: ignore[union-attr]
    for text in turns:
        turn = present_turn(mdp, Conversation(row, state), task.tokenizer(text)["input_ids"])
        answers = world.outcomes(state, turn)  # type: ignore[union-attr]
        state = answers[0][1]
    return [(chance, reply.says, reply.reward, reply.done) for chance, _, reply in answers]


def transcript(name: str, words: str) -> tuple[str, list[float]]:
    """Return the tokens of an episode after the first prompt, and the rewards of the policy's words."""
    env: Any = gym.make(f"textgym/{name}-v0")
    tokenizer = env.unwrapped.mdp.tokenizer
    env.reset(seed=0, options={"prompt_index": 0})
    steps = [env.step(tokenizer.convert_tokens_to_ids(word)) for word in words.split()]
    assert [step[2] for step in steps] == [False] * (len(steps) - 1) + [True]
    observation = steps[-1][0]
    return tokenizer.decode(observation["input_ids"][observation["attention_mask"] == 1]), [step[1] for step in steps]


# --- every task ----------------------------------------------------------------------------------------------


def test_the_six_are_registered() -> None:
    assert tuple(name for name in DIAGNOSTIC if load_task(name).world is not None) == DIAGNOSTIC_TURNS
    assert set(SIX) < set(DIAGNOSTIC_TURNS)
    assert {f"textgym/{name}-v0" for name in SIX} <= set(gym.registry)


@pytest.mark.parametrize("name", SIX)
def test_the_world_ends_every_episode(name: str) -> None:
    env: Any = gym.make(f"textgym/{name}-v0")
    rng = np.random.default_rng(0)
    for seed in range(100):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, _, terminated, _, info = env.step(int(rng.integers(env.action_space.n)))
        assert info["finish_reason"] == "stop"


# --- one by one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "turns", "answers"),
    [
        ("Gamble", ["keep"], [(1, "kept", 0.375, False)]),
        ("Gamble", ["bet"], [(1 / 2, "won", 0.5, False), (1 / 2, "lost", 0, False)]),
        ("Gamble", ["keep", "bet"], [(1 / 2, "won", 0.5, True), (1 / 2, "lost", 0, True)]),
        ("Bisect", ["3"], [(3 / 8, "3", -0.05, False), (5 / 8, "5", -0.05, False)]),
        ("Bisect", ["8"], [(1 / 8, "", 1, True), (7 / 8, "", 0, True)]),
        ("Bisect", ["4", "1"], [(1 / 4, "1", -0.05, False), (3 / 4, "3", -0.05, False)]),
        ("Bisect", ["4", "4"], [(1 / 4, "", 1, True), (3 / 4, "", 0, True)]),
        ("Bisect", ["5", "4", "3", "1"], [(1 / 3, "", 1, True), (2 / 3, "", 0, True)]),  # no question is left
        ("Bisect", ["4", "2", "1", "7"], [(1, "", 1, True), (0, "", 0, True)]),
        ("Clarify", ["a"], [(0.5, "", 1, True), (0.5, "", 0, True)]),
        ("Clarify", ["ask"], [(0.5, "a", -0.1, False), (0.5, "b", -0.1, False)]),
        ("Clarify", ["ask", "b"], [(0.1, "", 1, True), (0.9, "", 0, True)]),
        ("Clarify", ["ask", "ask"], [(1, "", -0.1, True)]),
        ("Lookup", ["call a ."], [(1 / 3, f"{entry} ?", -0.05, False) for entry in "abc"]),
        ("Lookup", ["call b ."], [(1, "none ?", -0.05, False)]),
        ("Lookup", ["a ."], [(1, "", 0, True)]),
        ("Lookup", ["call b .", "a ."], [(1, "", 0, True)]),
        ("Lookup", ["call a .", "a ."], [(1, "", 1, True)]),
        ("Lookup", ["call a .", "c ."], [(1, "", 0, True)]),
        ("Lookup", ["call a .", "call a ."], [(1, "none ?", -0.05, False)]),
        ("Lookup", ["call b .", "call b .", "call b ."], [(1, "none ?", -0.05, True)]),
        *(("Lookup", [wrong], [(1, "", 0, True)]) for wrong in ("call a b", "a b .", "call .", ".", "call call .")),
        ("Relay", ["now"], [(1, " ".join("x" * 20), 0.5, False)]),
        ("Relay", ["later"], [(1, " ".join("x" * 20), 0, False)]),
        ("Relay", ["later", "now"], [(1, "", 1, True)]),
        ("Relay", ["now", "later"], [(1, "", 0, True)]),
        ("Echo", ["a"], [(1 / 3, f"{word} x x", 0, False) for word in "bcd"]),
        ("Echo", ["a", "b"], [(1 / 3, f"{word} x x", 1 / 3, False) for word in "acd"]),
        ("Echo", ["a", "a"], [(1 / 3, f"{word} x x", 0, False) for word in "bcd"]),
        ("Echo", ["a", "b", "a", "b"], [(1, "", 1 / 3, True)]),
    ],
)
def test_answers_by_hand(name: str, turns: list[str], answers: list[tuple[float, str, float, bool]]) -> None:
    found = told(name, *turns)
    assert [(says, done) for _, says, _, done in found] == [(says, done) for _, says, _, done in answers]
    np.testing.assert_allclose([answer[::2] for answer in found], [answer[::2] for answer in answers], atol=1e-12)


def test_difficulties() -> None:
    assert told("Clarify", "ask", "a", prompt=1)[0][0] == pytest.approx(0.81 / 0.82)  # Bayes, with a prior of 0.9
    assert told("Clarify", "ask", priors=(0.7,), reliability=0.75)[0][0] == pytest.approx(0.7 * 0.75 + 0.3 * 0.25)
    assert told("Clarify", "ask", priors=(0.5,), reliability=1.0, cost=0.2)[0] == (0.5, "a", -0.2, False)
    assert told("Lookup", "call b .", prompt=1, keys=2) == [(0.5, "a ?", -0.05, False), (0.5, "b ?", -0.05, False)]
    assert told("Lookup", "call b .", "a .", prompt=1) == [(1, "", 1, True)]  # the entry, a, and not the key
    assert told("Lookup", "call b .", "b .", prompt=1) == [(1, "", 0, True)]
    assert told("Lookup", "call a .", "a .", hops=2) == [(1, "", 0, True)]  # a second call is needed
    assert told("Lookup", "call a .", "call a .", "a .", hops=2) == [(1, "", 1, True)]
    assert told("Bisect", "2", "1", hypotheses=4, questions=1)[0][::2] == (1 / 2, 1)
    assert told("Gamble", "bet", safe=0.5, rounds=1) == [(0.5, "won", 1, True), (0.5, "lost", 0, True)]
    assert told("Relay", "now", gap=3, now=0.2) == [(1, "x x x", 0.2, False)]
    assert told("Echo", "b", "a", turns=2, words=2, gap=1) == [(1, "", 1, True)]


@pytest.mark.parametrize(
    ("name", "words", "text", "rewards"),
    [
        ("Relay", "later now", f"go later{20 * ' x'} now", [0, 1]),
        ("Gamble", "keep keep", "go keep kept keep", [0.375, 0.375]),
        ("Lookup", 3 * "call b . ", f"a ? {2 * 'call b . none ? '}call b .", [0, 0, -0.05] * 3),
        ("Lookup", "call call a", "a ? call call a", [0, 0, 0]),
    ],
)
def test_episodes_by_hand(name: str, words: str, text: str, rewards: list[float]) -> None:
    found = transcript(name, words)
    assert found[0] == text
    assert found[1] == pytest.approx(rewards)


@pytest.mark.parametrize(("name", "longest"), [("Gamble", 3), ("Bisect", 7), ("Clarify", 3), ("Lookup", 13)])
def test_the_horizon_is_as_long_as_the_longest_episode(name: str, longest: int) -> None:
    assert load_task(name).max_new_tokens == longest
    assert load_task("Relay", gap=7).max_new_tokens == 1 + 7 + 1
    assert load_task("Echo", turns=3, gap=4).max_new_tokens == 3 + 2 * 5
    assert load_task("Lookup", hops=2).max_new_tokens == 3 * 4 + 2 * 3


@pytest.mark.parametrize(
    ("name", "last", "chances"),
    [
        ("Bisect", "8", [1 / 8] * 8),
        ("Bisect", "3", [1 / 3] * 2 + [1 / 18] * 6),  # all guesses together have 1/3
        ("Bisect", "1", [1 / 8] * 8),
        ("Lookup", "?", [0.008, 0.488, 0.168, 0.168, 0.168]),  # 0.04/5 of slips, and 0.96 for the syntax
        ("Lookup", "call", [0.008, 0.008, 0.328, 0.328, 0.328]),
        ("Lookup", "b", [0.968, 0.008, 0.008, 0.008, 0.008]),
        *(("Clarify", word, [1 / 3] * 3) for word in ("0.5", "0.9", "a", "b")),
        *(("Gamble", word, [1 / 2] * 2) for word in ("go", "kept", "won", "lost")),
        *(("Echo", word, [1 / 4] * 4) for word in ("go", "x")),
        *(("Relay", word, [1 / 2] * 2) for word in ("go", "x")),
    ],
)
def test_the_reference_after_words_of_the_other_side(name: str, last: str, chances: list[float]) -> None:
    task = load_task(name)
    model: Any = task.base_model
    ids = torch.tensor([[task.tokenizer.convert_tokens_to_ids(last)]])
    with torch.no_grad():
        found = model()(ids).logits[0, 0, : len(chances)].softmax(-1)
    np.testing.assert_allclose(found, chances, atol=1e-4)


# --- optimum -------------------------------------------------------------------------------------------------

SMALL = 1e-3
"""A β at which a nat costs next to nothing: the optimum is the greatest return, but for a few nats."""


def optimum_of(name: str, beta: float, **parameters: Any) -> float:
    value: float = textgym.optimum(task_mdp(load_task(name, **parameters)), beta).value
    return value


def soft(beta: float, chances: ArrayLike, values: ArrayLike) -> float:
    """Return β·log Σ p·exp(v/β)."""
    return float(beta * np.logaddexp.reduce(np.log(chances) + np.asarray(values) / beta))


def bisect_by_hand(beta: float, hypotheses: int = 8, questions: int = 3, cost: float = 0.05) -> float:
    @cache
    def value(n: int, left: int) -> float:
        if not left:
            return 1 / n
        asked = [-cost + k / n * value(k, left - 1) + (1 - k / n) * value(n - k, left - 1) for k in range(1, n)]
        return soft(beta, [1 / n] * n, [*asked, 1 / n])

    return value(hypotheses, questions)


def clarify_by_hand(beta: float, prior: float, reliability: float, cost: float) -> float:
    says_a = prior * reliability + (1 - prior) * (1 - reliability)
    after = {"a": prior * reliability / says_a}
    if says_a < 1:
        after["b"] = prior * (1 - reliability) / (1 - says_a)
    third = [1 / 3] * 3
    answered = {said: soft(beta, third, [belief, 1 - belief, -cost]) for said, belief in after.items()}
    asked = -cost + says_a * answered["a"] + (1 - says_a) * answered.get("b", 0.0)
    return soft(beta, third, [prior, 1 - prior, asked])


def lookup_by_hand(beta: float, keys: int = 3, hops: int = 1, cost: float = 0.05) -> float:
    slip = 0.04 / (keys + 2)
    begins, called = [0.48 + slip] + [0.48 / keys + slip] * keys + [slip], [0.96 / keys + slip] * keys + [2 * slip]
    named = [0.96 + slip, 1 - 0.96 - slip]  # the turn's end, or something that spoils it

    @cache
    def value(needed: int, turns: int) -> float:
        if not turns:
            return 0.0
        wrong_call = soft(beta, named, [-cost + value(needed, turns - 1), 0])
        right_call = soft(beta, named, [-cost + value(needed - 1, turns - 1), 0]) if needed else wrong_call
        called_value = soft(beta, called, [right_call, *[wrong_call] * (keys - 1), 0])
        answers = [soft(beta, named, [float(not needed), 0]), *[0.0] * (keys - 1)]
        return soft(beta, begins, [called_value, *answers, 0])

    return value(hops, hops + 2)


def test_gamble_does_not_take_luck_for_skill() -> None:
    beta = 0.05
    assert optimum_of("Gamble", beta, safe=0.5, rounds=1) == pytest.approx(0.5, abs=1e-6)
    # The formula for a response without another side, over whole transcripts: kept, won and lost.
    naive = soft(beta, [1 / 2, 1 / 4, 1 / 4], [0.5, 1, 0])
    assert naive == pytest.approx(0.9307, abs=5e-5)
    assert optimum_of("Gamble", beta, rounds=3) == pytest.approx(3 * soft(beta, [0.5] * 2, [0.25, 0.5 / 3]), abs=1e-6)
    assert optimum_of("Gamble", beta) == pytest.approx(2 * soft(beta, [0.5] * 2, [0.375, 0.25]), abs=1e-6)


@pytest.mark.parametrize(("beta", "known"), [(0.01, 0.8084), (0.05, 0.6633)])
def test_bisect_is_worth_what_is_known(beta: float, known: float) -> None:
    value = bisect_by_hand(beta)
    assert value == pytest.approx(known, abs=5e-5)
    assert optimum_of("Bisect", beta) == pytest.approx(value, abs=1e-6)


def test_bisect_tends_to_the_price_of_three_halvings() -> None:
    # Halving 8, 4 and 2 has the probability 1/8·1/4·1/2 under the reference, and no other way identifies the truth.
    assert optimum_of("Bisect", SMALL) == pytest.approx(0.85 - SMALL * np.log(64), abs=1e-6)
    assert optimum_of("Bisect", 0.05, hypotheses=5, questions=2, cost=0.1) == pytest.approx(
        bisect_by_hand(0.05, 5, 2, 0.1), abs=1e-6
    )


@pytest.mark.parametrize(
    ("prior", "reliability", "cost", "limit"), [(0.5, 1.0, 0.2, 0.8), (0.7, 0.9, 0.1, 0.8), (0.7, 0.75, 0.1, 0.7)]
)
def test_clarify_asks_if_it_pays(prior: float, reliability: float, cost: float, limit: float) -> None:
    settings: dict[str, Any] = {"priors": (prior,), "reliability": reliability, "cost": cost}
    small = optimum_of("Clarify", SMALL, **settings)
    assert small == pytest.approx(limit, abs=3 * SMALL)
    assert small == pytest.approx(clarify_by_hand(SMALL, prior, reliability, cost), abs=1e-6)
    assert optimum_of("Clarify", 0.05, **settings) == pytest.approx(
        clarify_by_hand(0.05, prior, reliability, cost), abs=1e-6
    )


def test_clarify_is_the_mean_over_its_prompts() -> None:
    both = [clarify_by_hand(0.05, prior, 0.9, 0.1) for prior in (0.5, 0.9)]
    assert optimum_of("Clarify", 0.05) == pytest.approx(np.mean(both), abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"keys": 2, "hops": 2, "cost": 0.2}, {"keys": 2, "cost": 0.0}])
def test_lookup_costs_its_calls(settings: dict[str, Any]) -> None:
    assert optimum_of("Lookup", 0.05, **settings) == pytest.approx(lookup_by_hand(0.05, **settings), abs=1e-6)
    limit = 1 - settings.get("hops", 1) * settings.get("cost", 0.05)
    assert limit - 0.01 < optimum_of("Lookup", SMALL, **settings) < limit


@pytest.mark.parametrize("settings", [{}, {"gap": 3, "now": 0.9}])
def test_relay_does_not_depend_on_its_gap(settings: dict[str, Any]) -> None:
    value = soft(0.05, [0.5, 0.5], [settings.get("now", 0.5), 1])
    assert optimum_of("Relay", 0.05, **settings) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("turns", "words", "beta", "known"), [(5, 4, 0.02, 0.88910), (3, 6, 0.05, None)])
def test_echo_is_worth_its_closed_form(turns: int, words: int, beta: float, known: float | None) -> None:
    share = 1 / (turns - 1)
    value = beta * (turns - 1) * np.log(1 - 1 / words + np.exp(share / beta) / words)
    assert known is None or value == pytest.approx(known, abs=5e-6)
    assert optimum_of("Echo", beta, turns=turns, words=words) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", SIX)
def test_the_guide_tells_sizes_and_optimum(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnostic.md").read_text("utf-8")
    row = re.search(rf"^\| `{name}` \|(.*) \|$", page, re.MULTILINE)
    assert row is not None
    task = load_task(name)
    mdp = task_mdp(task)
    found = textgym.optimum(mdp, task.beta)
    sizes = (mdp.n_actions, mdp.max_new_tokens, len(found.tree), len(mdp.prompts), found.n_sequences)
    values = (found.reference.objective, found.value, found.best.reward)
    assert row[1].split(" | ")[1:] == [
        *(f"{size:,}" for size in sizes),
        f"{task.beta:g}",
        *(f"{value:.4f}" for value in values),
        f"{found.best.kl:.3f}",
    ]


# --- bad parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Gamble", {"safe": 1.5}, "safe=1.5"),
        ("Bisect", {"hypotheses": 1}, "hypotheses=1; expected a number from 2 to 24"),
        ("Bisect", {"hypotheses": 25}, "hypotheses=25"),
        ("Clarify", {"priors": ()}, "priors=()"),
        ("Clarify", {"priors": (0.5, 1.5)}, "priors=(0.5, 1.5)"),
        ("Clarify", {"reliability": 1.5}, "reliability=1.5; expected a probability above 0"),
        ("Lookup", {"keys": 1}, "keys=1"),
        ("Relay", {"now": 1.0}, "now=1.0"),
        ("Echo", {"turns": 1}, "turns=1; expected at least 2"),
        ("Echo", {"words": 1}, "words=1"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_task(name, **parameters)


@pytest.mark.parametrize(("name", "largest"), [("Bisect", {"hypotheses": 24}), ("Lookup", {"keys": 24})])
def test_the_largest_chains_fit_into_the_reference(name: str, largest: dict[str, Any]) -> None:
    model: Any = load_task(name, **largest).base_model
    model()
