"""Text environments as tasks: the first observations of seeded environments are the prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from textgym.names import suggest
from textgym.numbers import count, random_seed
from textgym.rewards.builtin import no_reward
from textgym.rewards.specs.imports import import_named
from textgym.tasks.fields import as_prompt, prompt_fields
from textgym.tokenization import load_tokenizer
from textgym.worlds.glue import Glue
from textgym.worlds.text_env import ENV_SEED, Opponent, TextEnvWorld, from_text_env, random_move

LINES = Glue("\n", "\n")
"""What stands around an observation without a chat template."""


def text_env_fields(
    world: TextEnvWorld,
    size: int,
    seed: int,
    model: str | Path,
    source: str,
    max_prompt_length: int | None,
) -> dict[str, Any]:
    """Return the fields of a task that an environment determines; see :meth:`textgym.Task.from_text_env`."""
    count("size", size)
    random_seed("seed", seed)
    tokenizer = load_tokenizer(model)
    env_seeds = [int(i) for i in np.random.default_rng(seed).choice(2**31, size, replace=False)]
    rows = {
        f"{source}, seed {env_seed}": {
            "prompt": as_prompt(tokenizer, world.first_observation(env_seed)),
            ENV_SEED: env_seed,
        }
        for env_seed in env_seeds
    }
    # Environments with a hidden state, such as a number to guess, all begin with the same text.
    fields = prompt_fields(rows, model, source, (), seed, max_prompt_length, repeats=True)
    # No token ends the episode: a policy could otherwise leave a game that it is losing.
    turns = {"turn_end_ids": fields["end_token_ids"], "end_token_ids": ()}
    glue = None if tokenizer.chat_template else LINES
    return {**fields, **turns, "glue": glue, "world": world, "gold": no_reward}


@dataclass(frozen=True)
class ArenaGame:
    """Maker of a game of TextArena, which can be pickled."""

    game: str

    def __call__(self) -> Any:
        """Return a new game."""
        return import_module("textarena").make(self.game)


def arena_world(game: str, players: int, opponent: str | Opponent | None) -> TextEnvWorld:
    """Return the world of a game of TextArena.

    Args:
        game: id of the game.
        players: number of players.
        opponent: plays the others: a function, or its name, ``module:function``; by default random moves.

    Raises:
        ImportError: textarena is not installed.
        ValueError: there is no such game, it has another number of players, or the opponent cannot be imported.
    """
    try:
        known = import_module("textarena.envs.registration").ENV_REGISTRY
    except ImportError as error:
        raise ImportError("games of TextArena need its package: install textgym[textarena]") from error
    if game not in known:
        hint = suggest(game, known, before="; ")
        raise ValueError(f"game={game!r} is no game of textarena, which has {len(known)}{hint}")
    plays: Callable[[str], str] | None = random_move if players > 1 and opponent is None else _imported(opponent)
    world = from_text_env(ArenaGame(game), opponent=plays, players=players)
    try:
        world.first_observation(0)
    except AssertionError as error:  # the game's own check
        raise ValueError(f"players={players}: {game} refuses it: {error}") from error
    return world


def _imported(opponent: str | Opponent | None) -> Opponent | None:
    if not isinstance(opponent, str):
        return opponent
    try:
        found: Opponent = import_named("opponent", opponent)
    except (ImportError, AttributeError) as error:
        raise ValueError(str(error)) from error
    return found
