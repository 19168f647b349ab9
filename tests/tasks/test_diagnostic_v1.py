"""Version 1 of the diagnostic suite: golds and optima by hand, held-out prompts, drawn instances, the page's table."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import textgym
from tests.collapsed import collapsed
from textgym.exact import Optimum
from textgym.exact.tree import prefix_tree
from textgym.registration import load_task, task_mdp
from textgym.tasks import DIAGNOSTIC_V1, LATER_VERSIONS, NEEDS_PROMPT, TASKS, task_id
from textgym.tasks.task import Task
from textgym.testing import check_task

PAGE = Path(__file__).parents[2] / "docs" / "diagnostic.md"
every = pytest.mark.parametrize("name", DIAGNOSTIC_V1)


def optimum_of(task: Task, split: str = "test") -> Optimum:
    found: Optimum = textgym.optimum(task_mdp(task, split=split), task.beta)
    return found


def score_of(reward: Any, task: Task, response: str, **columns: Any) -> Any:
    """Return what a response, given as words, is paid by a reward."""
    ids = task.tokenizer(response)["input_ids"]
    (score,) = reward([""], [response], completion_ids=[ids], **{key: [value] for key, value in columns.items()})
    return score


# --- versions ------------------------------------------------------------------------------------------------------


def test_a_version_stands_beside_the_one_before() -> None:
    assert load_task("Copy").name == load_task("Copy-v0").name == load_task("textgym/Copy-v0").name == "Copy"
    assert load_task("Copy-v1").name == load_task("textgym/Copy-v1").name == "Copy-v1"
    assert set(DIAGNOSTIC_V1) <= {gym.registry[task_id(name)].kwargs["task"] for name in LATER_VERSIONS}
    assert (task_id("Copy"), task_id("Copy-v1")) == ("textgym/Copy-v0", "textgym/Copy-v1")
    assert set(NEEDS_PROMPT) <= {*TASKS, *LATER_VERSIONS}


def test_gymnasium_prefers_the_later_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"textgym/Copy-v0 is out of date.*version `v1`"):
        env = gym.make("textgym/Copy-v0")
    assert env.action_space == gym.spaces.Discrete(4)
    assert gym.make("textgym/Copy-v1").action_space == gym.spaces.Discrete(10)


@pytest.mark.parametrize(
    ("name", "near"), [("Coppy", "Copy"), ("textgym/Coppy-v1", "textgym/Copy-v1"), ("Copy-v3", "Copy-v1")]
)
def test_an_unknown_version_is_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"is unknown; did you mean '{near}'"):
        load_task(name)


# --- every task ----------------------------------------------------------------------------------------------------


@every
def test_a_task_passes_the_checks_of_own_tasks(name: str) -> None:
    check_task(f"textgym/{name}")


@every
def test_what_is_held_out_is_made_of_known_words(name: str) -> None:
    task = load_task(name, seed=3)
    train, test = ({prompt.text for prompt in task.prompts(split)} for split in ("train", "test"))
    assert len(train) == len(task.prompts("train"))
    assert len(test) == len(task.prompts("test")) >= 4
    assert not train & test
    assert {word for text in test for word in text.split()} <= {word for text in train for word in text.split()}


@every
def test_a_seed_draws_an_instance_again(name: str) -> None:
    one, again, other = (load_task(name, seed=seed) for seed in (1, 1, 2))
    rows = [[(p.text, p.columns) for split in ("train", "test") for p in t.prompts(split)] for t in (one, again, other)]
    assert rows[0] == rows[1] != rows[2]
    weights = [torch.cat([w.flatten() for w in t.base_model().parameters()]) for t in (one, again, other)]  # type: ignore[operator, misc]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@every
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_task_is_small_and_its_gold_within_bounds(name: str, split: str) -> None:
    task = load_task(name)
    golds = prefix_tree(task_mdp(task, "gold", split))
    rewards = np.concatenate([level.reward[level.ended] for level in golds])
    assert len(rewards) <= 50_000
    assert rewards.min() >= 0
    assert rewards.max() == pytest.approx(1)
    assert pickle.loads(pickle.dumps(task.gold)) == task.gold


@every
def test_the_reference_does_not_depend_on_the_prompt(name: str) -> None:
    first = optimum_of(load_task(name)).ref_log_probs[0]
    np.testing.assert_allclose(first, np.broadcast_to(first[0], first.shape), atol=1e-4)


# --- one by one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "response", "columns", "expected"),
    [
        ("Copy-v1", "b A", {"target": [1, 0]}, 1.0),
        ("Copy-v1", "B B", {"target": [1, 0]}, 0.5),
        ("Recall-v1", "C", {"target": [2]}, 1.0),
        ("Recall-v1", "d", {"target": [2]}, 0.0),
        ("Needle-v1", "a H", {"secret": [0, 7]}, 1.0),
        ("Needle-v1", "a g", {"secret": [0, 7]}, 0.0),
        ("Vocabulary-v1", "w3", {"good": [3, 5]}, 1.0),
        ("Vocabulary-v1", "w4", {"good": [3, 5]}, 0.0),
        ("Noise-v1", "b", {"values": [0.0, 0.75]}, 0.75),
        ("Scale-v1", "b", {"values": [0.0, 0.75]}, 0.75),
        ("Dense-v1", "c a b c", {"order": [2, 0, 1, 3, 4]}, 0.75),  # c a b d e c …
        ("Dense-v1", "a b d e", {"order": [2, 0, 1, 3, 4]}, 0.75),
        ("Length-v1", "a b <end>", {"target": 2}, 1.0),
        ("Length-v1", "<end>", {"target": 2}, 1 / 3),
        ("Length-v1", "a b b a b", {"target": 4}, 0.0),
        ("Prior-v1", "a g a", {"named": 0}, 2 / 3),
        ("Trap-v1", "a a a a", {"named": 0}, 1 / 4),
        ("Trap-v1", "b a d c", {"named": 0}, 1.0),
        ("Trap-v1", "b e d c", {"named": 0}, 0.0),
    ],
)
def test_gold_by_hand(name: str, response: str, columns: dict[str, Any], expected: float) -> None:
    task = load_task(name)
    assert set(columns) == set(task.prompts()[0].columns)
    assert score_of(task.gold, task, response, **columns) == pytest.approx(expected)


def test_rewards_that_are_not_gold_by_hand() -> None:
    scale, noise, trap, dense = (load_task(name) for name in ("Scale-v1", "Noise-v1", "Trap-v1", "Dense-v1"))
    assert score_of(scale.reward, scale, "b", values=[0.0, 0.75]) == 75
    noisy = [score_of(noise.reward, noise, "b", values=[0.0, 0.75], episode_seed=seed) for seed in range(2_000)]
    assert np.mean(noisy) == pytest.approx(0.75, abs=0.05)
    assert np.std(noisy) == pytest.approx(0.5, rel=0.05)
    assert score_of(trap.reward, trap, "a b a c", named=0) == 0.5
    assert dense.reward is None
    paid = load_task("Dense-v1", per_token=True).reward
    assert score_of(paid, dense, "c a b c", order=[2, 0, 1, 3, 4]) == [0.25, 0.25, 0.25, 0.0]


def soft(beta: float, *chances_and_rewards: tuple[float, float]) -> float:
    """Return β·log Σ p·exp(r/β)."""
    return beta * math.log(sum(p * math.exp(r / beta) for p, r in chances_and_rewards))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Copy-v1", 2 * soft(0.1, (0.2, 0.5), (0.8, 0))),  # two places, a right letter in either case
        ("Recall-v1", soft(0.2, (0.25, 1), (0.75, 0))),
        ("Needle-v1", soft(0.1, (1 / 64, 1), (63 / 64, 0))),
        ("Vocabulary-v1", soft(0.1, (1 / 16, 1), (15 / 16, 0))),
        ("Dense-v1", 4 * soft(0.1, (0.2, 0.25), (0.8, 0))),  # one of five words is next, whatever was said before
        ("Trap-v1", 4 * soft(0.125, (0.2, 0.25), (0.8, 0))),
    ],
)
def test_optima_by_hand(name: str, expected: float) -> None:
    for split in ("train", "test"):
        assert optimum_of(load_task(name, seed=1), split).value == pytest.approx(expected, abs=1e-5)


def test_the_optimum_of_prior_by_the_rarities() -> None:
    task = load_task("Prior-v1", seed=4)
    found = optimum_of(task)
    rarities = np.exp(found.ref_log_probs[0][0])[:4]
    assert all(0.015 <= p <= 0.06 for p in rarities)
    expected = np.mean([3 * soft(0.08, (p, 1 / 3), (1 - p, 0)) for p in rarities])
    assert found.value == pytest.approx(expected, abs=1e-5)
    assert len(set(np.round(rarities, 6))) == 4


def test_the_optimum_of_length_by_the_place_of_the_end() -> None:
    task = load_task("Length-v1", seed=2)
    found = optimum_of(task)
    ends = float(np.exp(found.ref_log_probs[0][0, 2]))
    places = [(ends * (1 - ends) ** n, n) for n in range(5)]
    by_target = [
        soft(task.beta or 0, *((p, max(0.0, 1 - abs(n - target) / 3)) for p, n in places), ((1 - ends) ** 5, 0))
        for target in range(1, 5)
    ]
    assert found.value == pytest.approx(np.mean(by_target), abs=1e-5)


def test_scale_leaves_the_optimal_policy_alone() -> None:
    noise, scale = (optimum_of(load_task(name, seed=5)) for name in ("Noise-v1", "Scale-v1"))
    assert scale.value == pytest.approx(100 * noise.value)
    np.testing.assert_allclose(scale.log_probs[0], noise.log_probs[0], atol=1e-12)


def test_the_price_of_kl_keeps_the_trap_from_costing_gold() -> None:
    """Gold rises up to the optimum of the proxy and falls beyond it, to 1/4 where one word is repeated."""
    task = load_task("Trap-v1")
    found = optimum_of(task)
    base: Any = task.base_model
    reference, best = found.expect(base(), task.gold), found.expect(None, task.gold)
    cheap = textgym.optimum(task_mdp(task, split="test"), 0.04)
    assert cheap.expect(None, task.gold) < 0.3 < reference + 0.05 < best
    assert cheap.best.reward > 0.98


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Noise-v1", {"sigma": -1.0}, "sigma=-1.0"),
        ("Scale-v1", {"factor": 0.0}, "factor=0.0"),
        ("Noise-v1", {"arms": 1}, "arms=1"),
        ("Vocabulary-v1", {"size": 8}, "size=8; expected at least share=16"),
        ("Recall-v1", {"gap": 3}, "variants=8; expected at most 5"),
        ("Prior-v1", {"rarity": 0.0}, "rarity=0.0"),
        ("Prior-v1", {"rarity": 0.2}, "rarity=0.2"),
        ("Needle-v1", {"symbols": 2, "horizon": 1, "cues": 3}, "cues=3; expected at most 2"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(name, **parameters)


# --- the page --------------------------------------------------------------------------------------------------


def table_of(heading: str) -> dict[str, list[str]]:
    """Return the first table after a heading of the page: its cells, by the first one."""
    lines = PAGE.read_text("utf-8").partition(f"\n{heading}\n")[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_table_has_all_tasks() -> None:
    assert set(table_of("## Version 1")) == set(DIAGNOSTIC_V1)


@every
def test_the_numbers_of_the_table(name: str) -> None:
    task = load_task(name)
    found, fallen = optimum_of(task), collapsed(task)
    best = found.best
    counts = f"{len(task.prompts('train'))}, {len(task.prompts('test'))}"
    measured = [
        *(str(task.vocabulary_size), str(task.max_new_tokens), counts, f"{task.beta:g}"),
        *(f"{number:.4f}" for number in (found.reference.objective, found.value, best.reward)),
        f"{best.kl:.3f}",
        *(f"{score + 0.0:.2f}" for score in (fallen.constant, fallen.deterministic, fallen.blind)),
    ]
    assert [cell.replace("−", "-") for cell in table_of("## Version 1")[name][1:]] == [
        cell.replace("-0.00", "0.00") for cell in measured
    ]
