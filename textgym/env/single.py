"""Single environment: one row of the vector environment as Gymnasium's ``Env``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from textgym.env.mdp import TokenMDP
from textgym.env.vector import Observation, TokenVectorEnv, check_mapping, with_horizon
from textgym.types import BoolArray


class TokenEnv(gym.Env[Observation, np.int64]):
    """Language task in which each step chooses the next token. See :class:`textgym.env.vector.TokenVectorEnv`."""

    metadata: dict[str, Any] = TokenVectorEnv.metadata
    _spec: EnvSpec | None = None

    def __init__(self, mdp: TokenMDP, render_mode: str | None = None) -> None:
        mdp.check_scores_alone(
            "a single environment scores each by itself",
            "give the task's id, or gym.make_vec(ID, autoreset_mode='Disabled'), to an algorithm of textgym",
        )
        self._row = TokenVectorEnv(mdp, 1, AutoresetMode.DISABLED, render_mode)
        self.mdp = mdp
        self.render_mode = render_mode
        self.observation_space = mdp.observation_space()  # type: ignore[assignment]
        self.action_space = mdp.action_space()

    @property
    def spec(self) -> EnvSpec | None:
        """The spec that ``gym.make`` used; ``max_episode_steps`` is the horizon T, at which it terminates by itself."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = with_horizon(spec, self.mdp)

    @property
    def prompt_length(self) -> int:
        """Columns of the prompt, ``P``."""
        return self._row.prompt_length

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self._row.end_token_ids

    @property
    def episode_seed(self) -> int:
        """Seed of the episode, the source of its reward's and world's random numbers."""
        return int(self._row.episode_seed[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; ``options`` may hold one ``prompt_index`` and one ``episode``.

        Options that are not given are drawn from ``self.np_random``.
        """
        given = {} if options is None else options
        check_mapping(given)
        super().reset(seed=seed)
        # The row draws from this environment's own generator, which Gymnasium's reset has seeded.
        self._row.generators[0] = self.np_random
        self._row.base_seed = max(self.np_random_seed, 0)  # Gymnasium's -1 marks a generator that was set by hand
        infos = self._row.restart(None, {name: np.array([value]) for name, value in given.items()})
        return self._observation(), infos[0]

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token; see :meth:`textgym.env.vector.TokenVectorEnv.step` for the end of an episode."""
        if np.ndim(action) != 0:
            raise ValueError(f"action is {action!r}; expected one integer")
        rewards, terminated, infos = self._row.advance(np.asarray(action)[None])
        return self._observation(), float(rewards[0]), bool(terminated[0]), False, infos.get(0, {})

    def action_masks(self) -> BoolArray:
        """Return ``[V]``: True for tokens that the task admits in this state."""
        masks: BoolArray = self._row.action_masks()[0]
        return masks

    def render(self) -> Any:
        """Render the episode so far, according to ``render_mode``."""
        frames = self._row.render()
        return None if frames is None else frames[0]

    def _observation(self) -> Observation:
        return {key: value[0] for key, value in self._row.observation().items()}
