"""Text in, text out: a wrapper for frameworks and people that act by whole turns."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from textgym.env.mdp import TokenMDP
from textgym.env.vector import Observation, find_attribute
from textgym.numbers import shown
from textgym.tokenization import encode_following, trained_end

LONGEST_SAMPLE = 256
"""Maximum length of sampled observations, in characters."""


class AnyText(spaces.Text):
    """Space of all texts. The limits of ``Text`` on lengths and characters hold for samples only."""

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class TurnText(AnyText):
    """Space of all texts, whose samples are random tokens of a task.

    Args:
        mdp: the task.
    """

    def __init__(self, mdp: TokenMDP) -> None:
        super().__init__(LONGEST_SAMPLE, min_length=0)
        self.mdp = mdp

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draw a text of up to ``max_turn_tokens`` or T tokens; masks are ignored."""
        longest = self.mdp.max_turn_tokens or self.mdp.max_new_tokens
        ids = self.np_random.integers(self.mdp.n_actions, size=self.np_random.integers(1, longest, endpoint=True))
        return str(self.mdp.tokenizer.decode(ids.tolist()))


class TextView(gym.Wrapper[str, str, Observation, np.int64], RecordConstructorArgs):
    """Wrapper in which an action is the text of a whole turn, and an observation is what the policy reads next.

    ``reset`` returns the prompt, ``step`` the world's reply; it is empty if the episode ends without one. A text is
    encoded once and played token by token; strings of special tokens become tokens, as the policy may choose any. If
    the text does not end the turn, a turn-end token follows, or an end token in tasks without a world. In a task that
    has no such token, a turn is as long as ``max_turn_tokens`` or T; a shorter text is continued by the next one.

    The reward is the sum over the tokens. ``info`` is that of the last token, with ``tokens``, the number of tokens
    played, and ``cut``, the number of tokens of the text that were not played since turn or episode ended before them.

    Args:
        env: a single environment of this package, whose actions are tokens.

    Raises:
        ValueError: its actions are others, such as candidates.
    """

    env: gym.Env[Any, Any]  # Gymnasium annotates it with the wrapper's own types

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        mdp: TokenMDP = find_attribute(env, "mdp")
        if env.action_space != mdp.action_space():
            raise ValueError(f"env has the actions {env.action_space}; expected those of tokens, {mdp.action_space()}")
        self._mdp = mdp
        ends = mdp.end_token_ids if mdp.world is None else mdp.turn_end_ids
        self._closing = [trained_end(mdp.tokenizer, ends)] if ends else []
        self.observation_space = AnyText(LONGEST_SAMPLE, min_length=0)
        self.action_space = TurnText(mdp)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return info["prompt"], info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play a turn.

        Raises:
            ValueError: the text has a token that is no action of the task or that its mask forbids; or no token at all,
                in a task where none can be added.
            TypeError: the action is no text.
        """
        text = self._encode(action)
        reward, played = 0.0, 0
        for token in [*text, *self._closing]:
            _, paid, terminated, truncated, info = self.env.step(np.int64(token))
            reward, played = reward + float(paid), played + 1
            if terminated or truncated or "reply" in info:
                break
        counts = {"tokens": played, "cut": max(len(text) - played, 0)}
        return info.get("reply", ""), reward, terminated, truncated, {**info, **counts}

    def _encode(self, action: str) -> list[int]:
        if not isinstance(action, str):
            raise TypeError(f"action is {shown(action)}; expected a text")
        ids = encode_following(self._mdp.tokenizer, [(action, "parse")])
        if outside := [i for i in ids if i >= self._mdp.n_actions]:
            token = self._mdp.tokenizer.convert_ids_to_tokens(outside[0])
            raise ValueError(f"action {shown(action)} has the token {token!r}, which is no action of this task")
        if not ids and not self._closing:
            raise ValueError(
                f"action {shown(action)} has no tokens, and this task has none that ends a turn; write a text"
            )
        return ids
