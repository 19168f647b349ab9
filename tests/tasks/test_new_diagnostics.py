"""Ladder, Decoy, Drift, Ties, Brevity, Pareto: optima by formulas, each claim measured, and degenerate policies."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textgym
from textgym.agents import PPO, Reinforce
from textgym.env.vector import TokenVectorEnv
from textgym.exact import Optimum, expected_gradient, pareto_front
from textgym.exact.gradients import objective_parts
from textgym.registration import load_task, task_maker, task_mdp
from textgym.tasks import DIAGNOSTIC, DIAGNOSTIC_NEW
from textgym.tasks.diagnostic.build import ResponseReward, diagnostic
from textgym.tasks.diagnostic.pareto import pareto_rewards
from textgym.types import FloatArray

CASES = [(name, seed) for name in DIAGNOSTIC_NEW for seed in (0, 1)]


@cache
def solved(name: str, seed: int = 0, split: str = "test") -> Optimum:
    task = load_task(name, seed=seed)
    found: Optimum = textgym.optimum(task_mdp(task, split=split), task.beta)
    return found


def responses(found: Optimum) -> Iterator[tuple[int, tuple[int, ...], float, float]]:
    """Yield the prompt, the tokens, the reward and log π_ref of every response."""
    so_far: FloatArray = np.zeros(len(found.tree[0].states))
    for level, log_ref, after in zip(found.tree, found.ref_log_probs, (*found.tree[1:], None), strict=True):
        total = so_far[:, None] + log_ref
        for row, token in zip(level.endings.row.tolist(), level.endings.token.tolist(), strict=True):
            ids = (*level.states.own[row].tolist(), token)
            yield int(level.states.prompt[row]), ids, float(level.reward[row, token]), float(total[row, token])
        if after is not None:
            so_far = total[after.states.parent, after.states.own[:, -1]]


def table(found: Optimum) -> tuple[FloatArray, FloatArray]:
    """Return rewards and log π_ref, ``[n_prompts, n_responses]`` each, responses in one order."""
    rows = sorted(responses(found))
    shape = (len(found.tree[0].states), -1)
    return np.array([row[2] for row in rows]).reshape(shape), np.array([row[3] for row in rows]).reshape(shape)


def score(found: Optimum, objective: float) -> float:
    return (objective - found.reference.objective) / (found.value - found.reference.objective)


# --- all of them ---------------------------------------------------------------------------------------------


def test_they_are_diagnostic_tasks_of_one_turn_whose_instance_a_seed_draws() -> None:
    assert set(DIAGNOSTIC_NEW) < set(DIAGNOSTIC)
    for name in DIAGNOSTIC_NEW:
        assert load_task(name).world is None
        assert inspect.signature(task_maker(name)).parameters["seed"].default == 0


@pytest.mark.parametrize("name", DIAGNOSTIC_NEW)
def test_seeds_draw_different_instances(name: str) -> None:
    def instance(seed: int) -> tuple[tuple[str, ...], bytes]:
        texts = (prompt.text for split in ("train", "test") for prompt in load_task(name, seed=seed).prompts(split))
        return tuple(texts), table(solved(name, seed, "train"))[0].tobytes()

    first, again, *others = map(instance, (0, 0, 1, 2, 3))
    assert first == again
    assert len({first, *others}) == 4


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_held_out_prompts_have_known_cues_behind_new_filler(name: str, seed: int) -> None:
    task = load_task(name, seed=seed)
    train, held_out = ({prompt.text: prompt.columns for prompt in task.prompts(split)} for split in ("train", "test"))
    assert not train.keys() & held_out.keys()

    def by_cue(prompts: Mapping[str, Any]) -> dict[str, Any]:
        return {text.partition(" ")[2].lstrip("xy "): columns for text, columns in prompts.items()}

    assert by_cue(train) == by_cue(held_out)
    assert max(len(prompt.ids) for prompt in task.prompts("test")) == task.max_prompt_length


def test_a_task_without_held_out_prompts_has_one_split() -> None:
    sizes: dict[str, Any] = {"words": ["a", "b"], "horizon": 1, "beta": 1.0, "chances": np.full(2, 0.5)}
    task = diagnostic("Toy", "Toy.", lambda ids, _: float(ids[0]), **sizes)
    assert set(task.splits) == {"train"}
    split = diagnostic("Toy", "Toy.", lambda ids, _: float(ids[0]), held_out=["go on now"], **sizes)
    assert [prompt.text for prompt in split.prompts("test")] == ["go on now"]
    assert split.max_prompt_length == 3


@pytest.mark.parametrize(("name", "seed"), CASES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_optimum_by_a_sum_over_responses(name: str, seed: int, split: str) -> None:
    """J* = mean over prompts of β·log Σ_y π_ref(y)·exp(R(y)/β)."""
    found = solved(name, seed, split)
    reward, log_ref = table(found)
    assert reward.size <= 200_000
    np.testing.assert_allclose(np.exp(log_ref).sum(1), 1, atol=1e-9)
    by_prompt = found.beta * np.log(np.exp(log_ref + reward / found.beta).sum(1))
    np.testing.assert_allclose(found.prompt_values, by_prompt, atol=1e-9)


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_no_degenerate_policy_comes_near_the_optimum(name: str, seed: int) -> None:
    """The best single response, the best one for each prompt, and the best policy that does not see the prompt."""
    found = solved(name, seed)
    reward, log_ref = table(found)
    told = reward + found.beta * log_ref  # J of always saying it
    assert score(found, told.mean(0).max()) <= score(found, told.max(1).mean()) < 0.8
    # The reference is the same after each prompt, so a blind policy meets the mean reward.
    np.testing.assert_allclose(log_ref, np.broadcast_to(log_ref[0], log_ref.shape), atol=1e-3)
    blind = found.beta * np.log(np.exp(log_ref[0] + reward.mean(0) / found.beta).sum())
    assert score(found, blind) < 0.8


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Ladder", {"rung": 0.4}, "rung=0.4; expected 0 or more, and below 1 for 3"),
        ("Ladder", {"rarity": 0.5}, "rarity=0.5"),
        ("Ladder", {"cues": 17}, r"cues=17; expected 1 to 2\*\*horizon = 16"),
        ("Decoy", {"height": 1.0}, "height=1.0"),
        ("Drift", {"change": 0}, "change=0; expected a whole number, at least 1"),
        ("Drift", {"kinds": 1}, "kinds=1; expected 2 or more"),
        ("Ties", {"rarity": 0.0}, "rarity=0.0"),
        ("Brevity", {"terse": 1.0}, "terse=1.0"),
        ("Pareto", {"weight": 1.5}, "weight=1.5"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(name, **parameters)


# --- Ladder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", [0.0, 0.15])
def test_the_top_of_the_ladder_is_not_met_by_chance(rung: float) -> None:
    """By hand: n words in order have probability r^n·(1 − r), and the whole pattern r^T."""
    task = load_task("Ladder", rung=rung, seed=3)
    found = textgym.optimum(task_mdp(task, split="test"), task.beta)
    r, steps, beta = 0.055, 4, found.beta
    reward, log_ref = table(found)
    whole = (np.exp(log_ref) * (reward == 1)).sum(1)
    np.testing.assert_allclose(whole, r**steps, rtol=1e-3)
    assert whole.max() <= 1e-5
    by_hand = sum(r**n * (1 - r) * math.exp(rung * n / beta) for n in range(steps)) + r**steps * math.exp(1 / beta)
    assert found.value == pytest.approx(beta * math.log(by_hand), abs=1e-4)
    assert found.reference.reward == pytest.approx(sum(r**n * (1 - r) * rung * n for n in range(steps)), abs=1e-4)
    assert set(np.unique(reward).round(9)) == {round(rung * n, 9) for n in range(steps)} | {1.0}


def test_the_pages_tell_the_rarity_of_the_ladders_top() -> None:
    reward, log_ref = table(solved("Ladder"))
    (once_in,) = {f"{round(1 / p, -3):,.0f}" for p in (np.exp(log_ref) * (reward == 1)).sum(1)}
    docs = Path(__file__).parents[2] / "docs"
    told = [inspect.getdoc(task_maker("Ladder")) or "", load_task("Ladder").description]
    told += [(docs / page).read_text("utf-8") for page in ("diagnostic.md", "tasks/Ladder.md", "tasks/README.md")]
    numbers = [re.findall(r"once in (\d+,000) times", text) for text in told]
    assert all(numbers)
    assert {number for found in numbers for number in found} == {once_in}


# --- Decoy ---------------------------------------------------------------------------------------------------


def test_the_decoys_optimum_by_hand() -> None:
    """Places in the pattern are binomial under the reference, at even chances."""
    found, steps, height = solved("Decoy"), 4, 0.6
    counts = [math.comb(steps, hits) * math.exp(height * (1 - hits / steps) / found.beta) for hits in range(steps)]
    by_hand = found.beta * math.log((sum(counts) + math.exp(1 / found.beta)) / 2**steps)
    assert found.value == pytest.approx(by_hand, abs=1e-5)
    assert found.best.reward > 0.99


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_gradient_points_to_the_decoy(seed: int) -> None:
    task = load_task("Decoy", seed=seed)
    mdp, kinds = task_mdp(task), task.gold.score.kinds  # type: ignore[attr-defined]

    def has(count: int) -> ResponseReward:
        """Make the indicator of responses with the pattern in ``count`` places."""
        return ResponseReward(
            f"has_{count}",
            lambda ids, columns: float(
                sum(kinds[word] == kind for word, kind in zip(ids, columns["pattern"], strict=True)) == count
            ),
        )

    def gradient(reward: Any) -> torch.Tensor:
        env = TokenVectorEnv(replace(mdp, reward=reward), 4)
        return objective_parts(PPO("LMPolicy", env, beta=0.05, seed=0))[0]

    up, whole, none = map(gradient, (task.gold, has(4), has(0)))
    assert float(up @ none) > 0 > float(up @ whole)


def test_a_place_in_the_pattern_costs_under_the_reference() -> None:
    """By hand: E[R | right in place t] − E[R | wrong there] = 2^(1−T) − height/T: the others must all be right."""
    task, found = load_task("Decoy"), solved("Decoy")
    score_of: Any = task.gold
    kinds, prompts = score_of.score.kinds, task.prompts("test")
    sums = np.zeros(2)
    for prompt, ids, reward, log_ref in responses(found):
        sums[int(kinds[ids[2]] == prompts[prompt].columns["pattern"][2])] += reward * math.exp(log_ref)
    wrong, right = sums * 2 / len(prompts)
    assert right - wrong == pytest.approx(2**-3 - 0.6 / 4, abs=1e-5)


# --- Drift ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_drift_by_hand_and_what_is_paid_at_first_is_worth_less_than_nothing_in_the_end(seed: int) -> None:
    """Words are independent: one of three kinds, at even chances, pays 1/T each."""
    found, steps, kinds = solved("Drift", seed), 4, 3
    beta = found.beta
    gain = math.exp(1 / (steps * beta))
    assert found.value == pytest.approx(steps * beta * math.log((kinds - 1 + gain) / kinds), abs=1e-5)
    assert found.reference.objective == pytest.approx(1 / kinds, abs=1e-6)
    # The policy that is best at first says the kind that is wanted then once in (gain + 2) words.
    share = gain / (gain + kinds - 1)
    kl = steps * sum(p * math.log(p * kinds) for p in (share, *[(1 - share) / 2] * 2))
    assert score(found, (1 - share) / 2 - beta * kl) < -1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_cue_keeps_its_kind_and_each_kind_is_wanted(seed: int) -> None:
    pairs = {(row.columns["at_first"], row.columns["wanted"]) for row in load_task("Drift", seed=seed).prompts()}
    assert all(at_first != wanted for at_first, wanted in pairs)
    assert {wanted for _, wanted in pairs} == {at_first for at_first, _ in pairs} == {0, 1, 2}


def test_the_environment_pays_what_is_wanted_at_first_and_then_what_is_wanted() -> None:
    task = load_task("Drift", change=2, horizon=2)
    env = TokenVectorEnv(task_mdp(task), 1, autoreset_mode="Disabled")
    kinds, columns = task.gold.score.kinds, task.prompts()[0].columns  # type: ignore[attr-defined]
    first, then = (kinds.index(columns[name]) for name in ("at_first", "wanted"))

    def paid(word: int, **options: Any) -> float:
        env.reset(options={"prompt_index": np.array([0]), **options})
        env.step(np.array([word]))
        return float(env.step(np.array([word]))[1][0])

    env.reset(seed=3, options={"prompt_index": np.array([0])})  # number 0
    assert [paid(first), paid(first), paid(then)] == [1, 0, 1]  # numbers 1, 2, 3
    assert [paid(first, episode=np.array([n])) for n in (0, 1, 2, 3)] == [1, 1, 0, 0]
    assert [paid(then, episode=np.array([n])) for n in (0, 1, 2, 3)] == [0, 0, 1, 1]


def test_training_meets_the_change() -> None:
    task = load_task("Drift", change=8)
    env = TokenVectorEnv(task_mdp(task), 4, autoreset_mode="Disabled")
    algorithm = PPO("LMPolicy", env, beta=0.05, seed=0, episodes_per_iteration=8, minibatch_size=8)
    rewards: list[FloatArray] = []
    for _ in range(2):
        episodes = algorithm.collect()
        assert episodes is not None
        rewards.append(episodes.rewards.sum(1))
        kinds = np.array(task.gold.score.kinds)[episodes.input_ids[:, episodes.prompt_length :]]  # type: ignore[attr-defined]
        wanted = ("at_first", "wanted")[len(rewards) - 1]
        columns = [task.prompts()[i].columns for i in episodes.prompt_index.tolist()]
        by_hand = (kinds == np.array([row[wanted] for row in columns])[:, None]).mean(1)
        np.testing.assert_allclose(rewards[-1], by_hand)
        algorithm.train(episodes)


# --- Ties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_most_groups_score_all_alike(seed: int) -> None:
    """By enumeration: the chance p of each prompt; four responses score alike with probability p⁴ + (1 − p)⁴."""
    found = solved("Ties", seed)
    reward, log_ref = table(found)
    assert set(np.unique(reward)) == {0.0, 1.0}
    p = (np.exp(log_ref) * reward).sum(1)
    by_hand = sorted(share**n for share in (0.06, 0.94) for n in (1, 2, 3) for _ in range(2))
    np.testing.assert_allclose(np.sort(p), by_hand, rtol=1e-3)
    alike = p**4 + (1 - p) ** 4
    assert alike.mean() > 0.75
    assert np.mean(alike > 0.95) == pytest.approx(1 / 3)
    value = found.beta * np.log(1 - np.array(by_hand) + np.array(by_hand) * np.exp(1 / found.beta))
    assert found.value == pytest.approx(value.mean(), abs=1e-4)


# --- Brevity -------------------------------------------------------------------------------------------------


def terse_and_wordy(found: Optimum, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return for each response to each prompt the form of a right answer, −1 without one, and the length."""
    prompts = load_task("Brevity", seed=seed).prompts("test")
    rows = sorted(responses(found))
    form = [(*prompts[row[0]].columns["answers"], row[1][0]).index(row[1][0]) for row in rows]
    shape = (len(prompts), -1)
    return np.array(form).reshape(shape), np.array([len(row[1]) for row in rows], float).reshape(shape)


