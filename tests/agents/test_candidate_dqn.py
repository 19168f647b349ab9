"""Choosing among candidates: stock DQN reaches the optimum that a table knows."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

import tests.dialogue_values as table
from textgym.agents.stock import CandidateDQNPolicy
from textgym.env import CandidateEnv

SETTINGS: dict[str, Any] = {
    "gamma": 1.0,
    "learning_rate": 1e-3,
    "learning_starts": 100,
    "buffer_size": 5_000,
    "train_freq": 1,
    "target_update_interval": 200,
    "exploration_fraction": 0.5,
    "seed": 0,
    "device": "cpu",
}


def chat(k: int = 2) -> CandidateEnv:
    return CandidateEnv(gym.make("textgym/Candidates-v0", menu=False), k, utterances=table.UTTERANCES)


def choices(dqn: DQN, env: CandidateEnv) -> dict[table.State, int]:
    """Return the action in each state, which random play visits."""
    env.action_space.seed(0)
    found = {}
    for seed in range(300):
        observation, info = env.reset(seed=seed)
        mood, left, terminated = table.COLD, 3, False
        while not terminated:
            offer = tuple(text.strip() for text in info["candidates"])
            found[mood, left, offer] = int(dqn.predict(observation, deterministic=True)[0])
            observation, _, terminated, _, info = env.step(env.action_space.sample())
            mood, left = int(info["reply"] == "nice"), left - 1
    # Nobody is warm before the first turn, but the table has this state, too.
    return {**{(table.WARM, 3, offer): 0 for offer in product(table.UTTERANCES, repeat=2)}, **found}


def test_dqn_reaches_the_optimum() -> None:
    env = chat()
    dqn = DQN(CandidateDQNPolicy, env, **SETTINGS)
    dqn.learn(600)
    reached = table.value(3, 2, table.played(choices(dqn, env)))
    assert reached == pytest.approx(table.value(3, 2, table.best))
    assert reached > table.value(3, 2, table.without_planning(3)) + 0.05


@pytest.mark.parametrize("k", [2, 3])
def test_permuting_candidates_permutes_their_values(k: int) -> None:
    env = chat(k)
    order = list(reversed(range(k)))
    observation, _ = env.reset(seed=1)
    parts = observation.reshape(k + 1, -1)
    given = torch.from_numpy(np.stack([parts, parts[[0, *(1 + i for i in order)]]]).reshape(2, -1))
    shared, stock = (DQN(policy, env, **SETTINGS).q_net(given) for policy in (CandidateDQNPolicy, "MlpPolicy"))
    assert shared.shape == (2, k)
    assert torch.allclose(shared[1], shared[0, order], atol=1e-6)
    assert not torch.allclose(shared[0, 0], shared[0, 1], atol=1e-4)
    assert not torch.allclose(stock[1], stock[0, order], atol=1e-4)  # it has to learn that


def test_a_saved_dqn_plays_on(tmp_path: Path) -> None:
    env = chat()
    dqn = DQN(CandidateDQNPolicy, env, policy_kwargs={"net_arch": [8]}, **{**SETTINGS, "learning_starts": 4})
    dqn.learn(12)
    dqn.save(tmp_path / "dqn.zip")
    again = DQN.load(tmp_path / "dqn.zip", env)
    given = torch.from_numpy(env.reset(seed=0)[0])[None]
    assert torch.equal(again.q_net(given), dqn.q_net(given))
    assert sum(parameter.numel() for parameter in again.q_net.parameters()) == (2 * 64 + 1) * 8 + 8 + 1


def test_stock_dqn_runs_on_the_numbers_themselves() -> None:
    dqn = DQN("MultiInputPolicy", "textgym/Candidates-v0", **{**SETTINGS, "learning_starts": 4})
    dqn.learn(12)
    assert dqn.action_space == gym.spaces.Discrete(2)
