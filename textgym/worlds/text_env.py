"""A text environment as the other side: Gymnasium environments of texts, and games of the ``textarena`` package.

A state is everything that happened in an episode, so that it can be pickled, forked and played again. The environment
itself accompanies the newest state of each episode, which needs no copy; from any other state the turns are played
again in a new environment. Measured with GuessTheNumber of TextArena: a reply takes 0.15 ms, most of it for seeding
generators, and 1.1 ms if five turns are played again before it. A deep copy for every reply would add 0.06 ms, but
fails for environments that hold a lock, a generator or a process.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from textgym.numbers import shown
from textgym.types import Completion, Prompt
from textgym.worlds.world import Reply, turn_generator

Opponent: TypeAlias = Callable[[str], str]
"""``opponent(text)``: the move of another player, who has read ``text`` so far. It may draw random numbers from
``random`` and ``numpy.random``, which are seeded for each turn."""

ENV_SEED = "env_seed"
"""Column of a prompt with the seed that its environment is reset with."""
_RESET = 2**63
"""Number that stands for a turn in the key of the random numbers of a reset."""
_MOVES = re.compile(r"\[[^\[\]]+\]")


def from_text_env(make: Callable[[], Any], *, opponent: Opponent | None = None, players: int = 1) -> TextEnvWorld:
    """Return a world that plays a text environment.

    A prompt shows the first observation of an environment that was reset with the seed in its column ``env_seed``; see
    :meth:`textgym.Task.from_text_env`. The policy's turns, without the white space around them, are its actions.

    Two protocols are known. Environments in Gymnasium's have ``reset(seed=…) -> (text, info)`` and ``step(text) ->
    (text, reward, terminated, truncated, info)``; GEM's are of this form, too. Games of TextArena have
    ``get_observation``. The policy is their player 0; it reads each message once, and is paid at the end.

    Environments may draw from the global generators of Python and NumPy. These are seeded for each reset from
    ``env_seed``, for each turn from the episode's seed and the number of the turn, and then restored. A generator of an
    environment's own depends on ``env_seed`` alone.

    Args:
        make: returns a new environment.
        opponent: plays all other players of a TextArena game.
        players: number of players of a TextArena game.

    Raises:
        ValueError: there are several players and no opponent, or the reverse.
    """
    return TextEnvWorld(make, opponent, players)


@dataclass(frozen=True)
class Played:
    """State of an episode: what happened so far.

    Attributes:
        env_seed: seed of the environment's reset.
        seed: ``episode_seed``.
        turns: each action with its reply.
        observation: the first observation.
        game: the environment that has played exactly these turns, until it plays on; otherwise empty.
    """

    env_seed: int
    seed: int
    turns: tuple[tuple[str, Reply], ...]
    observation: str = field(repr=False)
    game: list[Game] = field(default_factory=list, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy comes without the environment, which could otherwise play on in both of them.
        return Played, (self.env_seed, self.seed, self.turns, self.observation)


@dataclass(frozen=True)
class TextEnvWorld:
    """World of a text environment; see :func:`from_text_env`."""

    make: Callable[[], Any]
    opponent: Opponent | None = None
    players: int = 1

    role = "user"

    def __post_init__(self) -> None:
        if (self.players > 1) != (self.opponent is not None):
            raise ValueError(
                f"players={self.players} with opponent={shown(self.opponent)}; expected one player, or several and "
                "opponent=FUNCTION, which plays the others"
            )

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[Played]:
        return [self._begun(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def reply(self, states: list[Played], turns: list[Completion]) -> list[tuple[Played, Reply]]:
        return [self._answer(state, turn.text.strip()) for state, turn in zip(states, turns, strict=True)]

    def first_observation(self, env_seed: int) -> str:
        """Return the text that an environment shows first."""
        return self._start(env_seed)[1]

    def _begun(self, prompt: Prompt, seed: int) -> Played:
        env_seed = prompt.columns.get(ENV_SEED)
        if not isinstance(env_seed, int):
            raise ValueError(f"column {ENV_SEED!r} of the prompt is {shown(env_seed)}; expected the environment's seed")
        game, observation = self._start(env_seed)
        asked = prompt.content if isinstance(prompt.content, str) else prompt.content[-1]["content"]
        if observation != asked:
            raise ValueError(
                f"the environment begins with {observation!r:.200} after a reset with seed {env_seed}, the prompt is "
                f"{asked!r:.200}; expected an environment that begins equally whenever it is reset with one seed"
            )
        return Played(env_seed, seed, (), observation, [game])

    def _start(self, env_seed: int) -> tuple[Game, str]:
        with seeded_globals(env_seed, _RESET):
            env = self.make()
            # Games are recognised by a method, so that textarena need not be imported.
            if hasattr(env, "get_observation"):
                game: Game = _ArenaGame(env, self.players, self.opponent)
            else:
                game = _GymnasiumGame(env)
            return game, game.start(env_seed)

    def _answer(self, state: Played, action: str) -> tuple[Played, Reply]:
        # The list holds an environment or none; whoever pops it is the only one to play on with it.
        game = state.game.pop() if state.game else self._played_again(state)
        reply = _play(game, state.seed, len(state.turns), action)
        if reply.done:
            game.close()
        turns = (*state.turns, (action, reply))
        return replace(state, turns=turns, game=[] if reply.done else [game]), reply

    def _played_again(self, state: Played) -> Game:
        game, observation = self._start(state.env_seed)
        replies = [_play(game, state.seed, number, action) for number, (action, _) in enumerate(state.turns)]
        before = [reply for _, reply in state.turns]
        for now, then in zip([observation, *replies], [state.observation, *before], strict=True):
            if now != then:
                raise ValueError(
                    f"the environment answers {now!r:.200} where it answered {then!r:.200} before; expected one that "
                    "answers equally whenever seed and actions are equal"
                )
        return game


def _play(game: Game, seed: int, turn: int, action: str) -> Reply:
    with seeded_globals(seed, turn):
        return game.play(action)


@contextmanager
def seeded_globals(seed: int, turn: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy for one turn, and restore them afterwards."""
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    words = turn_generator(seed, turn).integers(2**32, size=4, dtype=np.uint32)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002


