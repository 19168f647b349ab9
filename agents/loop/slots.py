"""Slots: one interface to the rows of any vector environment, ours, Gymnasium's and stable-baselines3's.

The collection plays in :class:`Slots`. :class:`SB3VecEnv` adapts a vector environment of Gymnasium to
stable-baselines3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EvalCallback, EventCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.env.mdp import TokenMDP, Verdict
from textgym.env.vector import TokenVectorEnv, find_action_masks, find_attribute
from textgym.rewards.functions import Batch
from textgym.types import BoolArray, FloatArray, IntArray

InfoDict = dict[str, Any]
Observation = dict[str, NDArray[Any]]
MaskSource: TypeAlias = Callable[[], BoolArray | None]

MAX_SLOTS = 64
"""Number of rows that play at once in environments that this package makes."""


# --- rows of Gymnasium's vector environments -------------------------------------------------------------------


def is_vector(env: Any) -> bool:
    """Return True for a Gymnasium vector environment."""
    return isinstance(env, VectorEnv)


def row_info(infos: InfoDict | Sequence[InfoDict], row: int) -> InfoDict:
    """Return one row's info out of Gymnasium's batched infos, whose ``_key`` masks mark the rows that have a key.

    A list of infos, as the wrapper ``DictInfoToList`` returns, is indexed.
    """
    if not isinstance(infos, dict):
        return dict(infos[row])
    present = {key: infos.get(f"_{key}", np.zeros(row + 1, bool))[row] for key in infos if not key.startswith("_")}
    return {key: _of_row(infos[key], row) for key, has in present.items() if has}


def _of_row(value: Any, row: int) -> Any:
    """Return one row's part of a batched value; keys without a mask, as wrappers add them, count as present."""
    if not isinstance(value, dict):
        return _plain(value[row])
    keys = [key for key in value if not key.startswith("_") and value.get(f"_{key}", np.ones(row + 1, bool))[row]]
    return {key: _of_row(value[key], row) for key in keys}


