"""The vector environment: in every autoreset mode it plays exactly what single environments play."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import emit, word_mdp
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.rewards import RewardError

PAD, EOS, W0, W1, W2, W3 = 0, 1, 2, 3, 4, 5
DISABLED, NEXT_STEP, SAME_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP


# --- comparing ---------------------------------------------------------------------------------------------------


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    """Deep equality of observations and infos, in types, dtypes and shapes too."""
    assert type(ours) is type(theirs), f"{where}: {ours!r} and {theirs!r}"
    if isinstance(ours, dict):
        assert set(ours) == set(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if ours.dtype == object:
                assert_same(one, other, f"{where}[{i}]")
            else:
                assert np.array_equal(one, other), f"{where}[{i}]: {one!r} and {other!r}"
    elif isinstance(ours, tuple):
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    else:
        assert ours == theirs, where


# --- random tasks ------------------------------------------------------------------------------------------------


def sparse(completion_ids, episode_seed, finish_reason, **_):
    """Depends on everything a reward may depend on."""
    return [
        sum(ids) / len(ids) + seed % 97 / 97 - (reason == "length")
        for ids, seed, reason in zip(completion_ids, episode_seed, finish_reason, strict=True)
    ]


def dense(completion_ids, level, **_):
    return [[i * 0.5 - (extra or 0) for i in ids] for ids, extra in zip(completion_ids, level, strict=True)]


def sometimes(completions, **_):
    return [float(len(text)) if len(text) % 2 else None for text in completions]


def sometimes_dense(completion_ids, **_):
    return [[float(i) for i in ids] if len(ids) % 2 else 1.0 for ids in completion_ids]


async def later(completions, **_):
    return [len(text) for text in completions]


REWARDS: list[Any] = [sparse, dense, [sometimes, sparse], [sometimes_dense, (later, -0.25)]]


def not_the_last(n_actions: int) -> Callable[..., Any]:
    """Admits every token but the one that stands last."""

    def allowed(input_ids, attention_mask):
        end = attention_mask.shape[1] - 1 - attention_mask[:, ::-1].argmax(1)
        return np.arange(n_actions) != input_ids[np.arange(len(input_ids)), end][:, None]

    return allowed


@st.composite
def tasks(draw: st.DrawFn) -> TokenMDP:
    n_words = draw(st.integers(2, 5))
    words = st.lists(st.integers(0, n_words - 1), min_size=1, max_size=3).map(lambda x: " ".join(f"w{i}" for i in x))
    levels = st.one_of(st.none(), st.integers(0, 3))
    prompts = [
        {"prompt": text} if level is None else {"prompt": text, "level": level}
        for text, level in draw(st.lists(st.tuples(words, levels), min_size=1, max_size=4))
    ]
    prompts[0]["level"] = 1  # the column is there for some row at least
    vocabulary_size = draw(st.one_of(st.none(), st.integers(3, n_words + 2)))
    n_actions = vocabulary_size or n_words + 2
    period = draw(st.integers(2, 4))
    reward = draw(st.sampled_from(REWARDS))
    if reward is dense:
        prompts = [{"level": None, **row} for row in prompts]
    return word_mdp(
        reward,
        prompts=prompts,
        max_prompt_length=draw(st.integers(3, 5)),
        max_new_tokens=draw(st.integers(1, 5)),
        n_words=n_words,
        end_token_ids=tuple(draw(st.sets(st.integers(0, n_actions - 1), max_size=n_actions - 1))),
        vocabulary_size=vocabulary_size,
        stop=draw(st.sampled_from([None, lambda ids: sum(ids) % period == 0])),
        allowed=draw(st.sampled_from([None, not_the_last(n_actions)])),
        missing_end_score=draw(st.sampled_from([None, None, -1.0])),
    )


def choose(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])


@settings(deadline=None, max_examples=100)
@given(
    mdp=tasks(),
    n=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    mode=st.sampled_from([NEXT_STEP, SAME_STEP, DISABLED]),
)
def test_it_plays_what_gymnasiums_vector_of_single_environments_plays(mdp, n, seed, mode):
    """The same seed and actions: the same observations, rewards, ends and infos, to the last key and dtype."""
    ours = TokenVectorEnv(mdp, n, mode)
    theirs = SyncVectorEnv([lambda: TokenEnv(mdp)] * n, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    rng = np.random.default_rng(seed)

    def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
        active = one[-1].pop("active", None)
        assert (active is None) == (mode is not DISABLED)
        assert active is None or active.all()  # finished rows are reset at once here
        assert_same(one, other)

    same(ours.reset(seed=seed), theirs.reset(seed=seed))
    for _ in range(12):
        masks = ours.action_masks()
        assert masks.tolist() == [mask.tolist() for mask in theirs.call("action_masks")]
        actions = choose(rng, masks)
        step = ours.step(actions)
        ended = step[2].copy()
        same(step, theirs.step(actions))
        if mode is DISABLED and ended.any():
            same(
                ours.reset(options={"reset_mask": ended.copy()}),
                theirs.reset(options={"reset_mask": ended.copy()}),
            )


@settings(deadline=None, max_examples=60)
@given(mdp=tasks(), n=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_rows_may_idle_and_be_reset_at_any_time(mdp, n, seed):
    """Under DISABLED, against one single environment per row that is stepped only while its row is active."""
    ours = TokenVectorEnv(mdp, n, DISABLED)
    singles = [TokenEnv(mdp) for _ in range(n)]
    rng = np.random.default_rng(seed)
    shown: list[Any] = [None] * n
    observation, _ = ours.reset(seed=seed)
    for i, env in enumerate(singles):
        shown[i] = env.reset(seed=seed + i)[0]
    live = np.ones(n, bool)
    for _ in range(15):
        if not live.any() or rng.random() < 0.3:
            chosen = rng.random(n) < 0.5
            if not chosen.any():
                chosen[:] = True
            options = {"reset_mask": chosen}
            if numbered := rng.random() < 0.5:
                options["prompt_index"] = rng.integers(len(mdp.prompts), size=n)
                options["episode"] = rng.integers(50, size=n)
            observation, info = ours.reset(options=options)
            for i in np.flatnonzero(chosen):
                own = {name: int(options[name][i]) for name in ("prompt_index", "episode")} if numbered else None
                # With equal seeds, ``episode`` means the same in every row.
                singles[i]._np_random_seed = seed
                shown[i], single_info = singles[i].reset(options=own)
                assert info["prompt_index"][i] == single_info["prompt_index"]
                assert info["prompt"][i] == single_info["prompt"]
            assert info["_prompt_index"].tolist() == chosen.tolist()
            live |= chosen
            assert info["active"].tolist() == live.tolist()
        else:
            actions = choose(rng, ours.action_masks())
            observation, rewards, terminated, truncated, info = ours.step(actions)
            assert info["active"].tolist() == live.tolist()
            assert not truncated.any()
            for i in range(n):
                if not live[i]:
                    assert (rewards[i], terminated[i]) == (0.0, False)
                    assert "_score" not in info or not info["_score"][i]
                    continue
                shown[i], reward, ended, _, single_info = singles[i].step(actions[i])
                assert (rewards[i], terminated[i]) == (reward, ended)
                if ended:
                    assert info["finish_reason"][i] == single_info["finish_reason"]
                    assert info["completion"][i] == single_info["completion"]
                live[i] = not ended
        for i in range(n):
            assert_same({key: value[i] for key, value in observation.items()}, shown[i], f"row {i}")


# --- the three modes, by hand ------------------------------------------------------------------------------------


def batch(*values: int) -> np.ndarray:
    return np.array(values)


def test_next_step_resets_in_a_step_that_ignores_its_action():
    env = TokenVectorEnv(word_mdp(emit(W0)), 2)
    assert env.metadata["autoreset_mode"] is NEXT_STEP
    env.reset(seed=0)
    observation, rewards, terminated, _, info = env.step(batch(EOS, W0))
    assert (rewards.tolist(), terminated.tolist()) == ([0.0, False], [True, False])
    assert info["completion"].tolist() == ["", None]
    assert observation["input_ids"][0, 4] == EOS  # the final observation
    observation, rewards, terminated, _, info = env.step(batch(99, EOS))  # 99 is no token, and nobody looks
    assert (rewards.tolist(), terminated.tolist()) == ([0.0, 0.5], [False, True])
    assert observation["attention_mask"][0, 4:].tolist() == [0] * 6
    assert info["_prompt"].tolist() == [True, False]
    assert info["_score"].tolist() == [False, True]


def test_same_step_shows_the_next_episode_and_keeps_the_last_in_info():
    env = TokenVectorEnv(word_mdp(emit(W0)), 2, "SameStep")
    env.reset(seed=0)
    first, *_ = env.step(batch(W0, W1))
    observation, rewards, terminated, _, info = env.step(batch(EOS, W1))
    assert (rewards.tolist(), terminated.tolist()) == ([0.5, 0.0], [True, False])
    assert observation["attention_mask"][0, 4:].sum() == 0
    assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [True, False]
    assert info["final_obs"][0]["input_ids"].tolist() == [*first["input_ids"][0, :5], EOS, PAD, PAD, PAD, PAD]
    assert info["final_obs"][1] is None
    assert info["final_info"]["finish_reason"].tolist() == ["stop", None]
    assert info["final_info"]["score"][0] == 0.5
    assert "score" not in info


def test_disabled_rows_idle_until_they_are_reset():
    env = TokenVectorEnv(word_mdp(emit(W0)), 3, "Disabled")
    observation, info = env.reset(seed=0)
    assert info["active"].tolist() == [True] * 3
    ended, _, terminated, _, info = env.step(batch(EOS, W0, W0))
    assert info["active"].tolist() == [True] * 3
    for _ in range(2):
        observation, rewards, terminated, truncated, info = env.step(batch(W3, W0, W0))
        assert info["active"].tolist() == [False, True, True]
        assert (rewards[0], terminated[0], truncated[0]) == (0.0, False, False)
        assert_same(
            {key: value[0] for key, value in observation.items()}, {key: value[0] for key, value in ended.items()}
        )
    observation, info = env.reset(options={"reset_mask": np.array([True, False, False])})
    assert observation["attention_mask"][:, 4:].sum(1).tolist() == [0, 3, 3]
    assert info["active"].tolist() == [True] * 3
    assert info["_prompt"].tolist() == [True, False, False]


def test_rows_may_wait_for_their_first_episode():
    """A collector that needs fewer episodes than there are rows admits no more than it needs."""
    env = TokenVectorEnv(word_mdp(emit(W0)), 3, "Disabled")
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "prompt_index": batch(9, 1, 9), "episode": batch(-1, 4, -1)}
    observation, info = env.reset(options=options)  # what stands outside the mask is not read
    assert info["active"].tolist() == [False, True, False]
    assert observation["attention_mask"].sum(1).tolist() == [0, 1, 0]
    observation, *_, info = env.step(batch(0, W0, 0))
    assert info["active"].tolist() == [False, True, False]
    assert observation["attention_mask"].sum(1).tolist() == [0, 2, 0]
    env = TokenVectorEnv(word_mdp(), 2)
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(batch(W0, W0))  # NEXT_STEP has no idle rows


def test_the_reward_is_called_once_for_all_rows_that_finish():
    calls = []

    def spy(prompts, completions, **_):
        calls.append((prompts, completions))
        return [float(len(text)) for text in completions]

    env = TokenVectorEnv(word_mdp(spy), 4, "Disabled")
    env.reset(options={"prompt_index": batch(0, 1, 2, 1)})
    env.step(batch(W0, EOS, W1, EOS))
    env.step(batch(EOS, W0, EOS, W0))
    assert calls == [(["w2", "w2"], ["", ""]), (["w0 w1", "w3 w4 w5"], [" w0", " w1"])]


def test_a_mistake_in_the_reward_shows_the_row_that_made_it():
    def broken(completions, **_):
        return [1 / len(text) for text in completions]

    env = TokenVectorEnv(word_mdp(broken), 2, "Disabled")
    env.reset(options={"prompt_index": batch(0, 1)})
    env.step(batch(W0, W0))
    env.reset(options={"prompt_index": batch(0, 1), "reset_mask": np.array([False, True])})
    with pytest.raises(RewardError, match=r"(?s)ZeroDivisionError.*completion 1 of 2.*prompt: 'w2'.*completion: ''"):
        env.step(batch(EOS, EOS))


def test_every_dense_row_keeps_its_own_parts():
    def mixed(completion_ids, **_):
        return [[float(i) for i in ids] if len(ids) > 1 else 7.0 for ids in completion_ids]

    env = TokenVectorEnv(word_mdp(mixed), 3, "Disabled")
    env.reset(seed=0)
    _, rewards, _, _, info = env.step(batch(EOS, W0, W1))
    assert rewards.tolist() == [7.0, 0.0, 0.0]
    assert "token_rewards" not in info
    _, rewards, _, _, info = env.step(batch(0, EOS, EOS))
    assert rewards.tolist() == [0.0, 3.0, 4.0]
    assert info["token_rewards"].tolist() == [None, [2.0, 1.0], [3.0, 1.0]]


def test_an_episode_owes_nothing_to_the_one_before_it():
    env = TokenVectorEnv(word_mdp(emit(W0)), 1, "Disabled")
    for response, score in (([W0, W0, W0, W1, EOS], 0.6), ([W1, EOS], 0.0), ([W0, W1, W1, EOS], 0.25)):
        env.reset()
        rewards = [env.step(batch(token))[1][0] for token in response]
        assert rewards == [0.0] * (len(response) - 1) + [score]


def test_a_frame_shows_each_reward_at_its_token():
    def mixed(completion_ids, **_):
        return [[float(i) for i in ids] if ids[0] == W0 else 7.0 for ids in completion_ids]

    env = TokenVectorEnv(word_mdp(mixed), 2, "Disabled")
    env.reset(options={"prompt_index": batch(0, 1)})
    env.step(batch(W0, W1))
    assert [env.frame(row).rewards for row in (0, 1)] == [(0.0,), (0.0,)]
    env.step(batch(EOS, EOS))
    assert [env.frame(row).rewards for row in (0, 1)] == [(2.0, 1.0), (0.0, 7.0)]
    assert [(env.frame(row).prompt, env.frame(row).tokens) for row in (0, 1)] == [
        ("w0 w1", (" w0", " <eos>")),
        ("w2", (" w1", " <eos>")),
    ]
    assert env.frame(0).finish_reason == "stop"


# --- seeds -------------------------------------------------------------------------------------------------------


def seeds_of(env: TokenVectorEnv) -> list[int]:
    """End the active rows' episodes, and give the ``episode_seed`` of each as the reward received it."""
    received: list[int] = []

    def spy(episode_seed, **_):
        received.extend(episode_seed)
        return [0.0] * len(episode_seed)

    env.mdp = replace(env.mdp, reward=spy)
    env.step(np.full(env.num_envs, EOS))
    return received


