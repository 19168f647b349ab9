"""Wrappers: KL shaping inside the environment, for agents that do not shape the reward themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from transformers import PreTrainedModel

from textgym.lm.decoding import PrefixDecoder
from textgym.lm.sampling import Sampling, restrict
from textgym.types import BoolArray, FloatArray, IntArray

Observation = dict[str, NDArray[Any]]


class ActingPolicy(Protocol):
    """What the wrapper must know of a policy to pay its half of the KL."""

    lm: PreTrainedModel
    sampling: Sampling


def find_attribute(env: Any, name: str) -> Any:
    """An attribute of an environment or of what it wraps; of a synchronous vector's first row, if need be.

    Raises:
        AttributeError: none of them has it.
    """
    layer = env
    while layer is not None:
        if hasattr(layer, name):
            return getattr(layer, name)
        layer = getattr(layer, "env", None)
    inner = getattr(getattr(env, "unwrapped", env), "envs", None)
    if inner:
        return inner[0].get_wrapper_attr(name)
    raise AttributeError(f"{type(env).__name__} has no attribute {name!r}")


class _TokenLogProbs:
    """Follows a vector environment and gives log-probabilities of the tokens chosen in it."""

    def __init__(self, model: PreTrainedModel, env: Any, n_rows: int, sampling: Sampling) -> None:
        self.prompt_length = int(find_attribute(env, "prompt_length"))
        self.end_ids: Sequence[int] = find_attribute(env, "end_token_ids")
        space = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
        actions = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
        self.n_actions = int(actions.n)
        self.sampling = sampling.shared
        self.decoder = PrefixDecoder(model, n_rows, space["input_ids"].shape[0])

    @torch.inference_mode()
    def of(self, observation: Observation, actions: IntArray, rows: IntArray, masks: BoolArray | None) -> FloatArray:
        """``[n]`` log-probabilities of ``actions [N]`` in the given rows."""
        logits = self.decoder.logits(observation["input_ids"], observation["attention_mask"], rows)
        elapsed = torch.from_numpy(observation["attention_mask"][rows, self.prompt_length :].sum(1))
        allowed = None if masks is None else torch.from_numpy(masks[rows]).to(logits.device)
        behaviour = restrict(logits, self.sampling, self.n_actions, self.end_ids, elapsed.to(logits.device), allowed)
        chosen = torch.from_numpy(actions[rows]).to(logits.device)
        log_probs: FloatArray = behaviour.log_softmax(-1).gather(1, chosen[:, None])[:, 0].double().cpu().numpy()
        return log_probs


class _KLPenalty:
    """``β·log π_ref(a|s)`` for each chosen token; with the policy, the whole ``−β·(log π − log π_ref)``."""

    def __init__(
        self,
        env: Any,
        n_rows: int,
        reference: PreTrainedModel,
        beta: float,
        sampling: Sampling,
        policy: ActingPolicy | None,
    ) -> None:
        if beta < 0:
            raise ValueError(f"beta={beta}; expected 0 or more")
        if policy is not None and policy.sampling.shared != sampling.shared:
            raise ValueError(
                f"the wrapper samples with {sampling.shared}, the policy with {policy.sampling.shared}; "
                "temperature and minimum length must be the same for both"
            )
        self.beta = beta
        self.reference = _TokenLogProbs(reference.eval(), env, n_rows, sampling)
        self.policy = None if policy is None else _TokenLogProbs(policy.lm, env, n_rows, sampling)

    def __call__(
        self, observation: Observation, actions: IntArray, rows: IntArray, masks: BoolArray | None
    ) -> FloatArray:
        """``[N]`` what each row is paid; 0 for rows that do not play."""
        paid: FloatArray = np.zeros(len(actions))
        if len(rows) == 0:
            return paid
        paid[rows] = self.beta * self.reference.of(observation, actions, rows, masks)
        if self.policy is not None:
            paid[rows] -= self.beta * self.policy.of(observation, actions, rows, masks)
        return paid


def _restricted_masks(env: Any) -> BoolArray | None:
    """The task's action masks, where it restricts actions."""
    mdp = find_attribute(env, "mdp")
    masks: BoolArray | None = None if mdp.allowed is None else find_attribute(env, "action_masks")()
    return masks


class VectorReferenceKL(VectorWrapper[Observation, IntArray, NDArray[Any]]):
    """Pays the KL to a reference in every step of a vector environment.

    An environment cannot know π, so by default this pays only ``β·log π_ref(a|s)``: with the agent's own entropy
    bonus of weight β (which only approximates the other half) that is KL shaping for stock agents. Given
    ``policy``, it pays all of ``−β·(log π − log π_ref)``. Our own agents compute the penalty after the rollout and
    need no wrapper.

    Args:
        env: a vector environment of this package.
        reference: the model that the policy shall stay near.
        beta: β, 0 or more.
        sampling: the policy's; temperature and minimum length define both distributions.
        policy: an ``LMPolicy``, to pay the whole penalty.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        reference: PreTrainedModel,
        beta: float,
        sampling: Sampling | None = None,
        policy: ActingPolicy | None = None,
    ) -> None:
        super().__init__(env)
        self.kl_sampling = (sampling or Sampling()).shared
        self._penalty = _KLPenalty(env, env.num_envs, reference, beta, self.kl_sampling, policy)
        self._restarts = env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        self._observation: Observation = {}
        self._ended: BoolArray = np.zeros(env.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._ended[mask] = False
        return self._observation, info

    def step(self, actions: IntArray) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        rows = np.flatnonzero(~self._ended)
        paid = self._penalty(self._observation, np.asarray(actions), rows, _restricted_masks(self.env))
        idle = self._ended & (self.env.metadata["autoreset_mode"] is AutoresetMode.DISABLED)
        self._observation, rewards, terminated, truncated, info = self.env.step(actions)
        if not self._restarts:
            self._ended = idle | np.asarray(terminated | truncated)
        return self._observation, rewards + paid, terminated, truncated, {**info, "kl_reward": paid}


class ReferenceKL(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """:class:`VectorReferenceKL` for a single environment."""

    def __init__(
        self,
        env: gym.Env[Observation, np.int64],
        reference: PreTrainedModel,
        beta: float,
        sampling: Sampling | None = None,
        policy: ActingPolicy | None = None,
    ) -> None:
        super().__init__(env)
        self.kl_sampling = (sampling or Sampling()).shared
        self._penalty = _KLPenalty(env, 1, reference, beta, self.kl_sampling, policy)
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        masks = _restricted_masks(self.env)
        rows = {key: value[None] for key, value in self._observation.items()}
        own = None if masks is None else masks[None]
        paid = float(self._penalty(rows, np.asarray([action]), np.arange(1), own)[0])
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        return self._observation, float(reward) + paid, terminated, truncated, {**info, "kl_reward": paid}
