"""A Gymnasium vector environment as stable-baselines3's ``VecEnv``, which it refuses by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EvalCallback, EventCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.vector import TokenVectorEnv
from textgym.wrappers import find_attribute

InfoDict = dict[str, Any]


def row_info(infos: InfoDict | Sequence[InfoDict], row: int) -> InfoDict:
    """One row's info, taken out of Gymnasium's batched infos (whose ``_key`` masks say which rows have a key).

    The wrapper ``DictInfoToList`` has taken it out already.
    """
    if not isinstance(infos, dict):
        return dict(infos[row])
    present = {key: infos.get(f"_{key}", np.zeros(row + 1, bool))[row] for key in infos if not key.startswith("_")}
    return {key: _of_row(infos[key], row) for key, has in present.items() if has}


def _of_row(value: Any, row: int) -> Any:
    """One row's part of a batched value; what wrappers put into a dict has no masks there, as all of it is present."""
    if not isinstance(value, dict):
        return _plain(value[row])
    keys = [key for key in value if not key.startswith("_") and value.get(f"_{key}", np.ones(row + 1, bool))[row]]
    return {key: _of_row(value[key], row) for key in keys}


def row_of(observation: dict[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    """One row's observation, which stays as it is when the batch's arrays are used again."""
    return {key: value[row].copy() for key, value in observation.items()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def call_rows(venv: VectorEnv[Any, Any, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    """Return a method's results: the vector environment's own, or those of every row's environment."""
    inner = venv.unwrapped
    if not hasattr(inner, method) and hasattr(inner, "call"):
        return inner.call(method, *args, **kwargs)
    return find_attribute(venv, method)(*args, **kwargs)


def resets_rows(venv: VectorEnv[Any, Any, Any]) -> bool:
    """Return True if ``reset`` restarts the rows of ``options["reset_mask"]`` at once, whatever the autoreset mode.

    Gymnasium asks this of mode DISABLED alone. In its other modes, our vector environment and its own do it too; its
    ``AsyncVectorEnv`` without shared memory restarts such rows a second time.
    """
    inner = venv.unwrapped
    return (
        venv.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
        or isinstance(inner, TokenVectorEnv | SyncVectorEnv)
        or (isinstance(inner, AsyncVectorEnv) and inner.shared_memory)
    )


class SlotVecEnv(VecEnv):
    """Steps a Gymnasium vector environment under stable-baselines3's contract: finished rows restart at once.

    It is the way from ``gym.make_vec`` to whatever takes a ``VecEnv``: stock algorithms, ``evaluate_policy``,
    ``EvalCallback``, ``VecMonitor``. Finished rows are reset by this class, unless the environment's autoreset mode is
    SAME_STEP, in which they have begun anew. In mode NEXT_STEP that needs an environment of this package or of
    Gymnasium: others begin anew in a step that ignores its action, from which stable-baselines3 would learn. Our own
    algorithms collect from :attr:`venv` directly, in any mode.

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
        if self.mode is AutoresetMode.NEXT_STEP and not resets_rows(self.venv):
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
        if self.mode is not AutoresetMode.SAME_STEP and dones.any():
            observation, infos = self.venv.reset(options={"reset_mask": dones})
            for row in np.flatnonzero(dones).tolist():
                self.reset_infos[row] = row_info(infos, row)
        return observation, rewards.astype(np.float32), dones, rows

    def reset_row(self, row: int, options: Mapping[str, Any]) -> tuple[Any, InfoDict]:
        """Restarts one row, with options that hold one value each: its observation and info."""
        mask = np.arange(self.num_envs) == row
        one_each = isinstance(self.venv.unwrapped, TokenVectorEnv)  # Gymnasium's hand the same options to every row
        given = {name: np.full(self.num_envs, value) if one_each else value for name, value in options.items()}
        observation, infos = self.venv.reset(options={"reset_mask": mask, **given})
        return row_of(observation, row), row_info(infos, row)

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
        if method_name == "reset":
            return [self.reset_row(row, kwargs.get("options") or {}) for row in self._get_indices(indices)]
        results = call_rows(self.venv, method_name, *args, **kwargs)
        by_row = isinstance(results, Sequence | np.ndarray) and len(results) == self.num_envs
        return [results[row] if by_row else results for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


# stable-baselines3 takes what is no ``VecEnv`` for an environment of OpenAI's Gym, and says so. It asks one of ours
# instead, which answers that it needs this bridge.
VecEnv.register(TokenVectorEnv)


class FunctionCallback(ConvertCallback):
    """A function ``(locals, globals) -> bool`` as a callback: False stops the training.

    Raises:
        TypeError: in a step in which the function returned None, which would stop the training without a word.
    """

    def _on_step(self) -> bool:
        goes_on: Any = super()._on_step()
        if goes_on is None:
            raise TypeError("the callback function returned None; return True to go on, or False to stop the training")
        return bool(goes_on)


def as_callbacks(given: Any) -> list[BaseCallback]:
    """Return objects for what ``learn`` was given as ``callback``: None, a callback, a function, or a list of these."""
    each = given if isinstance(given, list) else [] if given is None else [given]
    return [one if isinstance(one, BaseCallback) else FunctionCallback(one) for one in each]


def bridge_evaluations(callback: Any) -> None:
    """Put the bridge before vector environments that an ``EvalCallback``, at any depth, is to evaluate in."""
    if isinstance(callback, CallbackList):
        for each in callback.callbacks:
            bridge_evaluations(each)
    if isinstance(callback, EventCallback):
        bridge_evaluations(callback.callback)
    if isinstance(callback, EvalCallback):
        bridge_evaluations(callback.callback_on_new_best)
        given: Any = callback.eval_env
        if is_vector(given):
            callback.eval_env = SlotVecEnv(given)


def env_attribute(env: VecEnv, name: str, *default: Any) -> Any:
    """Return an attribute of a language environment, behind its wrappers.

    Raises:
        ValueError: there is none, and no default; or the process that has it cannot send it.
    """
    if not env.has_attr(name):  # asked first, since a process of stable-baselines3's ends where one is missing
        if default:
            return default[0]
        raise ValueError(
            f"env has no attribute {name!r}: language environments say prompt_length (P) and end_token_ids, as "
            "textgym.env.TokenEnv does"
        )
    try:
        return env.get_attr(name, [0])[0]
    except (EOFError, ConnectionError) as error:
        raise ValueError(
            f"env cannot send its attribute {name!r} from its process: something in it does not pickle, such as an "
            "open connection that a reward holds; open it where the reward is called, or use DummyVecEnv"
        ) from error


def is_vector(env: Any) -> bool:
    """Whether this is a Gymnasium vector environment."""
    return isinstance(env, VectorEnv)