def random_move(text: str) -> str:
    """Play a random one of the moves that the last message with moves shows in brackets, as in ``Moves: [0], [4]``.

    Many games of TextArena list their moves so. Without any, the move is empty.
    """
    lines = [moves for line in text.splitlines() if (moves := _MOVES.findall(line))]
    return random.choice(lines[-1]) if lines else ""


# --- protocols -------------------------------------------------------------------------------------------------


class Game(Protocol):
    """One environment, whatever its protocol."""

    def start(self, seed: int) -> str:
        """Reset the environment, and return its first observation."""
        ...

    def play(self, action: str) -> Reply:
        """Do one step."""
        ...

    def close(self) -> None:
        """Release what the environment holds."""
        ...


@dataclass(frozen=True)
class _GymnasiumGame:
    env: Any

    def start(self, seed: int) -> str:
        observation, _ = self.env.reset(seed=seed)
        return _text(observation)

    def play(self, action: str) -> Reply:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return Reply(_text(observation), float(reward), bool(terminated or truncated))

    def close(self) -> None:
        self.env.close()


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(f"the environment shows {shown(observation)}; expected a text, as of gymnasium.spaces.Text")
    return observation


_POLICY = 0
"""Player whose turns are the policy's."""


class _ArenaGame:
    """Game of TextArena.

    Its wrappers change actions as usual. Their observations, which repeat the whole game in every turn, are not used:
    messages are read from the game itself, each once.
    """

    def __init__(self, env: Any, players: int, opponent: Opponent | None) -> None:
        self.env = env
        self.players = players
        self.opponent = opponent
        self.read: dict[int, list[str]] = {}  # messages that each of the other players has read

    @property
    def state(self) -> Any:
        return self.env.state  # wrappers pass it on

    def start(self, seed: int) -> str:
        self.env.reset(num_players=self.players, seed=seed)
        self._play_others(False)
        return "\n".join(self._messages(_POLICY))

    def play(self, action: str) -> Reply:
        done, _ = self.env.step(action)
        done = self._play_others(done)
        says = self._messages(_POLICY)
        if not done:
            return Reply("\n".join(says))
        rewards, infos = self.env.close()
        reason = infos[_POLICY].get("reason")
        return Reply("\n".join([*says, str(reason)] if reason else says), float(rewards[_POLICY]), True)

    def close(self) -> None:
        """Do nothing: the end of a game, which pays the rewards, is its ``close``."""

    def _play_others(self, done: bool) -> bool:
        while not done and (player := self.state.current_player_id) != _POLICY:
            assert self.opponent is not None, "several players come with an opponent"
            read = self.read.setdefault(player, [])
            read += self._messages(player)
            done, _ = self.env.step(self.opponent("\n".join(read)))
        return bool(done)

    def _messages(self, player: int) -> list[str]:
        """Take the new messages of a player, without those that it wrote itself."""
        new, self.state.observations[player] = self.state.observations[player], []
        names = self.state.role_mapping
        return [
            text if sender < 0 else f"{names.get(sender, f'Player {sender}')}: {text}"
            for sender, text, *_ in new
            if sender != player
        ]
