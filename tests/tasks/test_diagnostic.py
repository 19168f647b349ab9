"""The diagnostic suite: its golds by hand, its reference against the chain, its sizes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import textgym
from textgym.exact import Optimum
from textgym.exact.tree import prefix_tree
from textgym.registration import load_task, task_mdp
from textgym.tasks import DIAGNOSTIC, DIAGNOSTIC_NEW, TASKS
from textgym.tasks.diagnostic.build import chain
from textgym.tasks.diagnostic.model import markov_gpt2
from textgym.tasks.task import Task

TWELVE = {
    *("Emit", "Copy", "Recall", "Needle", "Delayed", "Noise"),
    *("Scale", "Length", "Prior", "Trap", "Vocabulary", "Dense"),
}


def optimum_of(task: Task) -> Optimum:
    found: Optimum = textgym.optimum(task_mdp(task), task.beta)
    return found


def gold(name: str, response: str, prompt: str | None = None, **parameters: Any) -> float:
    """Return the gold score of a response, given as words, to one of a task's prompts."""
    task = load_task(name, **parameters)
    row = next(p for p in task.prompts() if prompt is None or p.text == prompt)
    ids = task.tokenizer(response)["input_ids"]
    columns = {key: [value] for key, value in row.columns.items()}
    scores: Any = task.gold([row.text], [response], completion_ids=[ids], **columns)
    return float(scores[0])


# --- every task ----------------------------------------------------------------------------------------------


def test_the_twelve_those_with_held_out_prompts_and_those_with_a_world_are_registered() -> None:
    assert {name for name in DIAGNOSTIC if load_task(name).world is None} == TWELVE | set(DIAGNOSTIC_NEW)
    assert set(DIAGNOSTIC) <= set(TASKS)
    assert {f"textgym/{name}-v0" for name in DIAGNOSTIC} <= set(gym.registry)


@pytest.mark.parametrize("name", DIAGNOSTIC)
def test_a_task_is_small_and_its_optimum_above_the_reference(name: str) -> None:
    task = load_task(name)
    found = optimum_of(task)
    assert found.n_sequences <= 200_000
    assert task.name == name
    assert task.description.endswith(".")
    assert found.best.score == pytest.approx(1)
    assert found.value > found.reference.objective + 0.05


@pytest.mark.parametrize("name", [*sorted(TWELVE), "Ladder", "Decoy", "Drift", "Ties", "Brevity"])
def test_gold_is_in_bounds_and_can_be_reached(name: str) -> None:
    golds = prefix_tree(task_mdp(load_task(name), "gold"))
    rewards = np.concatenate([level.reward[level.ended] for level in golds])
    assert rewards.min() >= 0
    assert 0.99 < rewards.max() <= 1 + 1e-12


@pytest.mark.parametrize("name", ["Emit", "Copy", "Prior", "Length"])
def test_a_policy_is_a_fresh_copy_that_equals_the_reference(name: str) -> None:
    task = load_task(name)
    first, second = task.base_model(), task.base_model()  # type: ignore[operator, misc]
    assert first is not second
    value = optimum_of(task).evaluate(first)
    assert value.kl == pytest.approx(0, abs=1e-12)
    assert value.score == pytest.approx(0, abs=1e-12)


def test_environments_play() -> None:
    env = gym.make("textgym/Length-v0")
    env.reset(seed=0)
    assert env.action_space == gym.spaces.Discrete(3)  # the prompt's numbers are no actions
    _, reward, terminated, _, info = env.step(2)
    assert terminated
    assert info["finish_reason"] == "stop"
    assert 0 <= reward < 1


# --- one by one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "response", "prompt", "expected"),
    [
        ("Copy", "b a", "b a", 1.0),
        ("Copy", "b b", "b a", 0.5),
        ("Delayed", "b a a a a a a a", None, 1.0),
        ("Delayed", "a b b b b b b b", None, 0.0),
        ("Dense", "a b c d a b", None, 1.0),
        ("Dense", "b c d a b d", None, 4 / 6),
        ("Length", "a b a <end>", "3", 1.0),
        ("Length", "a <end>", "3", 1 / 3),
        ("Length", "<end>", "5", 0.0),
        ("Length", "a a a a a a", "5", 0.0),
        ("Prior", "d a d b b c", None, 2 / 6),
        ("Trap", "great great great great great", None, 1 / 5),
        ("Trap", "great fine warm wise bold", None, 1.0),
        ("Trap", "fine warm wise bold fine", None, 0.0),
    ],
)
def test_gold_by_hand(name: str, response: str, prompt: str | None, expected: float) -> None:
    assert gold(name, response, prompt) == pytest.approx(expected)


