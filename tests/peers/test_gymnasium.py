"""Demands of Gymnasium's own tests on environments, vector environments and wrappers, made on ours.

Ideas of its ``tests/envs``, ``tests/vector`` and ``tests/wrappers``, in our words. What other files of ours ask already
(the checkers, autoreset modes, masks, bad actions and options, videos) is not asked again.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers

from tests.helpers import word_mdp
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.registration import load_task
from textgym.tasks import DIAGNOSTIC, LATER_VERSIONS, TASKS

IDS = [f"textgym/{name}-v0" for name in TASKS]
SMALL = "textgym/Needle-v0"  # six words, four steps
MODES = [mode.value for mode in AutoresetMode]


def play(env: gym.Env[Any, Any], actions: list[int], seed: int) -> list[Any]:
    """All that an environment says, from a seeded reset on; it is reset, unseeded, where an episode ends."""
    said: list[Any] = [env.reset(seed=seed)]
    for action in actions:
        said.append(env.step(action))
        if said[-1][2] or said[-1][3]:
            said.append(env.reset())
    return said


def play_rows(env: gym.vector.VectorEnv[Any, Any, Any], actions: list[Any], seed: int) -> list[Any]:
    """Return the same of a vector environment that restarts its rows."""
    return [env.reset(seed=seed), *(env.step(np.array(action)) for action in actions)]


def random_actions(n_actions: int, count: int) -> list[int]:
    return np.random.default_rng(0).integers(n_actions, size=count).tolist()


def equal(one: Any, other: Any) -> bool:
    return bool(data_equivalence(one, other, exact=True))


# --- every shipped environment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_equal_seeds_give_equal_rollouts(id: str) -> None:
    first, second = gym.make(id), gym.make(id)
    actions = random_actions(int(first.action_space.n), 50)  # type: ignore[attr-defined]
    said = play(first, actions, seed=3)
    assert equal(said, play(second, actions, seed=3))
    assert not equal(said, play(second, actions, seed=4)) or len(first.unwrapped.mdp.prompts) == 1  # type: ignore[attr-defined]
    assert all(first.observation_space.contains(each[0]) for each in said)


@pytest.mark.parametrize("id", IDS)
def test_an_environment_is_pickled_in_the_midst_of_an_episode(id: str) -> None:
    env = gym.make(id).unwrapped
    actions = random_actions(env.action_space.n, 40)  # type: ignore[attr-defined]
    play(env, actions[:7], seed=1)
    twin = pickle.loads(pickle.dumps(env))
    env.reset(), twin.reset()  # Length ends where it may; both begin the next episode that their generators draw
    assert equal([env.step(a) for a in actions[:1]], [twin.step(a) for a in actions[:1]])
    assert equal(play(env, actions, seed=2), play(twin, actions, seed=2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("id", [SMALL, "textgym/Length-v0", "textgym/Reviews-v0"])
def test_a_vector_environment_is_pickled_in_the_midst_of_its_episodes(id: str, mode: str) -> None:
    env = gym.make_vec(id, num_envs=3, autoreset_mode=mode)
    env.reset(seed=5)
    env.step(np.array([0, 1, 0]))
    twin = pickle.loads(pickle.dumps(env))
    assert twin.metadata["autoreset_mode"] is AutoresetMode(mode)
    for action in ([1, 0, 1], [0, 0, 1], [1, 1, 1]):
        if mode == "Disabled" and not env.unwrapped._live.any():  # type: ignore[attr-defined]
            break
        assert equal(env.step(np.array(action)), twin.step(np.array(action)))
    assert equal(env.reset(), twin.reset())


def test_functions_of_no_module_are_pickled_too() -> None:
    """As ``SubprocVecEnv`` and ``AsyncVectorEnv`` ask, which send environments to other processes and back."""
    mdp = word_mdp(
        lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids],
        stop=lambda ids: len(ids) == 3,
        allowed=lambda ids, _: np.tile(np.arange(16) != 5, (len(ids), 1)),
        base_model=lambda: None,
    )
    env = pickle.loads(pickle.dumps(TokenEnv(mdp)))
    env.reset(seed=0)
    assert not env.action_masks()[5]
    assert [env.step(2)[1:3] for _ in range(3)] == [(0.0, False), (0.0, False), (3.0, True)]
    assert equal(play(copy.deepcopy(env), [2] * 4, seed=1), play(env, [2] * 4, seed=1))


@pytest.mark.parametrize("id", IDS)
def test_every_render_mode_gives_what_it_says(id: str) -> None:
    for mode in ("rgb_array", "ansi"):
        env = gym.make(id, render_mode=mode)
        env.reset(seed=0)
        frames: list[Any] = [env.render()]
        env.step(0)
        frames.append(env.render())
        for frame in frames:
            if mode == "ansi":
                assert isinstance(frame, str)
                assert frame
            else:
                assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
    listed = gym.make(id, render_mode="rgb_array_list")
    listed.reset(seed=0)
    listed.step(0)
    assert [frame.ndim for frame in listed.render()] == [3, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize("id", IDS)
def test_one_row_is_the_single_environment(id: str) -> None:
    env, rows = gym.make(id), gym.make_vec(id, num_envs=1)
    assert (env.action_space, env.observation_space) == (rows.single_action_space, rows.single_observation_space)
    (observation, info), (many, infos) = env.reset(seed=9), rows.reset(seed=9)
    assert rows.observation_space.contains(many)
    for action in random_actions(int(env.action_space.n), 60):  # type: ignore[attr-defined]
        assert all((observation[key] == many[key][0]).all() for key in observation)
        assert info.get("prompt_index") == infos.get("prompt_index", [None])[0]
        observation, reward, terminated, truncated, info = env.step(action)
        many, rewards, ends, cuts, infos = rows.step(np.array([action]))
        assert (reward, terminated, truncated) == (rewards[0], ends[0], cuts[0])
        if terminated:
            assert info["score"] == infos["score"][0]
            observation, info = env.reset()
            many, rewards, ends, cuts, infos = rows.step(np.array([action]))  # this action is ignored
            assert not np.any([rewards, ends, cuts])


@pytest.mark.parametrize("id", IDS)
def test_what_gym_make_wraps_warns_of_nothing(id: str, recwarn: pytest.WarningsRecorder) -> None:
    env = gym.make(id)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    env.close()
    # Gymnasium says of every environment with a later version that it is out of date.
    later = id.removeprefix("textgym/").replace("-v0", "-v1") in LATER_VERSIONS
    assert not [one for one in recwarn if not (later and "is out of date" in str(one.message))]


# --- gym.make and specs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_the_spec_says_the_horizon(id: str) -> None:
    horizon = load_task(id).max_new_tokens
    for env in (gym.make(id), gym.make_vec(id, num_envs=2)):
        assert env.spec is not None
        assert env.spec.max_episode_steps == horizon
    assert gym.make(id, max_new_tokens=horizon + 3).spec.max_episode_steps == horizon + 3  # type: ignore[union-attr]


def never_ends(id: str = SMALL, **settings: Any) -> list[tuple[bool, bool]]:
    """Return the two flags of each step of an episode that only the horizon ends."""
    env = gym.make(id, **settings)
    env.reset(seed=0)
    flags: list[tuple[bool, bool]] = []
    while not flags or not any(flags[-1]):
        flags.append(env.step(0)[2:4])
    return flags


def test_the_horizon_terminates_where_its_spec_says() -> None:
    assert never_ends() == [(False, False)] * 3 + [(True, False)]
    assert never_ends(horizon=6) == [(False, False)] * 5 + [(True, False)]


def test_a_shorter_limit_of_ones_own_truncates() -> None:
    env = gym.make(SMALL, max_episode_steps=2)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 2
    assert never_ends(max_episode_steps=2) == [(False, False), (False, True)]
    assert never_ends(max_episode_steps=9) == never_ends()
    assert never_ends(max_episode_steps=-1) == never_ends()


def test_an_environment_is_made_again_from_its_spec() -> None:
    env = gym.make(SMALL, words=5, render_mode="ansi")
    wrapped = wrappers.TransformReward(wrappers.RecordEpisodeStatistics(env, buffer_length=7), float)
    for each in (env, wrapped.env):
        assert each.spec is not None
        twin = gym.make(EnvSpec.from_json(each.spec.to_json()))
        assert twin.spec == each.spec
        assert twin.unwrapped.spec == each.unwrapped.spec
        assert (twin.render_mode, twin.action_space) == ("ansi", gym.spaces.Discrete(5))
        # Gymnasium adds a TimeLimit, as the spec has a limit: it changes no reward, and no termination.
        runs = [play(one, [0, 1, 2, 3, 0, 1], seed=2) for one in (each, twin)]
        for one, other in zip(*runs, strict=True):
            assert equal(one[0], other[0])
            assert one[1:3] == other[1:3] if len(one) == 5 else equal(one[1], other[1])
    assert "max_episode_steps=4" in env.spec.pprint(disable_print=True)  # type: ignore[union-attr, operator]


def test_a_stack_of_wrappers_is_pickled() -> None:
    env = wrappers.NormalizeReward(wrappers.TimeLimit(gym.make("textgym/Length-v0"), 4), gamma=0.8)
    play(env, [0, 1], seed=1)
    twin = pickle.loads(pickle.dumps(env))
    assert equal(play(env, [0, 1, 1, 2, 0], seed=3), play(twin, [0, 1, 1, 2, 0], seed=3))


def test_gym_make_adds_its_wrappers_as_it_is_told() -> None:
    def stack(env: Any) -> list[str]:
        names = []
        while env is not env.unwrapped:
            names.append(type(env).__name__)
            env = env.env
        return names

    assert stack(gym.make(SMALL)) == ["OrderEnforcing", "PassiveEnvChecker"]
    assert stack(gym.make(SMALL, disable_env_checker=True)) == ["OrderEnforcing"]
    assert stack(gym.make(SMALL, render_mode="human")) == ["OrderEnforcing", "PassiveEnvChecker"]  # no other window
    with pytest.raises(gym.error.ResetNeeded):
        gym.make(SMALL).step(0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_envs": 3},
        {"num_envs": 2, "autoreset_mode": "SameStep", "render_mode": "rgb_array", "words": 5},
        {"num_envs": 2, "vectorization_mode": "sync"},
        {"num_envs": 2, "vectorization_mode": "sync", "vector_kwargs": {"copy": False}},
        {"vectorization_mode": "sync", "wrappers": (wrappers.RecordEpisodeStatistics,)},
    ],
)
def test_a_vector_environment_is_made_again_from_its_spec(settings: dict[str, Any]) -> None:
    env = gym.make_vec(SMALL, **settings)
    assert env.spec is not None
    twin = gym.make_vec(env.spec)
    assert twin.spec == env.spec
    assert (type(twin), twin.num_envs, twin.render_mode) == (type(env), env.num_envs, env.render_mode)
    assert (twin.observation_space, twin.action_space) == (env.observation_space, env.action_space)
    assert twin.metadata["autoreset_mode"] is env.metadata["autoreset_mode"]


def test_a_limit_below_the_horizon_is_refused_where_no_row_could_be_truncated() -> None:
    with pytest.raises(ValueError, match="max_episode_steps=2 is below the horizon of 4 tokens; pass max_new_tokens=2"):
        gym.make_vec(SMALL, max_episode_steps=2)
    limited = gym.make_vec(SMALL, vectorization_mode="sync", max_episode_steps=2)
    limited.reset(seed=0)
    assert [limited.step(np.array([0]))[3].tolist() for _ in range(2)] == [[False], [True]]


def test_make_vec_names_the_modes_there_are() -> None:
    with pytest.raises(ValueError, match="vector_entry_point"):
        gym.make_vec(SMALL, vectorization_mode="parallel")
    with pytest.raises(gym.error.Error, match="wrappers"):
        gym.make_vec(SMALL, wrappers=[wrappers.RecordEpisodeStatistics])


# --- vector environments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda mdp, n: TokenVectorEnv(mdp, n), lambda mdp, n: synced(mdp, n)])
def test_generators_are_seeded_row_by_row_and_stay_seeded(make: Callable[[TokenMDP, int], Any]) -> None:
    env = make(word_mdp(), 3)
    assert len(set(env.np_random_seed)) == 3
    env.reset(seed=42)
    assert env.np_random_seed == (42, 43, 44)
    env.reset()
    assert env.np_random_seed == (42, 43, 44)
    env.reset(seed=[7, None, 9])
    assert env.np_random_seed == (7, 43, 9)
    assert [type(generator) for generator in env.np_random] == [np.random.Generator] * 3


def synced(mdp: TokenMDP, n: int, **settings: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: TokenEnv(mdp) for _ in range(n)], **settings)


def test_rows_are_read_and_written_as_in_gymnasium() -> None:
    env = synced(word_mdp(), 2)
    assert env.get_attr("prompt_length") == (4, 4)
    assert [mask.shape for mask in env.call("action_masks")] == [(16,), (16,)]
    env.set_attr("note", ["a", "b"])
    assert env.get_attr("note") == ("a", "b")


def test_arrays_have_the_shapes_and_types_that_gymnasium_promises() -> None:
    env = gym.make_vec(SMALL, num_envs=8)
    observation, infos = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert infos["_prompt_index"].tolist() == [True] * 8
    env.action_space.seed(1)
    action = env.action_space.sample()
    assert [env.single_action_space.contains(one) for one in action] == [True] * 8
    observation, rewards, terminated, truncated, infos = env.step(action)
    assert env.observation_space.contains(observation)
    assert (rewards.shape, rewards.dtype) == ((8,), np.float64)
    assert [(flags.shape, flags.dtype) for flags in (terminated, truncated)] == [((8,), np.bool_)] * 2
    assert set(infos) == set()
    assert env.step(env.single_action_space.sample() * np.ones(8, int))[0]["input_ids"].shape == (8, 5)


def test_infos_of_rows_that_end_together() -> None:
    env = TokenVectorEnv(word_mdp(), 3, "SameStep")
    env.reset(seed=0)
    _, _, terminated, _, infos = env.step(np.array([1, 1, 4]))
    assert terminated.tolist() == infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, True, False]
    assert infos["final_info"]["finish_reason"][:2].tolist() == ["stop", "stop"]
    assert infos["final_obs"][2] is None
    assert all(env.single_observation_space.contains(infos["final_obs"][row]) for row in (0, 1))


# --- wrappers ----------------------------------------------------------------------------------------------------

WRAPPERS: dict[str, dict[str, Any]] = {
    "ClipReward": {"min_reward": -0.1, "max_reward": 0.4},
    "TransformReward": {"func": lambda reward: 3 * reward},
    "RecordEpisodeStatistics": {},
}


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_vector_is_a_vector_of_wrapped(name: str, mode: str) -> None:
    mdp, settings = word_mdp(), WRAPPERS[name]
    single, vector = getattr(wrappers, name), getattr(vector_wrappers, name)
    around: Any = vector(TokenVectorEnv(mdp, 3, mode), **settings)
    inside = SyncVectorEnv([lambda: single(TokenEnv(mdp), **settings)] * 3, autoreset_mode=AutoresetMode(mode))
    rng = np.random.default_rng(0)
    actions = [rng.integers(1, 10, 3).tolist() for _ in range(30)]
    for one, other in zip(play_rows(around, actions, 1), play_rows(inside, actions, 1), strict=True):
        assert all(np.array_equal(one[0][key], other[0][key]) for key in one[0])
        assert [np.asarray(part).tolist() for part in one[1:-1]] == [np.asarray(part).tolist() for part in other[1:-1]]
        for infos in (one[-1], other[-1]):
            # Gymnasium puts what a single wrapper says into the final info, and a vector wrapper's beside it.
            episode = infos.get("episode") or infos.get("final_info", {}).get("episode")
            infos["compared"] = None if episode is None else (episode["r"].tolist(), episode["l"].tolist())
        assert one[-1]["compared"] == other[-1]["compared"]


def test_a_wrapper_that_resets_by_itself() -> None:
    env = wrappers.Autoreset(TokenEnv(word_mdp()))
    env.reset(seed=0)
    assert env.step(1)[2]
    observation, reward, terminated, truncated, info = env.step(3)
    assert (reward, terminated, truncated, "prompt" in info) == (0.0, False, False, True)
    assert observation["attention_mask"][4:].sum() == 0


def test_infos_as_a_list_say_the_same() -> None:
    rows, listed = (wrap(TokenVectorEnv(word_mdp(), 2)) for wrap in (lambda env: env, vector_wrappers.DictInfoToList))
    for env in (rows, listed):
        env.reset(seed=0)
    batched, one_each = (env.step(np.array([1, 4]))[-1] for env in (rows, listed))
    assert one_each[0]["completion"] == batched["completion"][0]
    assert one_each[1] == {}


def test_observations_may_be_filtered_and_named_anew() -> None:
    env = wrappers.FilterObservation(TokenEnv(word_mdp()), ["input_ids"])
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert set(observation) == {"input_ids"}


@pytest.mark.parametrize("name", DIAGNOSTIC)
def test_normalised_rewards_stay_finite(name: str) -> None:
    env = vector_wrappers.NormalizeReward(gym.make_vec(f"textgym/{name}-v0", num_envs=4))
    rng = np.random.default_rng(0)
    actions = [rng.integers(2, size=4).tolist() for _ in range(20)]
    assert all(np.isfinite(said[1]).all() for said in play_rows(env, actions, 0)[1:])