def numbered(seed: Any, episodes: list[int], rows: list[int] | None = None, n: int | None = None) -> list[int]:
    """``episode_seed`` of the given episodes, played in the given rows of ``n``."""
    rows = list(range(len(episodes))) if rows is None else rows
    env = TokenVectorEnv(word_mdp(), n or len(episodes), "Disabled")
    spread = np.zeros(env.num_envs, np.int64)
    spread[rows] = episodes
    mask = np.isin(np.arange(env.num_envs), rows)
    env.reset(seed=seed, options={"reset_mask": mask, "prompt_index": spread * 0, "episode": spread})
    by_row = dict(zip(sorted(rows), seeds_of(env), strict=True))
    return [by_row[row] for row in rows]


@given(
    seed=st.integers(0, 2**31),
    episodes=st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True),
    shift=st.integers(0, 2),
)
@settings(deadline=None, max_examples=40)
def test_episode_seed_depends_on_seed_and_episode_alone(seed, episodes, shift):
    """Not on the row, its batch mates, the number of rows, the prompt, or which rows were reset."""
    expected = numbered(seed, episodes)
    assert all(0 <= value < 2**63 for value in expected)
    assert len(set(expected)) == len(episodes)
    assert numbered(seed, episodes[::-1]) == expected[::-1]
    rows = [shift + i for i in range(len(episodes))]
    assert numbered(seed, episodes, rows, n=6) == expected
    assert [numbered(seed, [episode])[0] for episode in episodes] == expected
    assert not set(numbered(seed + 1, episodes)) & set(expected)
    single = TokenEnv(word_mdp(lambda episode_seed, **_: [float(s >> 11) for s in episode_seed]))
    single.reset(seed=seed, options={"prompt_index": 2, "episode": episodes[0]})
    assert single.step(EOS)[1] == float(expected[0] >> 11)  # 52 bits: exact as a float