@pytest.mark.parametrize("seed", [0, 1])
def test_terse_and_wordy_answers_earn_the_same_and_the_optimum_keeps_the_references_lengths(seed: int) -> None:
    found = solved("Brevity", seed)
    reward, log_ref = table(found)
    form, length = terse_and_wordy(found, seed)
    np.testing.assert_array_equal(reward, form < 2)
    assert found.value == pytest.approx(found.beta * math.log(0.75 + 0.25 * math.exp(1 / found.beta)), abs=1e-4)
    chance = np.exp(log_ref)
    assert (chance * (form == 0)).sum(1) == pytest.approx(0.05, rel=1e-3)
    assert (chance * (form == 1)).sum(1) == pytest.approx(0.2, rel=1e-3)
    # π* of right answers is the reference's, given that they are right.
    tilted = chance * np.exp(reward / found.beta)
    best = tilted / tilted.sum(1, keepdims=True)
    given_right = chance * reward / (chance * reward).sum(1, keepdims=True)
    right = (best * reward).sum(1)
    np.testing.assert_allclose((best * reward * length).sum(1) / right, (given_right * length).sum(1), rtol=1e-9)
    wordy = (given_right * (form == 1) * length).sum(1) / (given_right * (form == 1)).sum(1)
    terse = (given_right * (form == 0) * length).sum(1) / (given_right * (form == 0)).sum(1)
    assert terse.max() < 2.4
    assert wordy.min() > 4


