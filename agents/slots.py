"""Where episodes come from: one small interface over the vector environments that agents meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.agents.bridge import SlotVecEnv, row_info
from textgym.types import BoolArray, FloatArray, IntArray
from textgym.vector import TokenVectorEnv
from textgym.wrappers import find_attribute

Observation = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class SlotStep:
    """What one step of all slots did.

    Attributes:
        observation: what to act upon next.
        rewards: ``[N]``.
        terminated: ``[N]``.
        truncated: ``[N]``.
        last: gives a finished row's final observation.
        info: gives a finished row's final info.
    """

    observation: Observation
    rewards: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    last: Callable[[int], Observation]
    info: Callable[[int], dict[str, Any]]


class Slots(Protocol):
    """N rows that play episodes.

    Attributes:
        n: ``N``.
        admits: whether rows wait to be given a prompt, instead of restarting by themselves.
    """

    n: int
    admits: bool

    def start(self) -> Observation | None:
        """Begins afresh; None where rows wait to be admitted."""

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        """Begins the given episodes in the given rows."""

    def step(self, actions: IntArray) -> SlotStep:
        """Appends a token in every row that plays."""

    def restarting(self) -> BoolArray:
        """``[N]``: rows whose next step only resets them."""

    def action_masks(self) -> BoolArray | None:
        """``[N, V]`` where the task restricts actions."""


def _row_of(observation: Observation, row: int) -> Observation:
    return {key: value[row] for key, value in observation.items()}


def _find_masks(env: Any) -> Callable[[], BoolArray | None]:
    """The environment's ``action_masks`` where its task restricts actions; else a function that gives None."""
    try:
        if find_attribute(env, "mdp").allowed is not None:
            masks: Callable[[], BoolArray] = find_attribute(env, "action_masks")
            return masks
    except AttributeError:
        pass  # not one of ours: it has no masks that we know of
    return lambda: None


class AdmittingSlots:
    """Our vector environment under DISABLED autoreset: a continuous-batching server of exactly the asked episodes."""

    admits = True

    def __init__(self, venv: VectorEnv[Any, Any, Any]) -> None:
        self.venv = venv
        self.n = venv.num_envs
        self.action_masks = _find_masks(venv)

    def start(self) -> None:
        return None

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        def spread(values: IntArray) -> IntArray:
            full = np.zeros(self.n, np.int64)
            full[rows] = values
            return full

        mask = np.isin(np.arange(self.n), rows)
        options = {"reset_mask": mask, "prompt_index": spread(prompt_index), "episode": spread(episode)}
        observation: Observation = self.venv.reset(options=options)[0]
        return observation

    def step(self, actions: IntArray) -> SlotStep:
        observation, rewards, terminated, truncated, infos = self.venv.step(actions)
        return SlotStep(
            observation,
            rewards,
            terminated,
            truncated,
            lambda row: _row_of(observation, row),
            lambda row: row_info(infos, row),
        )

    def restarting(self) -> BoolArray:
        return np.zeros(self.n, bool)


class AutoresetSlots:
    """Any Gymnasium vector environment that resets finished rows in the same or in the next step."""

    admits = False

    def __init__(self, venv: VectorEnv[Any, Any, Any], mode: AutoresetMode) -> None:
        self.venv = venv
        self.n = venv.num_envs
        self.next_step = mode is AutoresetMode.NEXT_STEP
        self.action_masks = _find_masks(venv)
        self._ended = np.zeros(self.n, bool)

    def start(self) -> Observation:
        self._ended[:] = False
        observation: Observation = self.venv.reset()[0]
        return observation

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        raise TypeError("rows of this environment restart by themselves")

    def step(self, actions: IntArray) -> SlotStep:
        observation, rewards, terminated, truncated, infos = self.venv.step(actions)
        self._ended = np.asarray(terminated | truncated)
        if self.next_step:
            return SlotStep(
                observation,
                rewards,
                terminated,
                truncated,
                lambda row: _row_of(observation, row),
                lambda row: row_info(infos, row),
            )
        return SlotStep(
            observation,
            rewards,
            terminated,
            truncated,
            lambda row: infos["final_obs"][row],
            lambda row: row_info(infos["final_info"], row),
        )

    def restarting(self) -> BoolArray:
        return self._ended if self.next_step else np.zeros(self.n, bool)


class VecEnvSlots:
    """A ``VecEnv`` of stable-baselines3, whose rows restart in the same step."""

    admits = False

    def __init__(self, venv: VecEnv) -> None:
        self.venv = venv
        self.n = venv.num_envs
        mdp = getattr(venv.get_attr("unwrapped", [0])[0], "mdp", None)
        self._restricted = getattr(mdp, "allowed", None) is not None

    def start(self) -> Observation:
        observation: Any = self.venv.reset()
        return dict(observation)

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        raise TypeError("rows of this environment restart by themselves")

    def step(self, actions: IntArray) -> SlotStep:
        observation, rewards, dones, infos = self.venv.step(actions)
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos]) & dones
        return SlotStep(
            dict(observation),  # type: ignore[arg-type]
            rewards,
            dones & ~truncated,
            truncated,
            lambda row: infos[row]["terminal_observation"],
            lambda row: infos[row],
        )

    def restarting(self) -> BoolArray:
        return np.zeros(self.n, bool)

    def action_masks(self) -> BoolArray | None:
        return np.stack(self.venv.env_method("action_masks")) if self._restricted else None


def make_slots(env: VecEnv) -> Slots:
    """The interface that fits the environment of an algorithm."""
    if not isinstance(env, SlotVecEnv):
        return VecEnvSlots(env)
    if env.mode is not AutoresetMode.DISABLED:
        return AutoresetSlots(env.venv, env.mode)
    if not isinstance(env.venv.unwrapped, TokenVectorEnv):
        return VecEnvSlots(env)  # the bridge restarts the rows
    return AdmittingSlots(env.venv)
