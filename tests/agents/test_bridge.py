"""Gymnasium's vector environments under stable-baselines3's contract."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents.loop.slots import SB3VecEnv
from textgym.agents.ppo import PPO
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv

MDP = word_mdp()
END, W5 = 1, 7


def limited(mdp: TokenMDP) -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(TokenEnv(mdp), 2)


def ours(mode: str) -> SB3VecEnv:
    return SB3VecEnv(TokenVectorEnv(MDP, 2, mode))


def gymnasiums(mode: str, make: Any = TokenEnv) -> SB3VecEnv:
    return SB3VecEnv(SyncVectorEnv([lambda: make(MDP)] * 2, autoreset_mode=AutoresetMode(mode)))


ENVIRONMENTS = {
    "ours, Disabled": lambda: ours("Disabled"),
    "ours, SameStep": lambda: ours("SameStep"),
    "sync, Disabled": lambda: gymnasiums("Disabled"),
    "sync, SameStep": lambda: gymnasiums("SameStep"),
    "ours, NextStep": lambda: ours("NextStep"),
    "sync, NextStep": lambda: gymnasiums("NextStep"),
}


@pytest.fixture(params=ENVIRONMENTS)
def env(request: pytest.FixtureRequest) -> SB3VecEnv:
    made = ENVIRONMENTS[request.param]()
    made.seed(3)
    return made


def test_a_finished_row_restarts_at_once(env):
    first = env.reset()
    prompts = [info["prompt_index"] for info in env.reset_infos]
    observation, rewards, dones, infos = env.step(np.array([W5, END]))
    assert (rewards.dtype, rewards.tolist(), dones.tolist()) == (np.float32, [0.0, 0.0], [False, True])
    assert "terminal_observation" not in infos[0]
    last = infos[1]["terminal_observation"]
    assert (last["input_ids"][:4] == first["input_ids"][1, :4]).all()
    assert last["input_ids"][4] == END
    assert infos[1]["finish_reason"] == "stop"
    assert infos[1]["TimeLimit.truncated"] is False
    assert observation["attention_mask"][:, 4:].sum(1).tolist() == [1, 0]
    new = env.reset_infos[1]
    shown = observation["input_ids"][1][observation["attention_mask"][1].astype(bool)]
    assert tuple(shown) == MDP.prompts[new["prompt_index"]].ids
    assert env.reset_infos[0]["prompt_index"] == prompts[0]


def test_rewards_and_infos_are_those_of_the_finished_episode(env):
    env.reset()
    env.step(np.array([W5, W5]))
    _, rewards, dones, infos = env.step(np.array([END, W5]))
    assert (rewards.tolist(), dones.tolist()) == ([0.5, 0.0], [True, False])
    assert infos[0]["score"] == 0.5
    assert infos[0]["components"] == {"reward": 0.5}
    assert "score" not in infos[1]


@pytest.mark.parametrize("mode", ["Disabled", "SameStep", "NextStep"])
def test_a_truncated_row_says_so(mode):
    env = gymnasiums(mode, limited)
    env.reset()
    env.step(np.array([W5, W5]))
    _, _, dones, infos = env.step(np.array([W5, END]))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]
    assert infos[0]["terminal_observation"]["input_ids"][4:6].tolist() == [W5, W5]


def test_equal_seeds_give_equal_episodes(env):
    first = env.reset()
    env.seed(3)
    again = env.reset()
    assert (first["input_ids"] == again["input_ids"]).all()
    for observation in (env.reset(), env.reset()):
        assert observation["attention_mask"][:, 4:].sum() == 0


class Foreign(TokenVectorEnv):
    """A vector environment of which nothing is known."""

    unwrapped = property(lambda _: gym.vector.VectorEnv())  # type: ignore[assignment]


def test_next_step_of_a_foreign_environment_is_refused():
    env = SB3VecEnv(Foreign(MDP, 2, "NextStep"))
    env.reset()
    with pytest.raises(ValueError, match="autoreset_mode='Disabled' or 'SameStep'"):
        env.step(np.array([2, 2]))


def test_methods_are_called_by_row(env):
    env.reset()
    masks = env.env_method("action_masks")
    assert [mask.shape for mask in masks] == [(16,), (16,)]
    assert len(env.env_method("action_masks", indices=[1])) == 1
    assert env.get_attr("prompt_length") == [4, 4]


def test_pictures_are_tiled():
    env = SB3VecEnv(TokenVectorEnv(MDP, 2, "Disabled", render_mode="rgb_array"))
    env.reset()
    single = env.get_images()[0]
    assert single is not None
    picture = env.render()
    assert picture.shape[0] * picture.shape[1] >= 2 * single.shape[0] * single.shape[1]
    env.close()


def test_evaluate_policy_plays_whole_episodes(env):
    algorithm = PPO("LMPolicy", ours("Disabled"), model=tiny_gpt2(), episodes_per_iteration=4, minibatch_size=2, seed=0)
    returns, lengths = evaluate_policy(
        algorithm, VecMonitor(env), n_eval_episodes=6, deterministic=False, return_episode_rewards=True
    )
    assert len(returns) == 6
    assert all(1 <= length <= 6 for length in lengths)
    assert all(0 <= score <= 1 for score in returns)
