"""Algorithms that ask for several responses to each prompt, in environments that a user has wrapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, VecNormalize

from tests.helpers import emit, tiny_gpt2, word_mdp
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import EpisodePlan, collect
from textgym.agents.loop.slots import SB3VecEnv, make_slots
from textgym.agents.registry import ALGORITHMS
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.types import Episodes

PROMPTS = ["w0 w1", "w2", "w3 w4 w5", "w6 w7 w8 w9"]
N = 5


def allowed(input_ids: np.ndarray, _: np.ndarray) -> np.ndarray:
    """All but w0."""
    return np.tile(np.arange(16) != 2, (len(input_ids), 1))


def mdp(**settings: Any) -> TokenMDP:
    return word_mdp(prompts=PROMPTS, **settings)


class Doubled(gym.RewardWrapper[Any, Any]):
    def reward(self, reward: Any) -> float:
        return 2 * float(reward)


class DoubledRows(gym.vector.VectorRewardWrapper):
    def rewards(self, rewards: Any) -> Any:
        return 2 * rewards


def vector(mode: str, *layers: Callable[[Any], Any]) -> Callable[[TokenMDP], Any]:
    def make(task: TokenMDP) -> Any:
        env: Any = TokenVectorEnv(task, N, mode)
        for layer in layers:
            env = layer(env)
        return env

    return make


def synced(mode: str) -> Callable[[TokenMDP], Any]:
    return lambda task: SyncVectorEnv([lambda: Doubled(TokenEnv(task))] * N, autoreset_mode=AutoresetMode(mode))


def dummy(*layers: Callable[[Any], Any]) -> Callable[[TokenMDP], Any]:
    def make(task: TokenMDP) -> Any:
        env: Any = DummyVecEnv([lambda: Doubled(TokenEnv(task))] * N)
        for layer in layers:
            env = layer(env)
        return env

    return make


DOUBLED: dict[str, Callable[[TokenMDP], Any]] = {
    "single": lambda task: Doubled(TokenEnv(task)),
    "single, several": lambda task: Doubled(wrappers.RecordEpisodeStatistics(wrappers.OrderEnforcing(TokenEnv(task)))),
    "vector Disabled": vector("Disabled", DoubledRows),
    "vector NextStep": vector("NextStep", DoubledRows),
    "vector SameStep": vector("SameStep", DoubledRows),
    "statistics": vector("Disabled", DoubledRows, vector_wrappers.RecordEpisodeStatistics),
    "a list of infos": vector("Disabled", DoubledRows, vector_wrappers.DictInfoToList),
    "sync Disabled": synced("Disabled"),
    "sync NextStep": synced("NextStep"),
    "sync SameStep": synced("SameStep"),
    "DummyVecEnv": dummy(),
    "VecMonitor": dummy(VecMonitor, VecCheckNan),
    "VecMonitor of ours": vector("Disabled", DoubledRows, SB3VecEnv, VecMonitor),
    "VecMonitor of NextStep": vector("NextStep", DoubledRows, SB3VecEnv, VecMonitor),
}
"""Environments whose rewards are doubled on the way."""


def play(make: Callable[[TokenMDP], Any], task: TokenMDP, n: int = 12, group: int = 3) -> Episodes:
    env = SequenceAlgorithm._wrap_env(make(task))
    env.seed(3)
    slots = make_slots(env, assign=True)
    assert slots.admits
    plan = EpisodePlan(np.arange(n) // group % len(PROMPTS), 40 + np.arange(n))
    session = ALGORITHMS["grpo"]  # only its policy's session plays
    policy = session("LMPolicy", TokenVectorEnv(task, N, "Disabled"), model=tiny_gpt2(), **SMALL).policy
    episodes = collect(slots, policy.session(slots.n, seed=7), plan)
    assert episodes is not None
    return episodes


SMALL: dict[str, Any] = {"episodes_per_iteration": 12, "minibatch_size": 6, "seed": 0, "device": "cpu"}


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("name", DOUBLED)
def test_exactly_the_planned_episodes_are_played(name: str, restricted: bool) -> None:
    """The tokens are those of our own environment without wrappers, and the rewards twice as large."""
    settings = {"allowed": allowed} if restricted else {}
    bare, wrapped = play(vector("Disabled"), mdp(**settings)), play(DOUBLED[name], mdp(**settings))
    for field in ("input_ids", "attention_mask", "prompt_index", "episode", "stopped", "truncated"):
        assert (getattr(wrapped, field) == getattr(bare, field)).all(), field
    np.testing.assert_allclose(wrapped.log_probs, bare.log_probs, atol=1e-5)
    np.testing.assert_allclose(wrapped.rewards, 2 * bare.rewards, rtol=1e-6)
    assert bare.rewards.any()
    if restricted:
        assert not (wrapped.actions[wrapped.own] == 2).any()


@pytest.mark.parametrize("name", DOUBLED)
def test_a_group_algorithm_trains(name: str) -> None:
    algorithm = ALGORITHMS["rloo"]("LMPolicy", DOUBLED[name](mdp()), model=tiny_gpt2(), **SMALL, samples_per_prompt=3)
    algorithm.learn(60)
    assert algorithm.metrics["train/first_minibatch_ratio_error"] < 1e-4
    assert algorithm.num_timesteps >= 60


def test_a_greedy_companion_is_played_too() -> None:
    algorithm = ALGORITHMS["remax"]("LMPolicy", DOUBLED["DummyVecEnv"](mdp()), model=tiny_gpt2(), **SMALL)
    algorithm.learn(30)
    assert "rollout/greedy_score" in algorithm.metrics


def test_a_group_algorithm_learns_behind_a_wrapper() -> None:
    torch.manual_seed(0)
    env = DummyVecEnv([lambda: wrappers.TransformReward(TokenEnv(mdp(reward=emit(7))), lambda r: 3 * r)] * 8)
    settings = {**SMALL, "episodes_per_iteration": 32, "minibatch_size": 16, "beta": 0.0, "learning_rate": 3e-3}
    algorithm = ALGORITHMS["grpo"]("LMPolicy", VecNormalize(env, norm_obs=False), model=tiny_gpt2(), **settings)
    scores: list[float] = []
    algorithm.learn(2500, callback=lambda local, _: not scores.append(_returns(local)))  # type: ignore[func-returns-value]
    thirds = np.array_split([score for score in scores if score == score], 3)
    assert thirds[-1].mean() > 2 * thirds[0].mean()


def _returns(local: dict[str, Any]) -> float:
    """Return the mean score of the episodes that end in a step; nan where none does."""
    scores = [info["score"] for info in local["infos"] if "score" in info]
    return float(np.mean(scores)) if scores else float("nan")


def test_rows_that_nobody_asks_of_count_for_nothing() -> None:
    """Eleven rows, of which five play: callbacks see the ends of five episodes, and no other reward."""
    seen: list[tuple[int, float]] = []
    paid = mdp(end_token_ids=(), reward=lambda completions, **_: [1.0 for _ in completions])
    env = DummyVecEnv([lambda: TokenEnv(paid)] * 11)
    env.seed(0)
    policy = ALGORITHMS["grpo"](
        "LMPolicy", TokenVectorEnv(mdp(end_token_ids=()), 4, "Disabled"), model=tiny_gpt2(), **SMALL
    ).policy

    def on_step(step: Any, _: Any, playing: Any) -> bool:
        assert playing.sum() == 5
        seen.append((int((step.terminated | step.truncated).sum()), float(step.rewards[~playing].sum())))
        return True

    plan = EpisodePlan(np.zeros(5, np.int64), np.arange(5))
    episodes = collect(make_slots(env, assign=True), policy.session(11), plan, on_step)
    assert episodes is not None
    assert seen == [(0, 0.0)] * 5 + [(5, 0.0)]


# --- refused in words --------------------------------------------------------------------------------------------


class Deaf(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that keeps the options of reset() for itself."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.env.reset(seed=seed)


class DeafRows(gym.vector.VectorWrapper):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = {} if options is None else {"reset_mask": options["reset_mask"]}
        return self.env.reset(seed=seed, options=mask)


class Silent(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that shows no info."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.env.reset(seed=seed, options=options)[0], {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deaf(TokenEnv(mdp())),
        lambda: DummyVecEnv([lambda: Deaf(TokenEnv(mdp()))] * 3),
        lambda: DeafRows(TokenVectorEnv(mdp(), 3, "Disabled")),
        lambda: Silent(TokenEnv(mdp())),
    ],
)
def test_a_wrapper_that_drops_the_options_is_named(make: Callable[[], Any]) -> None:
    algorithm = ALGORITHMS["grpo"]("LMPolicy", make(), model=tiny_gpt2(), **SMALL)
    before = [parameter.clone() for parameter in algorithm.policy.parameters()]
    with pytest.raises(ValueError, match=r"asked for prompt \d and began prompt .*a wrapper does not pass the options"):
        algorithm.learn(100)
    assert all(torch.equal(*pair) for pair in zip(before, algorithm.policy.parameters(), strict=True))


class Foreign(gym.Env[Any, Any]):
    """A language environment that is none of ours."""

    def __init__(self) -> None:
        inner = TokenEnv(mdp())
        self.inner, self.prompt_length, self.end_token_ids = inner, inner.prompt_length, inner.end_token_ids
        self.observation_space, self.action_space = inner.observation_space, inner.action_space

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.inner.reset(seed=seed)

    def step(self, action: Any) -> Any:
        return self.inner.step(action)


@pytest.mark.parametrize("name", ["rloo", "remax", "a-star-po"])
def test_an_environment_that_is_none_of_ours_cannot_be_asked(name: str) -> None:
    refusal = "responses to each prompt.*, but the environment's rows choose their own prompts; pass a task's id, or an"
    with pytest.raises(ValueError, match=refusal):
        ALGORITHMS[name]("LMPolicy", Foreign(), model=tiny_gpt2(), **SMALL)
    algorithm = ALGORITHMS[name]("LMPolicy", TokenVectorEnv(mdp(), 1, "Disabled"), model=tiny_gpt2(), **SMALL)
    with pytest.raises(ValueError, match=refusal):
        algorithm.set_env(Foreign())
    algorithm.learn(20)  # in its own environment still
