"""Policies for stock algorithms: stable-baselines3's PPO, A2C and DQN, sb3-contrib's TRPO and MaskablePPO.

    PPO(TokenActorCriticPolicy, env, policy_kwargs={"model": directory}, gamma=1.0)

They play in any of our environments: an id, a ``TokenEnv``, or a ``TokenVectorEnv`` behind
:class:`textgym.agents.SB3VecEnv`. A stock algorithm asks for one state at a time. Acting is still cheap: each state
extends the row's previous one, so that the cache decodes one token. Training encodes the whole prefix of each
transition again, which our own algorithms avoid.

    DQN(CandidateDQNPolicy, textgym.env.CandidateEnv(env, k=4), gamma=1.0)

This policy chooses among whole utterances; see :class:`textgym.env.CandidateEnv`.

Saving is stable-baselines3's: the zip holds a pickle of ``policy_kwargs``. Open only files that you wrote, and name the
model by its directory or by a function rather than passing a loaded one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutput

from textgym.agents.loop.checks import check_spaces
from textgym.agents.policy.lm_policy import make_value
from textgym.lm.agreement import check_agreement
from textgym.lm.behaviour import Behaviour
from textgym.lm.decoding import PrefixDecoder
from textgym.lm.files.loading import (
    accepted,
    cache_argument,
    context_length,
    embedding_rows,
    frozen_dropout,
    in_full_precision,
    load_causal_lm,
    require_causal,
)
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk


class _StatesModel(nn.Module):
    """Trunk that returns its states in place of logits, so that one cached decoder serves both heads."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self._cache_name = str(cache_argument(trunk))
        self._optional = accepted(trunk, position_ids=True)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, position_ids: Tensor, cache: Cache, **inputs: Any) -> CausalLMOutput:
        further = {self._cache_name: cache, **dict.fromkeys(self._optional, position_ids)}
        return CausalLMOutput(logits=self.trunk(**inputs, **further).last_hidden_state)


