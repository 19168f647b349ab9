"""Wrappers: KL shaping inside the environment, for agents that do not shape the reward themselves."""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from transformers import PreTrainedModel

from textgym.env.mdp import TokenMDP
from textgym.env.vector import find_action_masks, find_attribute
from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour, ChosenCounter
from textgym.lm.files.loading import check_fits, frozen_dropout
from textgym.lm.sampling import Sampling
from textgym.types import BoolArray, FloatArray, IntArray

Observation = dict[str, NDArray[Any]]


class ActingPolicy(Protocol):
    """Properties of a policy that the wrapper needs to pay the policy's half of the KL."""

    @property
    def lm(self) -> PreTrainedModel:
        """The language model."""

    @property
    def sampling(self) -> Sampling:
        """Temperature, minimum length, top-k and top-p."""


class _TokenLogProbs:
    """Log-probabilities of chosen tokens in the rows of an environment."""

    def __init__(self, model: PreTrainedModel, mdp: TokenMDP, n_rows: int, sampling: Sampling) -> None:
        check_fits(model, mdp.tokenizer, mdp.n_actions, mdp.width, mdp.max_prompt_length)
        self.prompt_length = mdp.max_prompt_length
        self.behaviour = Behaviour(mdp.n_actions, mdp.end_token_ids, sampling)
        self.decoder = make_decoder(model, n_rows, mdp.width, mdp.max_prompt_length)
        self.chosen = ChosenCounter(n_rows)

    @torch.inference_mode()
    def of(self, observation: Observation, actions: IntArray, rows: IntArray, masks: BoolArray | None) -> FloatArray:
        """Return ``[n]`` log-probabilities of ``actions [N]`` in the given rows."""
        logits = self.decoder.logits(observation["input_ids"], observation["attention_mask"], rows)
        # The minimum length counts the chosen tokens only.
        length = observation["attention_mask"][rows, self.prompt_length :].sum(1)
        elapsed = torch.from_numpy(self.chosen.count(rows, length))
        behaviour = self.behaviour.logits(
            logits,
            elapsed.to(logits.device),
            None if masks is None else torch.from_numpy(masks[rows]).to(logits.device),
        )
        chosen = torch.from_numpy(actions[rows]).to(logits.device)
        log_probs: FloatArray = behaviour.log_softmax(-1).gather(1, chosen[:, None])[:, 0].double().cpu().numpy()
        if not np.isfinite(log_probs).all():
            row = rows[~np.isfinite(log_probs)][0]
            raise ValueError(
                f"the agent chose token {actions[row]} in row {row}, which {self.behaviour.sampling} excludes there; "
                "use the wrapper's sampling settings in the agent"
            )
        return log_probs


class _KLPenalty:
    """Penalty ``β·log π_ref(a|s)`` of each chosen token; with the policy, the whole ``−β·(log π − log π_ref)``."""

    def __init__(
        self,
        mdp: TokenMDP,
        n_rows: int,
        reference: PreTrainedModel,
        beta: float,
        sampling: Sampling,
        policy: ActingPolicy | None,
    ) -> None:
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta={beta}; expected a number from 0")
        if getattr(policy, "mask", None) is not None:
            raise ValueError("the policy samples under NLPO's mask, which the wrapper does not see; leave policy out")
        if policy is not None and policy.sampling.shared != sampling:
            raise ValueError(
                f"the wrapper samples with {sampling}, the policy with {policy.sampling.shared}; "
                "temperature and minimum length must be the same for both"
            )
        self.beta = beta
        self.reference = _TokenLogProbs(frozen_dropout(reference), mdp, n_rows, sampling)
        self.policy = None if policy is None else _TokenLogProbs(policy.lm, mdp, n_rows, policy.sampling)

    def __call__(
        self, observation: Observation, actions: IntArray, rows: IntArray, masks: BoolArray | None
    ) -> FloatArray:
        """Return ``[N]`` the payment of each row; 0 for rows that do not play."""
        paid: FloatArray = np.zeros(len(actions))
        if len(rows) == 0:
            return paid
        # β·log π_ref first; −β·log π follows below only if the policy is known.
        paid[rows] = self.beta * self.reference.of(observation, actions, rows, masks)
        if self.policy is not None:
            paid[rows] -= self.beta * self.policy.of(observation, actions, rows, masks)
        return paid


class VectorReferenceKL(VectorWrapper[Any, Any, Any]):
    """Wrapper that pays the KL to a reference in every step of a vector environment.

    An environment cannot know π, so by default this pays only ``β·log π_ref(a|s)``. With the agent's own entropy bonus
    of weight β (which only approximates the other half) that is KL shaping for stock agents. Given ``policy``, it pays
    all of ``−β·(log π − log π_ref)``. Our own agents compute the penalty after the rollout and need no wrapper.
    ``info["kl_reward"]`` holds the payment.

    Args:
        env: a vector environment of this package, or Gymnasium's ``SyncVectorEnv`` or ``AsyncVectorEnv`` of its single
            environments.
        reference: the model to which the policy is kept close.
        beta: β, 0 or more.
        sampling: the policy's sampling; temperature and minimum length define both distributions.
        policy: an ``LMPolicy``, to pay the whole penalty.

    Raises:
        ValueError: the reference does not fit the task, or temperature or minimum length differ from the policy's. In
            ``step``: temperature, minimum length or the task's mask exclude a chosen token.
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
        mdp: TokenMDP = find_attribute(env, "mdp")
        mdp.check_scores_alone(
            "behind a wrapper each is scored in the step that ends it",
            "leave VectorReferenceKL out: algorithms of textgym subtract the KL themselves, by beta",
        )
        self._penalty = _KLPenalty(mdp, env.num_envs, reference, beta, self.kl_sampling, policy)
        self._masks = find_action_masks(env)
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._observation: Observation = {}
        self._playing: BoolArray = np.zeros(env.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        chosen = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._playing[chosen] = True
        return self._observation, info

    def step(self, actions: IntArray) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        # The penalty belongs to the state before the step, so masks and observation are taken before it.
        before, playing, masks = self._observation, self._playing, self._masks()
        self._observation, rewards, terminated, truncated, info = self.env.step(actions)
        paid = self._penalty(before, np.asarray(actions), np.flatnonzero(playing), masks)
        done = np.asarray(terminated | truncated)
        if self._mode is AutoresetMode.NEXT_STEP:
            self._playing = ~done  # the next step of a finished row only resets it
        elif self._mode is AutoresetMode.DISABLED:
            self._playing = playing & ~done
        # Gymnasium's vector infos pair each key with a mask of the rows that have it.
        shown = {"kl_reward": paid, "_kl_reward": playing.copy()}
        return self._observation, rewards + paid, terminated, truncated, {**info, **shown}


class ReferenceKL(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """Wrapper :class:`VectorReferenceKL` for a single environment."""

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
        self._penalty = _KLPenalty(find_attribute(env, "mdp"), 1, reference, beta, self.kl_sampling, policy)
        self._masks = find_action_masks(env)
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        before, masks = self._observation, self._masks()
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        row = {key: value[None] for key, value in before.items()}
        own = None if masks is None else masks[None]
        paid = float(self._penalty(row, np.array([action]), np.arange(1), own)[0])
        return self._observation, float(reward) + paid, terminated, truncated, {**info, "kl_reward": paid}
