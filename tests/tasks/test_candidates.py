"""Candidates: its dialogue and its menu against value iteration on a table, and by hand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import tests.dialogue_values as table
import textgym
from textgym.registration import load_task, task_mdp
from textgym.tasks.diagnostic.candidates import Chat, Mood
from textgym.types import Completion, Prompt
from textgym.worlds import Menu
from textgym.worlds.menu import Offer, chosen, numbered

WORDS = {table.COLD: "hm", table.WARM: "nice", table.GONE: "bye"}


def said(text: str) -> Completion:
    return Completion(text, (0,), "stop")


def prompt(offer: tuple[str, ...]) -> Prompt:
    return Prompt("hi", "hi", (0,), {"offer": list(offer)})


def value_of(world: Menu, state: Offer, of: Any) -> float:
    """Return the value of a state by recursion over the outcomes that the world names."""
    q = []
    for number in range(1, len(state.utterances) + 1):
        outcomes = world.outcomes(state, said(f" {number}"))
        q.append(sum(p * (reply.reward + (0.0 if reply.done else value_of(world, s, of))) for p, s, reply in outcomes))
    return float(of(np.array(q), None))


# --- the dialogue ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize("utterance", table.UTTERANCES)
@pytest.mark.parametrize("mood", [table.COLD, table.WARM])
def test_the_dialogue_is_the_one_of_the_table(turns: int, utterance: str, mood: int) -> None:
    found = Chat(turns).outcomes(Mood(bool(mood), 0), said(f" {utterance}"))
    seen = sorted((p, reply.says, reply.reward) for p, _, reply in found)
    assert seen == sorted((p, WORDS[m], reward) for p, m, reward in table.outcomes(utterance, mood, turns))
    assert all(reply.done == (reply.says == "bye") for _, _, reply in found)
    assert all(state == Mood(reply.says == "nice", 1) for _, state, reply in found if not reply.done)


def test_the_last_turn_ends_the_dialogue_and_nonsense_cools_it() -> None:
    assert all(reply.done for _, _, reply in Chat(3).outcomes(Mood(True, 2), said("a question")))
    ((chance, state, reply),) = Chat(3).outcomes(Mood(True, 0), said("a a fact"))
    assert (chance, state, reply) == (1.0, Mood(False, 1), ("hm", 0.0, False))


# --- the menu ----------------------------------------------------------------------------------------------------


def test_two_turns_by_hand() -> None:
    """In the last turn: warm 5/9·1 + 1/3·0.3, cold 5/9·0.3; before it a question 0.5333, a joke 0.425, a fact 1/6."""
    by_hand = 5 / 9 * (0.75 * (5 / 9 + 0.1) + 0.25 / 6) + 1 / 3 * (0.3 + 0.75 / 6) + 1 / 9 * 1 / 6
    assert by_hand == pytest.approx(0.456481, abs=1e-6)
    assert table.value(2, 2, table.best) == pytest.approx(by_hand)


@pytest.mark.parametrize(("turns", "k"), [(2, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("of", [table.best, table.soft(0.05), lambda q, _: q.mean()])
def test_the_value_is_that_of_value_iteration(turns: int, k: int, of: Any) -> None:
    task = load_task("Candidates", turns=turns, k=k)
    world = task.world
    assert isinstance(world, Menu)
    values = [value_of(world, world.start(one), of) for one in task.prompts()]
    assert np.mean(values) == pytest.approx(table.value(turns, k, of))


def test_planning_pays() -> None:
    """As the page says."""
    values = [table.value(3, 2, of) for of in (lambda q, _: q.mean(), table.without_planning(3), table.best)]
    assert values == pytest.approx([0.2385, 0.3172, 0.4089], abs=1e-4)


def test_the_optimum_is_that_of_soft_value_iteration() -> None:
    found = textgym.optimum(task_mdp(load_task("Candidates")), 0.05)
    assert found.value == pytest.approx(table.value(3, 2, table.soft(0.05)))
    assert found.reference.objective == pytest.approx(table.value(3, 2, lambda q, _: q.mean()))
    shorter = textgym.optimum(gym.make("textgym/Candidates-v0", turns=2, k=3), 0.2)
    assert shorter.value == pytest.approx(table.value(2, 3, table.soft(0.2)))


def test_a_reply_shows_the_next_offer() -> None:
    world = Menu(Chat(2), ("a fact", "a joke"))
    state = world.start(prompt(("a joke", "a fact")))
    found = world.outcomes(state, said("2"))
    assert [(p, reply.says) for p, _, reply in found] == [
        (0.25, "hm 1 a fact 2 a fact"),
        (0.25, "hm 1 a fact 2 a joke"),
        (0.25, "hm 1 a joke 2 a fact"),
        (0.25, "hm 1 a joke 2 a joke"),
    ]
    assert found[1][1] == Offer(Mood(False, 1), ("a fact", "a joke"))
    assert [(p, reply) for p, _, reply in world.outcomes(found[0][1], said("1"))] == [(1.0, ("hm", 0.0, True))]


@pytest.mark.parametrize("turn", ["3", "0", "-1", "", "1 2", "a joke"])
def test_a_turn_that_is_no_number_of_the_offer_is_played_as_it_stands(turn: str) -> None:
    world = Menu(Chat(2), ("a fact",))
    found = world.outcomes(Offer(Mood(), ("a fact", "a fact")), said(turn))
    expected = (
        [(0.25, "bye", 0.3), (0.75, "hm 1 a fact 2 a fact", 0.3)]
        if turn == "a joke"
        else [(1.0, "hm 1 a fact 2 a fact", 0.0)]
    )
    assert [(p, reply.says, reply.reward) for p, _, reply in found] == expected


def test_numbers_begin_at_one() -> None:
    assert numbered(("x y", "z")) == "1 x y 2 z"
    assert chosen(" 2", ("x y", "z")) == "z"


# --- the environments --------------------------------------------------------------------------------------------


def test_an_action_is_a_number() -> None:
    env = gym.make("textgym/Candidates-v0", k=3)
    assert env.action_space == gym.spaces.Discrete(3)
    prompts = load_task("Candidates", k=3).prompts()
    assert len({one.text for one in prompts}) == 27
    index = next(i for i, one in enumerate(prompts) if one.text == "hi 1 a fact 2 a question 3 a joke")
    outcomes = set()
    for episode in range(20):
        env.reset(seed=0, options={"prompt_index": index, "episode": episode})
        _, reward, terminated, _, info = env.step(2)
        outcomes.add((reward, terminated, info["reply"].split()[0]))
    assert outcomes == {(0.15, True, "bye"), (0.15, False, "hm")}  # number 3, the joke


@pytest.mark.parametrize("settings", [{}, {"k": 3, "turns": 4}, {"menu": False}, {"menu": False, "turns": 5}])
def test_all_turns_fit(settings: dict[str, Any]) -> None:
    """An episode ends when the dialogue does, never at the horizon, which the longest one reaches exactly."""
    env = gym.make("textgym/Candidates-v0", **settings)
    env.action_space.seed(0)
    longest = 0
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        terminated, info = False, {}
        while not terminated:
            observation, _, terminated, _, info = env.step(env.action_space.sample())
        assert info["finish_reason"] == "stop"
        longest = max(longest, int(observation["attention_mask"].sum()))
    assert longest == observation["attention_mask"].size


def test_without_the_menu_the_policy_writes() -> None:
    env = gym.make("textgym/Candidates-v0", menu=False)
    task = load_task("Candidates", menu=False)
    rewards, replies = set(), set()
    for episode in range(30):
        env.reset(seed=0, options={"episode": episode})
        for token in task.tokenizer("a joke .")["input_ids"]:
            _, reward, _, _, info = env.step(token)
        rewards.add(reward)
        replies.add(info["reply"])
    assert rewards == {0.15}
    assert replies == {"bye", "hm"}


def test_the_base_model_mostly_writes_utterances() -> None:
    """The chance of "a fact ." is .98/3 + .02/5 in its second word, and .98 + .02/5 in the other two."""
    task = load_task("Candidates", menu=False)
    ids = torch.tensor([task.tokenizer("hi a fact . hm a")["input_ids"]])
    log_probs = task.base_model()(ids).logits[0, :, :5].log_softmax(-1)  # type: ignore[operator, misc]
    for place in (0, 1, 2, 4):
        expected = 0.98 / 3 + 0.004 if place == 1 else 0.984
        assert log_probs[place, ids[0, place + 1]].exp().item() == pytest.approx(expected, abs=1e-4)


def test_one_turn_is_no_dialogue() -> None:
    with pytest.raises(ValueError, match="turns=1; expected at least 2"):
        load_task("Candidates", turns=1)