def test_the_last_seed_counts_for_numbered_episodes():
    env = TokenVectorEnv(word_mdp(), 2, "Disabled")
    env.reset(seed=3)
    env.reset(options={"reset_mask": np.array([False, True]), "episode": batch(0, 8)})  # the seed stays
    assert seeds_of(env)[1:] == numbered(3, [8])
    env.reset(seed=4, options={"reset_mask": np.array([False, True]), "episode": batch(0, 8)})
    assert seeds_of(env) == numbered(4, [8])


def numbers_of(env: TokenVectorEnv) -> list[int]:
    """End the active rows' episodes, and give the ``episode_number`` of each as the reward received it."""
    received: list[int] = []

    def spy(episode_number=None, **_):
        received.extend(episode_number)
        return [0.0] * len(episode_number)

    env.mdp = replace(env.mdp, reward=spy)
    env.step(np.full(env.num_envs, EOS))
    return received


def test_the_reward_receives_the_given_number_or_that_of_the_episodes_begun():
    env = TokenVectorEnv(word_mdp(), 3, "Disabled")
    env.reset(seed=3)
    assert numbers_of(env) == [0, 1, 2]
    env.reset(options={"reset_mask": np.array([False, True, True])})
    assert numbers_of(env) == [3, 4]
    env.reset(options={"reset_mask": np.array([False, True, True]), "episode": batch(0, 70, 8)})
    assert numbers_of(env) == [70, 8]
    env.reset()  # given numbers do not count
    assert numbers_of(env) == [5, 6, 7]
    env.reset(seed=3)
    assert numbers_of(env) == [0, 1, 2]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_rows_that_reset_themselves_count_on(mode):
    env = TokenVectorEnv(word_mdp(), 2, mode)
    env.reset(seed=0)
    seen = [numbers_of(env) for _ in range(3)]
    assert [numbers for numbers in seen if numbers] == [[0, 1], [2, 3], [4, 5]][: 2 if mode == "NextStep" else 3]