def row_of(observation: dict[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    """Return a copy of one row's observation, as the environment may reuse the batch's arrays."""
    return {key: value[row].copy() for key, value in observation.items()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def call_rows(venv: VectorEnv[Any, Any, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of the vector environment, or of every row's environment if it has none of that name."""
    inner = venv.unwrapped
    if not hasattr(inner, method) and hasattr(inner, "call"):
        return inner.call(method, *args, **kwargs)
    return find_attribute(venv, method)(*args, **kwargs)


def resets_rows(venv: VectorEnv[Any, Any, Any]) -> bool:
    """Return True if ``reset`` restarts the rows of ``options["reset_mask"]`` at once, whatever the autoreset mode.

    Gymnasium requires it in mode DISABLED only. In the other modes our vector environment and Gymnasium's own do it
    too, except ``AsyncVectorEnv`` without shared memory, which restarts such rows a second time.
    """
    inner = venv.unwrapped
    return (
        venv.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
        or isinstance(inner, TokenVectorEnv | SyncVectorEnv)
        or (isinstance(inner, AsyncVectorEnv) and inner.shared_memory)
    )


# --- the adapter to stable-baselines3 --------------------------------------------------------------------------


class SB3VecEnv(VecEnv):
    """Adapter from a Gymnasium vector environment to stable-baselines3's ``VecEnv``.

    It makes the result of ``gym.make_vec`` usable for whatever takes a ``VecEnv``: stock algorithms,
    ``evaluate_policy``, ``EvalCallback``, ``VecMonitor``. A ``VecEnv`` restarts finished rows in the step in which they
    end. This class resets them, unless the environment's autoreset mode is SAME_STEP, in which the environment has done
    so. Mode NEXT_STEP works with environments of this package and of Gymnasium only: others restart in a step that
    ignores its action, from which stable-baselines3 would learn. Our own algorithms collect from ``venv`` directly, in
    any mode.

    Args:
        venv: the vector environment.
        steps: False for a collection that reads ``venv`` alone, and so may score responses after the steps that end
            them, as a reward needs that compares them.

    Raises:
        ValueError: ``steps`` is True, and the task's reward compares responses with each other.
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any], *, steps: bool = True) -> None:
        if steps and isinstance(venv.unwrapped, TokenVectorEnv):
            venv.unwrapped.mdp.check_scores_alone(
                "stable-baselines3 learns from the reward of each step",
                "give the vector environment itself, without SB3VecEnv, to an algorithm of textgym",
            )
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
        # stable-baselines3 expects the first observation of the new episode in the step that ended the old one.
        if self.mode is not AutoresetMode.SAME_STEP and dones.any():
            observation, infos = self.venv.reset(options={"reset_mask": dones})
            for row in np.flatnonzero(dones).tolist():
                self.reset_infos[row] = row_info(infos, row)
        return observation, rewards.astype(np.float32), dones, rows

    def reset_row(self, row: int, options: Mapping[str, Any]) -> tuple[Any, InfoDict]:
        """Restart one row, with options of one value each; return its observation and info."""
        mask = np.arange(self.num_envs) == row
        # Gymnasium's environments pass the same options to every row; ours read one value for each.
        one_each = isinstance(self.venv.unwrapped, TokenVectorEnv)
        given = {name: np.full(self.num_envs, value) if one_each else value for name, value in options.items()}
        observation, infos = self.venv.reset(options={"reset_mask": mask, **given})
        return row_of(observation, row), row_info(infos, row)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed row i with ``seed + i`` at the next reset, as in Gymnasium."""
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


# stable-baselines3 mistakes any object that is not a ``VecEnv`` for an environment of OpenAI's Gym. Registered as one,
# our vector environment is asked instead, and its error names this adapter.
VecEnv.register(TokenVectorEnv)


def env_attribute(env: VecEnv, name: str, *default: Any) -> Any:
    """Return an attribute of a language environment, behind its wrappers.

    Raises:
        ValueError: there is none, and no default; or its subprocess cannot send it.
    """
    if not env.has_attr(name):  # asked first, since get_attr of a missing one ends a subprocess of stable-baselines3
        if default:
            return default[0]
        raise ValueError(
            f"env has no attribute {name!r}; expected a language environment with prompt_length (P) and end_token_ids, "
            "such as textgym.env.TokenEnv"
        )
    try:
        return env.get_attr(name, [0])[0]
    except (EOFError, ConnectionError) as error:
        raise ValueError(
            f"env cannot send its attribute {name!r} from its subprocess: part of it cannot be pickled, such as an "
            "open connection held by a reward; open the connection inside the reward's call, or use DummyVecEnv"
        ) from error


# --- slots -----------------------------------------------------------------------------------------------------


def admitting_env(mdp: TokenMDP, n_episodes: int) -> TokenVectorEnv:
    """Return an environment whose rows wait to be given episodes, with rows for batches of ``n_episodes``."""
    return TokenVectorEnv(mdp, min(MAX_SLOTS, n_episodes), AutoresetMode.DISABLED)


class Final(NamedTuple):
    """A finished row's last observation and info.

    ``unscored`` is the response if it is still to be scored; :meth:`Slots.judge` returns its reward, and what completes
    ``info``.
    """

    observation: Observation
    info: dict[str, Any]
    unscored: Batch | None = None


@dataclass(frozen=True)
class SlotStep:
    """Result of one step of all slots.

    Attributes:
        observation: the observation to act upon next.
        rewards: ``[N]``; without the task's reward for rows that are still to be scored.
        terminated: ``[N]`` bool.
        truncated: ``[N]`` bool, never True where ``terminated`` is, as a terminal state has no value to bootstrap from.
        finals: last observation and info of each finished row.
    """

    observation: Observation
    rewards: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    finals: Mapping[int, Final]

    def info(self, row: int) -> dict[str, Any]:
        """Return a finished row's final info."""
        return self.finals[row].info


class Slots(Protocol):
    """Protocol of N rows that play episodes.

    Attributes:
        n: ``N``.
        admits: True if rows wait to be given an episode, instead of restarting by themselves.
        puts_aside: True if responses are scored by :meth:`judge` after the steps that end them.
        compares: True if the task's reward compares responses, and :meth:`judge` must get all of a collection.
    """

    n: int
    admits: bool
    puts_aside: bool
    compares: bool

    def start(self) -> Observation | None:
        """Begin a collection; return the first observation, or None if rows wait to be admitted."""

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        """Begin the given episodes in the given rows; return the observation of all rows."""

    def step(self, actions: IntArray) -> SlotStep:
        """Append the tokens ``actions [N]`` in all rows that play."""

    def judge(self, batch: Batch) -> list[Verdict]:
        """Score deferred responses."""

    def restarting(self) -> BoolArray:
        """Return ``[N]`` bool, True for rows that the next step merely resets."""

    def action_masks(self) -> BoolArray | None:
        """Return the allowed actions ``[N, V]``; None if the task restricts none."""


def _mask_source(venv: VectorEnv[Any, Any, Any]) -> MaskSource:
    try:
        return find_action_masks(venv)
    except AttributeError:
        return lambda: None  # a foreign environment, without action masks


class _RestartingSlots:
    """Slots whose rows restart by themselves, and whose responses are scored in the step in which they end."""

    admits = False
    puts_aside = False
    compares = False

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        raise NotImplementedError("rows of this environment restart by themselves")

    def judge(self, batch: Batch) -> list[Verdict]:
        raise NotImplementedError("this environment scores every response in its last step")


class AdmittingSlots:
    """Our vector environment under DISABLED autoreset: continuous batching of exactly the planned episodes.

    Args:
        venv: the environment.
        score_together: defer scoring to :meth:`judge`, in few large calls. It has no effect with wrappers or rendering,
            which may need the reward in its step.
    """

    admits = True

    def __init__(self, venv: VectorEnv[Any, Any, Any], score_together: bool = False) -> None:
        self.venv = venv
        self.n = venv.num_envs
        bare = venv is venv.unwrapped and type(venv).step is TokenVectorEnv.step and venv.render_mode is None
        self.puts_aside = score_together and bare
        mdp: TokenMDP = find_attribute(venv, "mdp")
        self.compares = mdp.rewards.compares is not None
        self.action_masks = _mask_source(venv)
        self._playing = np.zeros(self.n, bool)

    def start(self) -> None:
        self._playing[:] = False
        core: Any = self.venv.unwrapped
        core.idle()  # or the rows would continue the episodes of the last reset, which are not planned

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        def spread(values: IntArray) -> IntArray:
            full = np.zeros(self.n, np.int64)
            full[rows] = values
            return full

        mask = np.zeros(self.n, bool)
        mask[rows] = True
        options = {"reset_mask": mask, "prompt_index": spread(prompt_index), "episode": spread(episode)}
        observation: Observation = self.venv.reset(options=options)[0]
        core: Any = self.venv.unwrapped
        check_begun(core.prompt_index[rows], prompt_index)
        self._playing |= mask  # rows of earlier calls play on
        return observation

    def step(self, actions: IntArray) -> SlotStep:
        if self.puts_aside:
            return self._step_unscored(actions)
        observation, rewards, terminated, truncated, infos = self.venv.step(actions)
        # A row that a wrapper truncated plays on inside the environment: those tokens belong to no episode.
        terminated, truncated = terminated & self._playing, truncated & self._playing & ~terminated
        rewards = np.where(self._playing, rewards, 0.0)
        ended = terminated | truncated
        self._playing &= ~ended
        finals = {row: Final(row_of(observation, row), row_info(infos, row)) for row in np.flatnonzero(ended).tolist()}
        return SlotStep(observation, rewards, terminated, truncated, finals)

    def _step_unscored(self, actions: IntArray) -> SlotStep:
        core: Any = self.venv
        rewards, terminated, infos = core.advance(actions, score=False)
        observation: Observation = core.observation()
        finals = {
            row: Final(row_of(observation, row), info, info.pop("unscored", None))
            for row, info in infos.items()
            if terminated[row]
        }
        self._playing &= ~terminated
        return SlotStep(observation, rewards, terminated, np.zeros(self.n, bool), finals)

    def judge(self, batch: Batch) -> list[Verdict]:
        mdp: TokenMDP = find_attribute(self.venv, "mdp")
        return mdp.judge(batch)

    def restarting(self) -> BoolArray:
        return np.zeros(self.n, bool)


class AutoresetSlots(_RestartingSlots):
    """Any Gymnasium vector environment that resets finished rows by itself, in the same or in the next step."""

    def __init__(self, venv: VectorEnv[Any, Any, Any], mode: AutoresetMode) -> None:
        self.venv = venv
        self.n = venv.num_envs
        self.next_step = mode is AutoresetMode.NEXT_STEP
        self.action_masks = _mask_source(venv)
        self._ended = np.zeros(self.n, bool)

    def start(self) -> Observation:
        self._ended = np.zeros(self.n, bool)
        observation: Observation = self.venv.reset()[0]
        return observation

    def step(self, actions: IntArray) -> SlotStep:
        observation, rewards, terminated, truncated, infos = self.venv.step(actions)
        # In mode NEXT_STEP these rows ignore their next action and restart instead.
        self._ended = np.asarray(terminated | truncated)
        finals = {row: self._final(row, observation, infos) for row in np.flatnonzero(self._ended).tolist()}
        return SlotStep(observation, rewards, terminated, truncated & ~terminated, finals)

    def _final(self, row: int, observation: Observation, infos: dict[str, Any]) -> Final:
        # In mode NEXT_STEP the observation still is the episode's last one; in SAME_STEP it is the next one's first.
        if self.next_step:
            return Final(row_of(observation, row), row_info(infos, row))
        info = row_info(infos, row)
        return Final(info["final_obs"], info["final_info"])

    def restarting(self) -> BoolArray:
        return self._ended if self.next_step else np.zeros(self.n, bool)


class VecEnvSlots(_RestartingSlots):
    """A ``VecEnv`` of stable-baselines3, whose rows restart in the same step."""

    def __init__(self, venv: VecEnv) -> None:
        self.venv = venv
        self.n = venv.num_envs
        mdp = env_attribute(venv, "mdp", None)  # None for a foreign environment
        self._restricted = mdp is not None and mdp.allowed is not None

    def start(self) -> Observation:
        observation: Any = self.venv.reset()
        return dict(observation)

    def step(self, actions: IntArray) -> SlotStep:
        observation: Any
        observation, rewards, dones, infos = self.venv.step(actions)
        # stable-baselines3 has one ``dones``; this key of the info separates truncation from termination.
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos]) & dones
        finals = {row: Final(infos[row]["terminal_observation"], infos[row]) for row in np.flatnonzero(dones).tolist()}
        return SlotStep(dict(observation), rewards, dones & ~truncated, truncated, finals)

    def restarting(self) -> BoolArray:
        return np.zeros(self.n, bool)

    def action_masks(self) -> BoolArray | None:
        return np.stack(self.venv.env_method("action_masks")) if self._restricted else None


def check_begun(begun: Iterable[Any], asked: Iterable[Any]) -> None:
    """Check that an environment began the prompts that it was asked for.

    Raises:
        ValueError: it began another one.
    """
    for found, wanted in zip(begun, asked, strict=True):
        if found != wanted:
            raise ValueError(
                f"the environment was asked for prompt {wanted} and began prompt {found}: a wrapper does not pass the "
                "options of reset() on, or drops prompt_index from the info; call self.env.reset(seed=seed, "
                "options=options) in it"
            )


class AssigningSlots(VecEnvSlots):
    """A ``VecEnv`` over our environments, whose rows play exactly the planned episodes, also behind wrappers.

    A row that has restarted by itself is reset once more, with the planned episode among the options of ``reset``. Rows
    without a planned episode play on by themselves, and are ignored.
    """

    admits = True

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._playing = np.zeros(self.n, bool)
        self._observation: Observation = {}

    def start(self) -> None:  # type: ignore[override]
        self._playing[:] = False
        self._observation = super().start()  # admit() replaces its rows one by one

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        shown = {key: value.copy() for key, value in self._observation.items()}
        # One call per row: a VecEnv passes the same options to all rows of a call.
        for row, index, number in zip(rows.tolist(), prompt_index.tolist(), episode.tolist(), strict=True):
            options = {"prompt_index": index, "episode": number}
            observation, info = self.venv.env_method("reset", options=options, indices=[row])[0]
            check_begun([info.get("prompt_index")], [index])
            for key, value in observation.items():
                shown[key][row] = value
        self._playing[rows] = True
        self._observation = shown
        return shown

    def step(self, actions: IntArray) -> SlotStep:
        step = super().step(actions)
        self._observation = step.observation
        # Rows without a planned episode must neither pay nor finish.
        terminated, truncated = step.terminated & self._playing, step.truncated & self._playing
        rewards = np.where(self._playing, step.rewards, 0.0)
        finals = {row: final for row, final in step.finals.items() if self._playing[row]}
        self._playing &= ~(terminated | truncated)
        return SlotStep(step.observation, rewards, terminated, truncated, finals)


def make_slots(env: VecEnv, score_together: bool = False, assign: bool = False) -> Slots:
    """Return the interface that fits the environment of an algorithm.

    Args:
        env: the environment.
        score_together: as in :class:`AdmittingSlots`.
        assign: play exactly the planned episodes wherever the environment is one of ours, as algorithms with several
            responses to a prompt need; otherwise only where that costs no extra resets.
    """
    bridged = env if isinstance(env, SB3VecEnv) else None
    waits = bridged is not None and bridged.mode is AutoresetMode.DISABLED
    if bridged is not None and waits and isinstance(bridged.venv.unwrapped, TokenVectorEnv):
        return AdmittingSlots(bridged.venv, score_together)
    if assign and env_attribute(env, "mdp", None) is not None:
        return AssigningSlots(env)
    if bridged is not None and not waits:
        return AutoresetSlots(bridged.venv, bridged.mode)
    return VecEnvSlots(env)  # rows that wait are restarted by the adapter


# --- callbacks of stable-baselines3 ----------------------------------------------------------------------------


class FunctionCallback(ConvertCallback):
    """Callback that calls a function ``(locals, globals) -> bool`` in each step; False stops the training.

    Raises:
        TypeError: the function returned None, which would stop the training silently.
    """

    def _on_step(self) -> bool:
        proceed: Any = super()._on_step()
        if proceed is None:
            raise TypeError(
                "the callback function returned None; return True to continue training, or False to stop it"
            )
        return bool(proceed)


def as_callbacks(given: Any) -> list[BaseCallback]:
    """Return the ``callback`` argument of ``learn`` (None, a callback, a function, or a list of these) as callbacks."""
    each = given if isinstance(given, list) else [] if given is None else [given]
    return [one if isinstance(one, BaseCallback) else FunctionCallback(one) for one in each]


def bridge_evaluations(callback: Any) -> None:
    """Wrap vector environments of every ``EvalCallback``, at any depth, in :class:`SB3VecEnv`."""
    if isinstance(callback, CallbackList):
        for each in callback.callbacks:
            bridge_evaluations(each)
    if isinstance(callback, EventCallback):
        bridge_evaluations(callback.callback)
    if isinstance(callback, EvalCallback):
        bridge_evaluations(callback.callback_on_new_best)
        given: Any = callback.eval_env
        if is_vector(given):
            callback.eval_env = SB3VecEnv(given)
