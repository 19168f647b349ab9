"""The single environment: one row of the vector environment behind Gymnasium's ``Env``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from textgym.mdp import TokenMDP
from textgym.types import BoolArray
from textgym.vector import Observation, TokenVectorEnv


class TokenEnv(gym.Env[Observation, np.int64]):
    """A language task: each step chooses the next token. See :class:`textgym.vector.TokenVectorEnv`."""

    metadata: dict[str, Any] = TokenVectorEnv.metadata  # noqa: RUF012

    def __init__(self, mdp: TokenMDP, render_mode: str | None = None) -> None:
        self._row = TokenVectorEnv(mdp, 1, AutoresetMode.DISABLED, render_mode)
        self.mdp = mdp
        self.render_mode = render_mode
        self.observation_space = mdp.observation_space()  # type: ignore[assignment]
        self.action_space = mdp.action_space()  # type: ignore[assignment]

    @property
    def prompt_length(self) -> int:
        """``P``."""
        return self._row.prompt_length

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self._row.end_token_ids

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode with a prompt drawn from ``self.np_random``, or with ``options["prompt_index"]``."""
        super().reset(seed=seed)
        self._row.generators[0] = self.np_random
        self._row.base_seed = self.np_random_seed
        options = {k: np.array([v]) for k, v in (options or {}).items() if k in ("prompt_index", "episode")}
        observation, info = self._row.reset(options=options)
        return _only_row(observation), _only_info(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Appends one token; see :meth:`textgym.vector.TokenVectorEnv.step` for what ends an episode and why."""
        observation, reward, terminated, truncated, info = self._row.step(np.asarray(action).reshape(1))
        return _only_row(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _only_info(info)

    def action_masks(self) -> BoolArray:
        """``[V]``: which tokens the task admits now."""
        masks: BoolArray = self._row.action_masks()[0]
        return masks

    def render(self) -> Any:
        """The episode so far, as ``render_mode`` says."""
        frames = self._row.render()
        return None if frames is None else frames[0]


def _only_row(observation: Observation) -> Observation:
    return {key: value[0] for key, value in observation.items()}


def _only_info(info: dict[str, Any]) -> dict[str, Any]:
    """Undoes Gymnasium's batching of infos for one row: plain values again, without the ``_key`` masks."""
    return {key: _only_value(value) for key, value in info.items() if not key.startswith("_") and key != "active"}


def _only_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _only_info(value)
    first = value[0]
    return first.item() if isinstance(first, np.generic) else first