def test_a_reward_that_requires_the_number_is_refused_since_an_enumeration_has_none():
    def drifting(episode_number, **_):
        return [0.0] * len(episode_number)

    with pytest.raises(ValueError, match=r"requires 'episode_number'.*give the parameter a default"):
        word_mdp(drifting)


def test_one_option_without_the_other():
    env = TokenVectorEnv(word_mdp(), 2, "Disabled")
    _, info = env.reset(seed=5, options={"episode": batch(1, 2)})
    assert {int(i) for i in info["prompt_index"]} <= {0, 1, 2}
    assert seeds_of(env) == numbered(5, [1, 2])
    drawn = []
    for _ in range(2):
        _, info = env.reset(options={"prompt_index": batch(1, 1)})
        assert info["prompt_index"].tolist() == [1, 1]
        drawn += seeds_of(env)
    assert len(set(drawn)) == 4  # the same prompt, but another episode each


def test_rows_are_seeded_one_by_one_as_gymnasium_does():
    env = TokenVectorEnv(word_mdp(prompts=[f"w{i}" for i in range(14)]), 3)
    start = env.reset(seed=7)[1]["prompt_index"].tolist()
    assert env.reset(seed=[7, 8, 9])[1]["prompt_index"].tolist() == start
    assert env.reset(seed=8)[1]["prompt_index"].tolist()[:2] == start[1:]
    singles = [TokenEnv(env.mdp).reset(seed=7 + i)[1]["prompt_index"] for i in range(3)]
    assert singles == start
    env.reset(seed=7)
    second = env.reset()[1]["prompt_index"].tolist()
    env.reset(seed=7)
    assert env.reset(seed=[None, 7, None])[1]["prompt_index"].tolist() == [second[0], start[0], second[2]]


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_step_before_reset(mode):
    env = TokenVectorEnv(word_mdp(), 2, mode)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(batch(W0, W0))


