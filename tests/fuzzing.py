"""Plays random environments with random inputs, good and bad, and says what should not have happened.

A good input is answered by what Gymnasium promises. A bad one is refused by a documented error, and changes nothing.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

from textgym.tasks import DIAGNOSTIC, MINI

REFUSALS = (ValueError, gym.error.Error)
"""Errors that may answer a bad input; ``gym.error.ResetNeeded`` is among them."""

BAD_ACTIONS: list[Any] = [-1, 10**9, 2**64, 0.5, math.nan, True, None, "a", b"a", [0], [[0]], {}, object(), np.zeros(3)]
BAD_OPTIONS: list[Any] = [
    7,
    "reset_mask",
    ["episode"],
    {"nothing": 1},
    {5: 1},
    {"prompt_index": -1},
    {"prompt_index": 10**9},
    {"prompt_index": 0.5},
    {"prompt_index": math.nan},
    {"prompt_index": "first"},
    {"prompt_index": None},
    {"prompt_index": [[0], [0, 1]]},
    {"episode": -1},
    {"episode": 2**70},
    {"episode": True},
    {"episode": {}},
]
BAD_MASKS: list[Any] = [[], [1, 0], "all", np.ones(99, bool), [[True]], None]
BAD_SEEDS: list[Any] = [-1, 0.5, "seed", math.inf, object()]

SINGLE: list[Callable[[Any], Any]] = [
    lambda env: env,
    lambda env: wrappers.TimeLimit(env, 3),
    lambda env: wrappers.TransformReward(env, lambda reward: -reward),
    wrappers.RecordEpisodeStatistics,
    wrappers.Autoreset,
]
VECTOR: list[Callable[[Any], Any]] = [
    lambda env: env,
    lambda env: vector_wrappers.ClipReward(env, -0.5, 0.5),
    vector_wrappers.RecordEpisodeStatistics,
    vector_wrappers.DictInfoToList,
]


@dataclass
class Fuzz:
    """A run of the fuzzer; the counts say what it tried."""

    seed: int
    names: tuple[str, ...] = (*DIAGNOSTIC, *MINI)
    steps: int = 0
    did: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def run(self, steps: int) -> None:
        """Plays new environments until ``steps`` were taken, refused ones included."""
        while self.steps < steps:
            self.play(self.rng.integers(20, 120), vector=self.chance(0.5))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one_of(self, values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def play(self, operations: int, vector: bool) -> None:
        """Plays one environment."""
        id = f"textgym/{self.one_of(self.names)}-v0"
        render = self.one_of([None, None, None, "ansi", "rgb_array", "human"])
        with redirect_stdout(StringIO()):
            self.env = self.made_vector(id, render) if vector else self.made(id, render)
            self.core: Any = self.env.unwrapped
            self.begun = False
            self.refused(lambda: self.env.step(self.action()), "step before reset")
            self.reset()
            for _ in range(operations):
                self.operate(render)
            self.env.close()

    def made(self, id: str, render: str | None) -> Any:
        self.live = np.ones(1, bool)
        self.restarts = False
        env = self.one_of(SINGLE)(gym.make(id, render_mode=render))
        self.restarts = isinstance(env, wrappers.Autoreset)
        return env

    def made_vector(self, id: str, render: str | None) -> Any:
        n, mode = int(self.rng.integers(1, 5)), self.one_of(list(AutoresetMode))
        self.live = np.ones(n, bool)
        self.restarts = mode is not AutoresetMode.DISABLED
        kind = self.one_of(["vector_entry_point", "vector_entry_point", "sync"])
        if kind == "sync":
            env = gym.make_vec(
                id, n, vectorization_mode=kind, vector_kwargs={"autoreset_mode": mode}, render_mode=render
            )
        else:
            env = gym.make_vec(id, n, autoreset_mode=mode, render_mode=render)
        self.is_ours = kind != "sync"
        return self.one_of(VECTOR)(env)

    @property
    def is_vector(self) -> bool:
        return hasattr(self.env, "num_envs")

    def operate(self, render: str | None) -> None:
        """One random thing that users do."""
        draw = self.rng.random()
        if draw < 0.8:
            self.step()
        elif draw < 0.88:
            self.step_badly()
        elif draw < 0.92:
            self.reset()
        elif draw < 0.96:
            self.reset_badly()
        elif draw < 0.97 and render is not None:
            self.env.render()
            self.did["render"] += 1
        elif draw < 0.975 and (not self.is_vector or self.is_ours):
            twin = pickle.loads(pickle.dumps(self.core))
            assert self.same(self.seen(), self.seen(twin))
            self.did["pickle"] += 1

    # --- good inputs -----------------------------------------------------------------------------------------------

    def action(self) -> Any:
        if not self.is_vector:
            kind = self.one_of([int, np.int64, np.int32, np.asarray])
            return kind(self.rng.integers(int(self.env.action_space.n)))
        return self.rng.integers(int(self.env.single_action_space.n), size=self.env.num_envs)

    def step(self) -> None:
        if not (self.live.any() if self.is_vector and self.is_ours else self.live.all()) and not self.restarts:
            self.reset()
        observation, reward, terminated, truncated, info = self.env.step(self.action())
        self.steps += 1
        self.did["step"] += 1
        space = self.env.observation_space
        assert space.contains(observation), observation
        ended = np.atleast_1d(np.asarray(terminated) | np.asarray(truncated))
        assert np.isfinite(reward).all(), reward
        if not self.is_vector:
            assert isinstance(terminated, bool)
            assert isinstance(truncated, bool)
        assert ended.shape == self.live.shape
        assert not ended[~self.live].any() or self.restarts
        if not self.restarts:
            self.live &= ~ended
        self.did["end"] += int(ended.sum())
        assert isinstance(info, dict | list)

    def reset(self) -> None:
        seed = self.one_of([None, 0, int(self.rng.integers(2**31))])
        options: dict[str, Any] | None = self.one_of([None, {}, {"episode": 3}, {"prompt_index": 0}])
        n = self.env.num_envs if self.is_vector else 0
        if self.is_vector:
            if options and self.is_ours:
                options = {name: np.full(n, value) for name, value in options.items()}
            if self.begun and self.chance(0.5) and (not self.restarts or self.is_ours):
                mask = self.rng.random(n) < 0.5
                if mask.any() and (mask | self.live).all():  # Gymnasium's own want every ended row to be reset
                    options = {**(options or {}), "reset_mask": mask}
            if seed is not None and self.chance(0.3):
                seed = [None if self.chance(0.3) else seed + i for i in range(n)]
        mask = np.ones_like(self.live) if options is None else options.get("reset_mask", np.ones_like(self.live))
        observation, _ = self.env.reset(seed=seed, options=options)
        assert self.env.observation_space.contains(observation)
        self.live |= mask
        self.begun = True
        self.did["reset"] += 1

    # --- bad inputs ------------------------------------------------------------------------------------------------

    def step_badly(self) -> None:
        action = self.one_of(BAD_ACTIONS)
        if self.is_vector:
            if not self.is_ours or not self.live.any():
                return  # what Gymnasium's own does with it is its affair
            full: Any = [action] * self.env.num_envs
            one_row = isinstance(action, list) and self.env.num_envs == 1  # [0] is a good action then
            whole = full if one_row else self.one_of([action, full])
            if self.restarts and not self.core._live.all() and whole is full:
                return  # a row that is reset ignores its action
            action = whole
        elif self.restarts and not self.core._row._live.all():
            return
        self.refused(lambda: self.env.step(action), f"step({action!r})")
        self.steps += 1

    def reset_badly(self) -> None:
        n = self.env.num_envs if self.is_vector else 0
        if self.is_vector and not self.is_ours:
            return
        if self.chance(0.3):
            seed = self.one_of(BAD_SEEDS)
            self.refused(lambda: self.env.reset(seed=seed), f"reset(seed={seed!r})")
            return
        options = self.one_of(BAD_OPTIONS)
        if self.is_vector and isinstance(options, dict):
            if self.chance(0.3):
                options = {"reset_mask": self.one_of(BAD_MASKS[:-1])}
            elif self.chance(0.5):
                options = {name: [value] * n for name, value in options.items()}
        self.refused(lambda: self.env.reset(options=options), f"reset(options={options!r})")

    def refused(self, ask: Callable[[], Any], what: str) -> None:
        """Assert that an input is refused, in words, and that what is seen stays as it is."""
        before = self.seen()
        error = _raised(ask)
        assert error is not None, f"{what} was accepted by {self.env}"
        ours = isinstance(error, REFUSALS) and str(error)
        assert ours or (isinstance(error, AssertionError) and "gymnasium" in _file_of(error)), f"{what}: {error!r}"
        assert self.same(before, self.seen()), f"{what} was refused, and changed {self.env}"
        self.did["refusal"] += 1
        if isinstance(self.env, wrappers.Autoreset) and what.startswith("reset"):
            self.reset()  # it has forgotten that it was to reset by itself

    def seen(self, core: Any = None) -> list[Any]:
        """Return what an environment shows, without asking it for anything."""
        core = self.core if core is None else core
        rows = [core] if hasattr(core, "_ids") else [one.unwrapped._row for one in getattr(core, "envs", ())]
        rows = rows or [core._row]
        return [array.copy() for row in rows for array in (row._ids, row._mask, row._length, row._live)]

    @staticmethod
    def same(one: list[Any], other: list[Any]) -> bool:
        return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def _raised(ask: Callable[[], Any]) -> Exception | None:
    try:
        ask()
    except Exception as error:
        return error
    return None


def _file_of(error: BaseException) -> str:
    """Return the file that raised."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename
