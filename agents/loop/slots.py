"""Rows of any environment as slots that play episodes: ours, Gymnasium's and stable-baselines3's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EvalCallback, EventCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv, find_action_masks, find_attribute
from textgym.rewards.functions import Batch
from textgym.types import BoolArray, FloatArray, IntArray

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


class SB3VecEnv(VecEnv):
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


Observation = dict[str, NDArray[Any]]
MaskSource: TypeAlias = Callable[[], BoolArray | None]

MAX_SLOTS = 64
"""Rows that play at once, unless an environment with more is given."""


def admitting_env(mdp: TokenMDP, n_episodes: int) -> TokenVectorEnv:
    """Return an environment that plays exactly the episodes it is given, for batches of ``n_episodes``."""
    return TokenVectorEnv(mdp, min(MAX_SLOTS, n_episodes), AutoresetMode.DISABLED)


class Final(NamedTuple):
    """A finished row's last observation and info.

    ``unscored`` is what its reward is still to be asked: once :meth:`Slots.judge` has answered, ``info`` is complete.
    """

    observation: Observation
    info: dict[str, Any]
    unscored: Batch | None = None


@dataclass(frozen=True)
class SlotStep:
    """What one step of all slots did.

    Attributes:
        observation: what to act upon next.
        rewards: ``[N]``; 0 for rows that are yet to be scored.
        terminated: ``[N]``.
        truncated: ``[N]``; never together with ``terminated``, which leaves nothing to bootstrap from.
        finals: of each row that finished.
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
        """Append a token in every row that plays."""

    def judge(self, batch: Batch) -> list[dict[str, Any]]:
        """Scores responses that were put aside; returns what their infos say."""

    def restarting(self) -> BoolArray:
        """``[N]``: rows whose next step only resets them."""

    def action_masks(self) -> BoolArray | None:
        """``[N, V]`` where the task restricts actions."""


def _mask_source(venv: VectorEnv[Any, Any, Any]) -> MaskSource:
    try:
        return find_action_masks(venv)
    except AttributeError:
        return lambda: None  # not one of ours: it has no masks that we know of


class _ScoredInStep:
    """Slots whose environment scores a response in the step in which it ends."""

    def judge(self, batch: Batch) -> list[dict[str, Any]]:
        raise NotImplementedError("this environment puts nothing aside")


class AdmittingSlots:
    """Our vector environment under DISABLED autoreset: a continuous-batching server of exactly the asked episodes.

    Args:
        venv: the environment.
        score_together: put responses aside as they end, for :meth:`judge` to score in few large calls. Holds where
            nothing stands between that could need the reward in its step: no wrapper, no rendering.
    """

    admits = True

    def __init__(self, venv: VectorEnv[Any, Any, Any], score_together: bool = False) -> None:
        self.venv = venv
        self.n = venv.num_envs
        bare = venv is venv.unwrapped and type(venv).step is TokenVectorEnv.step and venv.render_mode is None
        self.puts_aside = score_together and bare
        self.action_masks = _mask_source(venv)
        self._playing = np.zeros(self.n, bool)

    def start(self) -> None:
        self._playing[:] = False
        core: Any = self.venv.unwrapped
        core.idle()  # what a reset of all rows began is nobody's episode

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
        self._playing |= mask
        return observation

    def step(self, actions: IntArray) -> SlotStep:
        if self.puts_aside:
            return self._step_unscored(actions)
        observation, rewards, terminated, truncated, infos = self.venv.step(actions)
        # A row that a wrapper cut short plays on inside: that is no one's episode.
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

    def judge(self, batch: Batch) -> list[dict[str, Any]]:
        core: Any = self.venv.unwrapped
        return [verdict.info for verdict in core.mdp.judge(batch)]

    def restarting(self) -> BoolArray:
        return np.zeros(self.n, bool)


class AutoresetSlots(_ScoredInStep):
    """Any Gymnasium vector environment that resets finished rows in the same or in the next step."""

    admits = False

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

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        raise NotImplementedError("rows of this environment restart by themselves")

    def step(self, actions: IntArray) -> SlotStep:
        observation, rewards, terminated, truncated, infos = self.venv.step(actions)
        self._ended = np.asarray(terminated | truncated)
        finals = {row: self._final(row, observation, infos) for row in np.flatnonzero(self._ended).tolist()}
        return SlotStep(observation, rewards, terminated, truncated & ~terminated, finals)

    def _final(self, row: int, observation: Observation, infos: dict[str, Any]) -> Final:
        if self.next_step:
            return Final(row_of(observation, row), row_info(infos, row))
        info = row_info(infos, row)
        return Final(info["final_obs"], info["final_info"])

    def restarting(self) -> BoolArray:
        return self._ended if self.next_step else np.zeros(self.n, bool)


class VecEnvSlots(_ScoredInStep):
    """A ``VecEnv`` of stable-baselines3, whose rows restart in the same step."""

    admits = False

    def __init__(self, venv: VecEnv) -> None:
        self.venv = venv
        self.n = venv.num_envs
        mdp = env_attribute(venv, "mdp", None)  # of ours
        self._restricted = mdp is not None and mdp.allowed is not None

    def start(self) -> Observation:
        observation: Any = self.venv.reset()
        return dict(observation)

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        raise NotImplementedError("rows of this environment restart by themselves")

    def step(self, actions: IntArray) -> SlotStep:
        observation: Any
        observation, rewards, dones, infos = self.venv.step(actions)
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos]) & dones
        finals = {row: Final(infos[row]["terminal_observation"], infos[row]) for row in np.flatnonzero(dones).tolist()}
        return SlotStep(dict(observation), rewards, dones & ~truncated, truncated, finals)

    def restarting(self) -> BoolArray:
        return np.zeros(self.n, bool)

    def action_masks(self) -> BoolArray | None:
        return np.stack(self.venv.env_method("action_masks")) if self._restricted else None


def check_begun(begun: Iterable[Any], asked: Iterable[Any]) -> None:
    """Refuses an environment that began other prompts than it was asked for.

    Raises:
        ValueError: it did.
    """
    for found, wanted in zip(begun, asked, strict=True):
        if found != wanted:
            raise ValueError(
                f"the environment was asked for prompt {wanted} and began prompt {found}: a wrapper does not hand the "
                "options of reset() on, or leaves prompt_index out of the info; call self.env.reset(seed=seed, "
                "options=options) in it"
            )


class AssigningSlots(VecEnvSlots):
    """A ``VecEnv`` over our environments, whose rows play exactly the asked episodes, also behind wrappers.

    A row that has begun anew by itself is reset once more, with the episode that is asked for among the options of
    ``reset``. Rows of which none is asked play on by themselves, and count for nothing.
    """

    admits = True

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._playing = np.zeros(self.n, bool)
        self._observation: Observation = {}

    def start(self) -> None:  # type: ignore[override]
        self._playing[:] = False
        self._observation = super().start()

    def admit(self, rows: IntArray, prompt_index: IntArray, episode: IntArray) -> Observation:
        shown = {key: value.copy() for key, value in self._observation.items()}
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
        assign: ask for exactly the episodes of a plan wherever the environment is one of ours, which group algorithms
            need; otherwise only where that costs nothing.
    """
    bridged = env if isinstance(env, SB3VecEnv) else None
    waits = bridged is not None and bridged.mode is AutoresetMode.DISABLED
    if bridged is not None and waits and isinstance(bridged.venv.unwrapped, TokenVectorEnv):
        return AdmittingSlots(bridged.venv, score_together)
    if assign and env_attribute(env, "mdp", None) is not None:
        return AssigningSlots(env)
    if bridged is not None and not waits:
        return AutoresetSlots(bridged.venv, bridged.mode)
    return VecEnvSlots(env)  # where rows wait, the bridge restarts them


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
            callback.eval_env = SB3VecEnv(given)
