"""A Gymnasium vector environment as stable-baselines3's ``VecEnv``, which it refuses by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.wrappers import find_attribute

InfoDict = dict[str, Any]


def row_info(infos: InfoDict, row: int) -> InfoDict:
    """One row's info, taken out of Gymnasium's batched infos (whose ``_key`` masks say which rows have a key)."""
    own: InfoDict = {}
    for key, value in infos.items():
        if key.startswith("_") or not infos.get(f"_{key}", np.zeros(row + 1, bool))[row]:
            continue
        own[key] = row_info(value, row) if isinstance(value, dict) else _plain(value[row])
    return own


def row_of(observation: dict[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    """One row's observation, which stays as it is when the batch's arrays are used again."""
    return {key: value[row].copy() for key, value in observation.items()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def call_rows(venv: VectorEnv[Any, Any, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    """A method's results: the vector environment's own, or those of every row's environment."""
    inner = venv.unwrapped
    if not hasattr(inner, method) and hasattr(inner, "call"):
        return inner.call(method, *args, **kwargs)
    return find_attribute(venv, method)(*args, **kwargs)


class SlotVecEnv(VecEnv):
    """Steps a Gymnasium vector environment under stable-baselines3's contract: finished rows restart at once.

    Works with autoreset modes DISABLED (this class then resets the finished rows) and SAME_STEP. NEXT_STEP puts a
    step that ignores its action between episodes, which stable-baselines3 would learn from: ``step`` refuses it.
    Our own algorithms collect from :attr:`venv` directly, in any mode.

    Args:
        venv: the vector environment.
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any]) -> None:
        self.venv = venv
        self.mode = AutoresetMode(venv.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._actions: NDArray[Any] = np.zeros(0)
        self._seed: int | None = None
        self.render_mode = venv.render_mode
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    def reset(self) -> Any:
        observation, infos = self.venv.reset(seed=self._seed, options=self._options[0] or None)
        self.reset_infos = [row_info(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._seed = None
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        if self.mode is AutoresetMode.NEXT_STEP:
            raise ValueError(
                "the vector environment resets in the step after the end, which stable-baselines3 cannot use; make "
                "it with autoreset_mode='Disabled' or 'SameStep'"
            )
        self._actions = actions

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[InfoDict]]:
        observation, rewards, terminated, truncated, infos = self.venv.step(self._actions)
        dones = np.asarray(terminated | truncated)
        rows = [row_info(infos, row) for row in range(self.num_envs)]
        for row in np.flatnonzero(dones).tolist():
            if self.mode is AutoresetMode.SAME_STEP:
                reset_info = {k: v for k, v in rows[row].items() if k not in ("final_obs", "final_info")}
                last, rows[row] = rows[row]["final_obs"], dict(rows[row]["final_info"])
            else:
                reset_info, last = {}, row_of(observation, row)
            self.reset_infos[row] = reset_info
            rows[row]["terminal_observation"] = last
            rows[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        if self.mode is AutoresetMode.DISABLED and dones.any():
            observation, infos = self.venv.reset(options={"reset_mask": dones})
            for row in np.flatnonzero(dones).tolist():
                self.reset_infos[row] = row_info(infos, row)
        return observation, rewards.astype(np.float32), dones, rows

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Rows are seeded ``seed + i`` at the next reset, as in Gymnasium."""
        self._seed = seed
        return [None if seed is None else seed + i for i in range(self.num_envs)]

    def close(self) -> None:
        self.venv.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        frames: Any = self.venv.render()
        return list(frames or [])

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        value = find_attribute(self.venv, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.venv.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        results = call_rows(self.venv, method_name, *args, **kwargs)
        by_row = isinstance(results, Sequence | np.ndarray) and len(results) == self.num_envs
        return [results[row] if by_row else results for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def is_vector(env: Any) -> bool:
    """Whether this is a Gymnasium vector environment."""
    return isinstance(env, VectorEnv)