def test_a_loss_divided_by_each_response_length_steps_towards_terse_answers() -> None:
    """Exact steps of REINFORCE on one prompt: by how much log P(terse) grows per growth of log P(wordy)."""
    task = load_task("Brevity", horizon=4)
    prompt = task.prompts()[0]

    def algorithm(reward: Any, normalisation: Any = "token") -> Reinforce:
        env = TokenVectorEnv(task_mdp(task, reward=reward, prompts=[prompt]), 4)
        return Reinforce("LMPolicy", env, beta=0.1, normalisation=normalisation, seed=0)

    def log_gradient(form: int, chance: float) -> torch.Tensor:
        word = prompt.columns["answers"][form]
        return objective_parts(algorithm(ResponseReward("form", lambda ids, _: float(ids[0] == word))))[0] / chance

    terse, wordy = log_gradient(0, 0.05), log_gradient(1, 0.2)

    def growth(normalisation: str) -> float:
        step = expected_gradient(algorithm(task.gold, normalisation))
        return float(step @ terse / (step @ wordy))

    assert growth("sequence") > 1.2 * growth("constant") > 0


# --- Pareto --------------------------------------------------------------------------------------------------


WEIGHTS = [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]


def by_brute_force(weight: float, beta: float) -> tuple[float, float, float, float]:
    """Return E[r1], E[r2], KL and J*_w over all 6⁴ responses; words 0 and 1 are on the topic, all equally likely."""
    said = np.array(list(product(range(6), repeat=4)))
    first, second = (said < 2).mean(1), np.array([len(set(row)) for row in said.tolist()]) / 4
    weighted = np.exp((weight * first + (1 - weight) * second) / beta)
    best = weighted / weighted.sum()
    kl = float((best * np.log(best * len(said))).sum())
    return float(best @ first), float(best @ second), kl, beta * math.log(weighted.mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_front_against_brute_force(seed: int) -> None:
    task = load_task("Pareto", seed=seed)
    front = pareto_front(task_mdp(task, split="test"), 0.05, pareto_rewards(task), WEIGHTS)
    found = np.column_stack([front.first, front.second, front.kl, front.values])
    np.testing.assert_allclose(found, [by_brute_force(weight, 0.05) for weight in WEIGHTS], atol=1e-4)
    assert front.weights.tolist() == WEIGHTS


def test_the_ends_of_the_front_are_the_optima_of_each_reward() -> None:
    """By hand for the first one: its words are independent, each on the topic with odds e^(1/4β) : 2."""
    task = load_task("Pareto")
    mdp, rewards = task_mdp(task, split="test"), pareto_rewards(task)
    front = pareto_front(mdp, 0.05, rewards, [0, 1])
    for end, reward in ((1, rewards[0]), (0, rewards[1])):
        alone = textgym.optimum(task_mdp(task, reward=reward, split="test"), 0.05)
        assert front.values[end] == pytest.approx(alone.value)
        assert front.kl[end] == pytest.approx(alone.best.kl)
        assert (front.first, front.second)[1 - end][end] == pytest.approx(alone.best.reward)
    assert front.first[1] == pytest.approx(math.exp(5) / (math.exp(5) + 2), abs=1e-4)


def test_the_tasks_own_weight_is_a_point_of_its_front() -> None:
    for weight in (0.3, 0.5):
        task = load_task("Pareto", weight=weight)
        found = textgym.optimum(task_mdp(task, split="test"), 0.05)
        front = pareto_front(task_mdp(task, split="test"), 0.05, pareto_rewards(task), [weight])
        assert front.values[0] == pytest.approx(found.value)
        assert front.kl[0] == pytest.approx(found.best.kl)


def test_the_front_is_concave() -> None:
    """No policy lies above a plane w·E[r1] + (1 − w)·E[r2] − β·KL = J*_w; and J*_w has slope E[r1] − E[r2]."""
    task, beta = load_task("Pareto"), 0.05
    mdp, rewards = task_mdp(task, split="test"), pareto_rewards(task)
    weights = np.linspace(0, 1, 21)
    front = pareto_front(mdp, beta, rewards, weights.tolist())
    gains = np.diff(np.column_stack([front.first, -front.second]), axis=0)
    assert (gains > 0).all()  # more weight, more of the first reward and less of the second
    assert (np.diff(front.values, 2) > 0).all()  # the support function of a set is convex
    below, here, above = (pareto_front(mdp, beta, rewards, [weight]) for weight in (0.499, 0.5, 0.501))
    assert (above.values - below.values)[0] / 0.002 == pytest.approx((here.first - here.second)[0], abs=1e-4)

    found = textgym.optimum(mdp, beta)
    log_ref = table(found)[1]
    first, second = (table(textgym.optimum(task_mdp(task, reward=reward, split="test"), beta))[0] for reward in rewards)
    rng = np.random.default_rng(0)
    for spread in (0.01, 0.1, 1.0, 10.0):
        policy = rng.dirichlet(np.full(log_ref.shape[1], spread), len(log_ref)) + 1e-300
        policy /= policy.sum(1, keepdims=True)
        kl = (policy * (np.log(policy) - log_ref)).sum(1).mean()
        heights = weights * (policy * first).sum(1).mean() + (1 - weights) * (policy * second).sum(1).mean() - beta * kl
        assert (heights <= front.values + 1e-9).all()


@pytest.mark.parametrize("weights", [[], [-0.1], [0.5, 1.1], [math.nan]])
def test_weights_outside_their_range_are_refused(weights: list[float]) -> None:
    task = load_task("Pareto")
    with pytest.raises(ValueError, match="expected one or more numbers from 0 to 1"):
        pareto_front(task_mdp(task), 0.05, pareto_rewards(task), weights)


def test_a_task_of_one_reward_has_no_pair_of_them() -> None:
    with pytest.raises(TypeError, match="task='Ties' has one reward"):
        pareto_rewards(load_task("Ties"))
