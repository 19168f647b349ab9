"""Diagnostic tasks with a world: what is said and paid, by hand, and the optimum, by closed forms."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from textgym.env.turns import Conversation, present_turn
from textgym.registration import load_task, task_mdp
from textgym.tasks import DIAGNOSTIC

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
    assert tuple(name for name in DIAGNOSTIC if load_task(name).world is not None) == SIX
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
        ("Echo", ["a", "b"], [(1 / 3, f"{word} x x", 0.25, False) for word in "acd"]),
        ("Echo", ["a", "a"], [(1 / 3, f"{word} x x", 0, False) for word in "bcd"]),
        ("Echo", ["a", "b", "a", "b", "a"], [(1, "", 0.25, True)]),
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