class _TokenPolicy(BasePolicy):
    """Base class of both policies: a language model with a value function, under stable-baselines3's contract.

    Args:
        observation_space: ``input_ids`` and ``attention_mask``, ``[P+T]`` each.
        action_space: ``Discrete(V)``.
        lr_schedule: the learning rate as a function of the remaining progress; the optimiser starts with its value at
            1.
        model: a directory, a hub id, a function that builds a model, or a loaded one, which is then trained in place.
        value: ``"trunk"``, ``"separate"``, a reward model's directory, or a module
            as in ``textgym.agents.policy.lm_policy``.
        temperature: divides the logits, in acting and in training.
        attn_implementation: as in transformers; TRPO needs ``"eager"``, since it differentiates twice.
        stock: arguments that stable-baselines3 passes (``use_sde``, ``optimizer_class``, ``optimizer_kwargs``).

    Raises:
        ValueError: the spaces are not those of a language task, there is no model, or it is too small for them.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        model: str | Path | Callable[[], PreTrainedModel] | PreTrainedModel | None = None,
        value: str | Path | nn.Module = "trunk",
        temperature: float = 1.0,
        attn_implementation: str | None = None,
        **stock: Any,
    ) -> None:
        check_spaces(observation_space, action_space)
        if model is None:
            raise ValueError('model is None; pass policy_kwargs={"model": DIRECTORY_OR_ID}')
        # The constructor of the base class calls _build, which needs these.
        self.settings: dict[str, Any] = {
            "model": model,
            "value": value,
            "temperature": temperature,
            "attn_implementation": attn_implementation,
        }
        self.behaviour = Behaviour(int(action_space.n), sampling=Sampling(temperature))
        self.width = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        self._decoders: dict[str, PrefixDecoder] = {}
        make: Any = super().__init__
        make(observation_space, action_space, lr_schedule, **stock)

    def _build(self, lr_schedule: Schedule) -> None:
        model, value = self.settings["model"], self.settings["value"]
        given: Any = model
        lm = frozen_dropout(in_full_precision(given)) if isinstance(model, nn.Module) else load_causal_lm(given)
        self.lm = require_causal(lm, "stock algorithms, which read prompt and response as one")
        if self.settings["attn_implementation"] is not None:
            self.lm.set_attn_implementation(self.settings["attn_implementation"])
        _check_model(self.lm, self.behaviour.n_actions, self.observation_space["input_ids"])  # type: ignore[index]
        self.trunk = Trunk(self.lm)
        # A causal model computes the same wherever the prompt ends, so any split will do.
        self._decodes_columns = check_agreement(self.trunk, self.width, self.width // 2)
        critic = make_value(value, self.lm)
        if critic is None:
            raise ValueError("value=None; expected a value function, since every stock algorithm trains one")
        self.value = critic  # sb3-contrib's TRPO finds the critic's parameters by "value" in their names
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        make: Any = self.optimizer_class
        self.optimizer = make(trained, lr=lr_schedule(1), **self.optimizer_kwargs)

    # --- the interface of stable-baselines3 ----------------------------------------------------------------

    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions ``[n]``, values ``[n, 1]`` and log-probabilities ``[n]``; cached if gradients are disabled."""
        states = self._states(obs) if torch.is_grad_enabled() else self._cached_states(obs, "rollout")
        distribution = self._distribution(states, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self._values(states, obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor, action_masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return values ``[n, 1]``, log-probabilities ``[n]`` of the actions, and entropies ``[n]``."""
        states = self._states(obs)
        distribution = self._distribution(states, action_masks)
        return self._values(states, obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """Return the distribution of the next token, an object of stable-baselines3 or sb3-contrib."""
        return self._distribution(self._states(obs), action_masks)

    def predict_values(self, obs: Any) -> Tensor:
        """Compute the values ``[n, 1]`` of observations."""
        return self._values(self._states(obs), obs)

    def _predict(self, observation: Any, deterministic: bool = False, action_masks: Any = None) -> Tensor:
        distribution = self._distribution(self._cached_states(observation, "predict"), action_masks)
        actions: Tensor = distribution.get_actions(deterministic=deterministic)
        return actions

    def set_training_mode(self, mode: bool) -> None:
        """Keep eval mode whatever ``mode`` is: dropout would make sampled and trained policy differ."""
        self.train(False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self.settings,
        }

    # --- passes of the model -------------------------------------------------------------------------------

    def _states(self, obs: Any) -> Tensor:
        """Compute the trunk's states at the last tokens, ``[n, d]``, in one pass over the whole window."""
        return self.trunk.hidden_states(obs["input_ids"], obs["attention_mask"], self.width)[:, -1]

    def _cached_states(self, obs: Any, player: str) -> Tensor:
        """Compute the same with a cache: rows that grew by one token since the player's last call cost one token."""
        if not self._decodes_columns:
            return self._states(obs)
        ids, mask = (obs[name].cpu().numpy() for name in ("input_ids", "attention_mask"))
        decoder = self._decoders.get(player)
        if decoder is None or decoder.n_rows != len(ids):
            states_model: Any = _StatesModel(self.trunk.base)
            decoder = self._decoders[player] = PrefixDecoder(states_model, len(ids), self.width)
        return decoder.logits(ids, mask, np.arange(len(ids)))

    def _distribution(self, states: Tensor, action_masks: Any) -> Any:
        logits = self.behaviour.logits(self.trunk.head(states))
        blank: Any = self.action_dist
        distribution = blank.proba_distribution(action_logits=logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def _values(self, states: Tensor, obs: Any) -> Tensor:
        values: Tensor = self.value(states[:, None], obs["input_ids"], obs["attention_mask"], self.width)
        return values


class TokenActorCriticPolicy(_TokenPolicy, ActorCriticPolicy):
    """Policy for stock PPO, A2C and TRPO; ``policy_kwargs`` holds its arguments.

    Args:
        model: the model to train: a directory, a hub id, a function that builds a model, or a loaded one.
        value: ``"trunk"``, ``"separate"``, a reward model's directory, or a module.
        temperature: divides the logits.
        attn_implementation: as in transformers; ``"eager"`` for TRPO.
    """


class MaskableTokenActorCriticPolicy(_TokenPolicy, MaskableActorCriticPolicy):
    """Policy for MaskablePPO, which never chooses a forbidden token; otherwise as :class:`TokenActorCriticPolicy`."""


# --- choosing among candidates ---------------------------------------------------------------------------------


class _SharedQ(nn.Module):
    """Values of ``k`` candidates, each by the same network.

    Args:
        score: maps the state and one candidate ``[..., 2·d]`` to a value ``[..., 1]``.
        k: number of candidates.
    """

    def __init__(self, score: nn.Module, k: int) -> None:
        super().__init__()
        self.score = score
        self.k = k

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[n, k]`` values, given the state and all candidates ``[n, (k+1)·d]``."""
        parts = features.unflatten(1, (self.k + 1, -1))
        state, candidates = parts[:, :1], parts[:, 1:]
        values: Tensor = self.score(torch.cat([state.expand_as(candidates), candidates], -1))
        return values.squeeze(-1)


class CandidateDQNPolicy(DQNPolicy):
    """Policy for stock DQN in a :class:`textgym.env.CandidateEnv`: one network scores each candidate.

    So a candidate has the same value whatever its number is, which ``"MlpPolicy"`` has to learn for each number.
    ``policy_kwargs`` are those of stable-baselines3's ``DQNPolicy``.
    """

    def make_q_net(self) -> QNetwork:
        """Return a network of the same layers, which reads the state and one candidate at a time."""
        network, k = super().make_q_net(), int(self.action_space.n)  # type: ignore[attr-defined]
        layers = create_mlp(2 * network.features_dim // (k + 1), 1, network.net_arch, network.activation_fn)
        network.q_net = _SharedQ(nn.Sequential(*layers), k)  # type: ignore[assignment]
        return network.to(self.device)


def _check_model(model: PreTrainedModel, n_actions: int, input_ids: spaces.Box) -> None:
    """Check that a model fits the spaces.

    Raises:
        ValueError: it is not causal, has too few tokens, or too short a context.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} has an encoder; expected a causal language model")
    n_tokens, rows = int(input_ids.high.max()) + 1, embedding_rows(model)
    if rows < max(n_actions, n_tokens):
        raise ValueError(
            f"the model's vocabulary has {rows} tokens; the task has {n_actions} actions and shows {n_tokens} tokens. "
            "Use the task's own model, or resize_token_embeddings"
        )
    limit, width = context_length(model), input_ids.shape[0]
    if limit is not None and limit < width:
        raise ValueError(f"the model's context of {limit} tokens is shorter than P + T = {width}")