def test_recall_asks_for_the_first_word() -> None:
    for prompt in load_task("Recall").prompts():
        first = prompt.text.split()[0]
        assert [gold("Recall", word, prompt.text) for word in "abcd"] == [float(word == first) for word in "abcd"]
        assert len(prompt.ids) == 10


def test_emit_orders_its_words_and_needle_hides_one_response() -> None:
    assert sorted(gold("Emit", word, arms=4) for word in "abcd") == pytest.approx([0, 1 / 3, 2 / 3, 1])
    found = optimum_of(load_task("Needle"))
    assert 0 < found.reference.reward <= 1e-3


def test_noise_keeps_the_mean_and_follows_the_episodes_seed() -> None:
    reward: Any = load_task("Noise", sigma=2.0).reward
    seeds = list(range(4000))
    drawn = np.array(reward([""] * 4000, [""] * 4000, completion_ids=[[3]] * 4000, episode_seed=seeds))
    mean = gold("Noise", "d", sigma=2.0)
    assert abs(drawn.mean() - mean) < 0.1
    assert drawn.std() == pytest.approx(2.0, rel=0.05)
    assert reward([""], [""], completion_ids=[[3]], episode_seed=[7]) == [drawn[7]]
    assert gym.make("textgym/Noise-v0", sigma=0.5).unwrapped.mdp.rewards.rewards[0].sigma == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_scale_leaves_the_optimal_policy_alone(factor: float) -> None:
    plain, scaled = optimum_of(load_task("Emit")), optimum_of(load_task("Scale", factor=factor))
    assert scaled.value == pytest.approx(factor * plain.value)
    np.testing.assert_allclose(scaled.next_token_probs(0), plain.next_token_probs(0), atol=1e-12)


def test_dense_pays_the_same_return_either_way() -> None:
    early, late = (load_task("Dense", per_token=per_token) for per_token in (True, False))
    assert optimum_of(early).value == pytest.approx(optimum_of(late).value, abs=1e-12)
    env = gym.make("textgym/Dense-v0")
    env.reset(seed=0)
    for action in (0, 1, 3, 0, 0, 0):
        info = env.step(action)[4]
    assert info["token_rewards"] == pytest.approx([1 / 6, 1 / 6, 0, 1 / 6, 0, 0])


def test_the_traps_optimum_loses_gold() -> None:
    task = load_task("Trap")
    found = optimum_of(task)
    reference: Any = task.base_model
    assert found.best.reward > 0.9
    assert found.expect(None, task.gold) < 0.3 < found.expect(reference(), task.gold)
    # A dearer nat keeps more of it.
    assert textgym.optimum(task_mdp(task), 0.2).expect(None, task.gold) > found.expect(None, task.gold)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Noise", {"sigma": -1.0}, "sigma=-1.0"),
        ("Scale", {"factor": 0.0}, "factor=0.0"),
        ("Emit", {"arms": 1}, "arms=1"),
        ("Vocabulary", {"size": 8}, "size=8"),
        ("Recall", {"gap": 2}, "variants=8"),
        ("Length", {"targets": (9,)}, "lengths from 1 to"),
        ("Prior", {"rarity": 0.0}, "rarity=0.0"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(name, **parameters)


# --- the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), [(12, 12), (500, 1)])
def test_a_gpt2_equals_the_chain_whatever_stood_before(n: int, rank: int) -> None:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(n), size=n if rank > 1 else None)
    log_probs = chain(chances, n + 2)
    model = markov_gpt2(log_probs, positions=16, seed=1)
    ids = torch.from_numpy(rng.integers(n + 2, size=(4, 16)))
    with torch.no_grad():
        found = model(ids).logits[..., :n].log_softmax(-1).numpy()
    np.testing.assert_allclose(found, log_probs[ids.numpy()], atol=2e-4)


def test_every_weight_can_learn() -> None:
    """The zeros at the end of each branch receive a gradient, and then the rest does."""
    model = markov_gpt2(chain(np.full(5, 0.2), 7), positions=8)
    ids = torch.tensor([[5, 1, 2, 3, 4]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in still if "c_attn.bias" not in name] == []


def test_a_chain_of_too_many_rows_is_refused() -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(40), size=40)
    with pytest.raises(ValueError, match="use fewer tokens, or equal rows"):
        markov_gpt2(chain(chances, 40), positions=8)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    model: Any = load_task("Emit").base_model
    model()
    assert torch.equal(torch.get_rng_state(), before)