def test_step_after_every_row_has_ended():
    env = TokenVectorEnv(word_mdp(), 2, "Disabled")
    env.reset()
    env.step(batch(EOS, W0))
    env.step(batch(W0, EOS))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(batch(W0, W0))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([W0, -1], "action -1 lies outside the 16 tokens"),
        ([W0, 16], "action 16 lies outside the 16 tokens"),
        (np.array([2, 2**64 - 1], np.uint64), "action 18446744073709551615 lies outside"),
        ([0.0, 1.0], "dtype float64; expected 2 integers"),
        ([True, False], "dtype bool; expected 2 integers"),
        ([W0], r"shape \(1,\)"),
        ([W0] * 3, r"shape \(3,\)"),
        ([[W0, W0]], r"shape \(1, 2\)"),
        (W0, r"shape \(\)"),
        ([None, None], "dtype object"),
        ([W0, W1], "action 3 is forbidden by the task's mask"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(actions, message):
    def without_w1(input_ids, attention_mask):
        return np.tile(np.arange(16) != W1, (len(input_ids), 1))

    env = TokenVectorEnv(word_mdp(allowed=without_w1), 2)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert_same(env.observation(), before)
    env.step(batch(W0, W0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mask": np.array([1, 0])}, "reset_mask.*dtype int64"),
        ({"reset_mask": np.array([True])}, r"reset_mask.*shape \(1,\)"),
        ({"reset_mask": np.array([False, False])}, "reset_mask.*selects no row"),
        ({"prompt_index": batch(0, 3)}, r"prompt_index.*\[0 3\].*3 prompts"),
        ({"prompt_index": batch(0, -1)}, r"prompt_index.*3 prompts"),
        ({"prompt_index": batch(0)}, "prompt_index.*2 integers"),
        ({"prompt_index": np.array([0.0, 1.0])}, "prompt_index.*2 integers"),
        ({"prompt_index": 1}, "prompt_index.*2 integers"),
        ({"prompt_index": batch(0, 1), "episode": batch(0, -1)}, "episode.*from 0"),
        ({"episode": [True, False]}, "episode.*2 integers"),
        ({"prompts": batch(0, 1)}, r"\['prompts'\] are unknown; expected some of reset_mask, prompt_index, episode"),
    ],
)
def test_bad_reset_options_are_refused_and_change_nothing(options, message):
    env = TokenVectorEnv(word_mdp(), 2)
    env.reset(seed=1)
    before, *_ = env.step(batch(W0, W1))
    with pytest.raises(ValueError, match=message):
        env.reset(seed=2, options=options)
    assert_same(env.observation(), before)
    after, *_ = env.step(batch(EOS, EOS))
    again = TokenVectorEnv(word_mdp(), 2)
    again.reset(seed=1)
    again.step(batch(W0, W1))
    assert_same(again.step(batch(EOS, EOS))[0], after)
    assert_same(again.step(batch(0, 0)), env.step(batch(0, 0)))  # the generators did not move either


def test_bad_seeds_and_settings():
    env = TokenVectorEnv(word_mdp(), 2)
    with pytest.raises(ValueError, match="seed has 3 entries; expected one for each of the 2 rows"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="num_envs=0"):
        TokenVectorEnv(word_mdp(), 0)
    with pytest.raises(ValueError, match="sometimes"):
        TokenVectorEnv(word_mdp(), 2, "sometimes")
    with pytest.raises(ValueError, match="render_mode='gif'"):
        TokenVectorEnv(word_mdp(), 2, render_mode="gif")


def test_what_is_returned_is_the_callers_own():
    """Writing into it does not reach the environment."""
    env = TokenVectorEnv(word_mdp(allowed=not_the_last(16)), 2, "Disabled")
    observation, info = env.reset(seed=0)
    twin = TokenVectorEnv(word_mdp(allowed=not_the_last(16)), 2, "Disabled")
    twin.reset(seed=0)
    for array in (*observation.values(), info["action_mask"], info["active"], env.action_masks()):
        array[:] = 0
    assert_same(env.step(batch(W0, W0)), twin.step(batch(W0, W0)))


# --- rendering ---------------------------------------------------------------------------------------------------


def test_ansi_gives_a_text_for_each_row():
    env = TokenVectorEnv(word_mdp(), 3, "Disabled", render_mode="ansi")
    env.reset(options={"reset_mask": np.array([True, True, False]), "prompt_index": batch(0, 1, 0)})
    env.step(batch(W3, EOS, 0))
    texts = [re.sub(r"\x1b\[[\d;]*m", "", text) for text in env.render()]
    assert [text.splitlines()[0] for text in texts] == ["w0 w1 w3", "w2 <eos>", ""]  # the last waits for an episode
    assert ["finish running" in text for text in texts] == [True, False, True]


def test_human_prints_all_rows_at_every_reset_and_step(capsys):
    env = TokenVectorEnv(word_mdp(), 2, render_mode="human")
    env.reset(options={"prompt_index": batch(0, 1)})
    assert all(prompt in capsys.readouterr().out for prompt in ["w0 w1"])
    env.step(batch(W3, 11))
    printed = capsys.readouterr().out
    assert "w3" in printed
    assert "w9" in printed
    assert env.render() is None


def test_rgb_arrays_have_one_shape():
    env = TokenVectorEnv(word_mdp(), 2, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(batch(W0, EOS))
    after = env.render()
    shapes = {frame.shape for frame in (*before, *after)}
    assert len(before) == len(after) == 2
    assert len(shapes) == 1
    assert all(frame.dtype == np.uint8 for frame in after)
    assert (after[0] != after[1]).any()


def test_nothing_is_rendered_without_a_mode_or_before_reset():
    env = TokenVectorEnv(word_mdp(), 2)
    env.reset()
    assert env.render() is None
    with pytest.raises(gym.error.ResetNeeded):
        TokenVectorEnv(word_mdp(), 2, render_mode="rgb_array").render()
