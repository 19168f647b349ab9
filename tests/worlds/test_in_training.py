"""Worlds that ship, where episodes are collected: in any number of rows, and in worker processes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv

from tests.agents.replay import session_for
from tests.helpers import tiny_gpt2, word_mdp, word_tokenizer
from textgym import worlds
from textgym.agents.loop.episodes import EpisodePlan, collect
from textgym.agents.loop.slots import SB3VecEnv, make_slots
from textgym.env import TokenEnv, TokenVectorEnv
from textgym.env.mdp import TokenMDP
from textgym.types import Episodes

WIDTH = 48


class Hidden(gym.Env[str, str]):
    """Say the hidden word; the other words of a turn are shown again, with a word from the environment's generator."""

    observation_space = action_space = spaces.Text(999)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.word = f"w{self.np_random.integers(14)}"
        return "w0 w1", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        said = action.split()
        shown = [*(word for word in said if word != self.word), f"w{self.np_random.integers(14)}"]
        return " ".join(shown), float(self.word in said), said[:1] == [self.word], False, {}


def spoken(n: int) -> TokenMDP:
    world = worlds.policy(tiny_gpt2(16, seed=2), tokenizer=word_tokenizer(), max_tokens=5)
    return turns(world, [f"w{i}" for i in range(n)])


def played(n: int) -> TokenMDP:
    world = worlds.from_text_env(lambda: Hidden())  # a lambda, which plain pickle refuses
    return turns(world, [{"prompt": "w0 w1", "env_seed": i} for i in range(n)])


def turns(world: Any, prompts: list[Any]) -> TokenMDP:
    glue = worlds.Glue("w12", "w13")
    settings = {"world": world, "turn_end_ids": (9,), "max_turn_tokens": 3, "glue": glue, "max_new_tokens": WIDTH}
    return word_mdp(prompts=prompts, **settings)


BOTH = pytest.mark.parametrize("make", [spoken, played])


def collected(mdp: TokenMDP, slots: int) -> Episodes:
    env = TokenVectorEnv(mdp, slots, "Disabled")
    env.reset(seed=0)
    plan = EpisodePlan(np.arange(8) % len(mdp.prompts), np.arange(8))
    session = session_for(tiny_gpt2(positions=WIDTH + 4, seed=1), mdp, slots)
    episodes = collect(make_slots(SB3VecEnv(env)), session, plan)
    assert episodes is not None
    return episodes


@BOTH
def test_episodes_do_not_depend_on_the_number_of_rows(make: Any) -> None:
    mdp = make(4)
    episodes = [collected(mdp, slots) for slots in (8, 1, 3)]
    for other in episodes[1:]:
        for name in ("input_ids", "own", "rewards"):
            np.testing.assert_array_equal(getattr(episodes[0], name), getattr(other, name))
    foreign = episodes[0].extents - episodes[0].lengths
    assert (foreign > 4).sum() > 2
    # The prompts repeat, the episodes do not.
    assert len({row.tobytes() for row in episodes[0].actions}) == 8


@BOTH
def test_a_world_reaches_worker_processes(make: Any) -> None:
    mdp = make(2)
    actions = np.full((12, 2), 5)
    venv = AsyncVectorEnv([lambda: TokenEnv(mdp)] * 2, context="spawn")
    here = [TokenEnv(mdp) for _ in range(2)]
    try:
        venv.reset(seed=0)
        for row, env in enumerate(here):
            env.reset(seed=row)
        for action in actions:
            observed = venv.step(action)[0]["input_ids"]
            own = [env.step(int(one))[0]["input_ids"] for env, one in zip(here, action, strict=True)]
            np.testing.assert_array_equal(observed, own)
    finally:
        venv.close()
