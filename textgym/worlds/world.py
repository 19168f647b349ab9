"""The other side of an episode: a world replies to the policy's turns.

A turn is a run of the policy's own tokens. A world is functional: its states are values that never change, and it keeps
nothing elsewhere. So an episode can be forked, killed, resumed and enumerated.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

import numpy as np

from textgym.numbers import plain, shown
from textgym.types import Completion, Prompt

State: TypeAlias = Any
"""State of one episode in a world: a value that is never changed, only replaced."""

Outcome: TypeAlias = "tuple[float, State, Reply]"
"""One possible answer to a turn: its probability, the state after it, and the reply."""

ROUNDING = 1e-6
"""Allowed difference of a sum of probabilities from 1."""
_SHOWN = 300  # characters of a state or turn in a message


class Reply(NamedTuple):
    """Answer of a world to one turn.

    Attributes:
        says: the text of the reply; or its token ids, which are appended as they are.
        reward: reward of the turn; the environment pays it on the turn's last token.
        done: True if the episode ends here. The policy then does not read the reply, but the conversation has it.
    """

    says: str | tuple[int, ...]
    reward: float = 0.0
    done: bool = False


class World(Protocol):
    """The other side of an episode, called with a batch of rows like a reward.

    An optional attribute ``role`` names the world's role in a conversation: ``"user"`` unless given, ``"tool"`` for
    tools. Random numbers come from :func:`turn_generator` of the seed that ``begin`` receives, and from nowhere else.
    """

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[State]:
        """Return the first state of each of ``n`` episodes, given its prompt and its ``episode_seed``."""
        ...

    def reply(self, states: list[State], turns: list[Completion]) -> list[tuple[State, Reply]]:
        """Answer ``n`` turns; return the state after each, and the reply.

        A turn's ``text`` has no turn-end token, its ``ids`` have it. ``finish_reason`` is ``"length"`` for a turn that
        ``max_turn_tokens`` ended.
        """
        ...


def role_of(world: World) -> str:
    """Return a world's role in a conversation."""
    return str(getattr(world, "role", "user"))


def turn_generator(seed: int, turn: int) -> np.random.Generator:
    """Return a generator for one turn of one episode; the same arguments give the same numbers.

    Args:
        seed: ``episode_seed``.
        turn: number of the turn, from 0.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, turn], np.uint64)))


@dataclass(frozen=True)
class Seeded:
    """State of an episode in a :class:`KnownWorld`.

    Attributes:
        inner: the world's own state, on which :meth:`KnownWorld.outcomes` depends.
        seed: ``episode_seed``.
        turn: number of turns answered so far.
    """

    inner: State
    seed: int
    turn: int = 0


class KnownWorld(ABC):
    """A world that knows the probability of each of its replies.

    :meth:`reply` samples from :meth:`outcomes`, and :func:`textgym.optimum` takes the mean over them: simulator and
    oracle cannot disagree.
    """

    role = "user"

    @abstractmethod
    def start(self, prompt: Prompt) -> State:
        """Return the first state of an episode. It is known: chance enters in :meth:`outcomes` only."""

    @abstractmethod
    def outcomes(self, state: State, turn: Completion) -> Sequence[Outcome]:
        """Return all possible answers to a turn, with probabilities that sum to 1."""

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[State]:
        return [Seeded(self.start(prompt), seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def reply(self, states: list[State], turns: list[Completion]) -> list[tuple[State, Reply]]:
        return [self._sample(state, turn) for state, turn in zip(states, turns, strict=True)]

    def _sample(self, state: Seeded, turn: Completion) -> tuple[Seeded, Reply]:
        outcomes = checked_outcomes(self.outcomes(state.inner, turn), state.inner, turn)
        # Inverse of the cumulative distribution; a single outcome needs no random number.
        chosen = 0
        if len(outcomes) > 1:
            cumulative = np.cumsum([probability for probability, _, _ in outcomes])
            uniform = turn_generator(state.seed, state.turn).random() * cumulative[-1]
            chosen = int(np.searchsorted(cumulative, uniform, side="right"))
        _, inner, reply = outcomes[chosen]
        return Seeded(inner, state.seed, state.turn + 1), reply


# --- errors and checks -----------------------------------------------------------------------------------------


class WorldError(RuntimeError):
    """A world raised an exception, or returned something that is not a reply."""


def begin_episodes(world: World, prompts: list[Prompt], seeds: list[int]) -> list[State]:
    """Return the first states of ``n`` episodes.

    Raises:
        WorldError: the world raised an exception, or returned another number of states.
    """
    try:
        states = world.begin(list(prompts), list(seeds))
    except Exception as error:
        raise WorldError(
            f"{_name(world)}.begin raised {type(error).__name__}: {error} on prompt {_short(prompts[0].text)}"
        ) from error
    return _counted(world, "begin", states, len(prompts), "states")


def ask(world: World, states: Sequence[State], turns: Sequence[Completion], n_tokens: int) -> list[tuple[State, Reply]]:
    """Return a world's checked answers to ``n`` turns.

    Args:
        world: the world.
        states: ``n`` states.
        turns: ``n`` turns.
        n_tokens: number of token ids that a reply may use.

    Raises:
        WorldError: the world raised an exception (state and turn are named), returned another number of replies, or
            something that is not a reply.
    """
    try:
        answers = world.reply(list(states), list(turns))
    except WorldError:
        raise
    except Exception as error:
        _raise_for_turn(world, states, turns, error)
    answers = _counted(world, "reply", answers, len(turns), "pairs of state and reply")
    return [
        (after, checked_reply(world, reply, state, turn, n_tokens))
        for (after, reply), state, turn in zip(map(_pair(world), answers), states, turns, strict=True)
    ]


def checked_reply(world: Any, reply: Any, state: State, turn: Completion, n_tokens: int) -> Reply:
    """Return a reply with plain Python values.

    Raises:
        WorldError: it is no :class:`Reply`, its reward is not a finite number, or an id lies outside the vocabulary.
    """
    problem = ""
    if not isinstance(reply, Reply):
        problem = f"returned {shown(reply)}; expected a Reply(says, reward, done)"
    elif (reward := plain(reply.reward)) is None or not math.isfinite(reward):
        problem = f"returned reward={shown(reply.reward)}; expected a finite number"
    elif isinstance(reply.says, str):
        return Reply(reply.says, float(reward), bool(reply.done))
    elif not isinstance(reply.says, tuple | list) or not all(isinstance(plain(i), int) for i in reply.says):
        problem = f"says {shown(reply.says)}; expected a text or a tuple of token ids"
    elif outside := [i for i in reply.says if not 0 <= i < n_tokens]:
        problem = f"says the token {outside[0]}, which lies outside the {n_tokens} tokens of the vocabulary"
    else:
        return Reply(tuple(int(i) for i in reply.says), float(reward), bool(reply.done))
    raise WorldError(f"{_name(world)}.reply {problem}\n{described(state, turn)}")


def checked_outcomes(outcomes: Sequence[Outcome], state: State, turn: Completion) -> list[Outcome]:
    """Return the outcomes that can happen.

    Raises:
        WorldError: a probability is negative or not a number, or they do not sum to 1.
    """
    chances = [plain(probability) for probability, _, _ in outcomes]
    numbers = [chance for chance in chances if chance is not None and chance >= 0]
    if len(numbers) < len(chances) or not abs(math.fsum(numbers) - 1) <= ROUNDING:
        raise WorldError(
            f"outcomes have the probabilities {chances}, with sum {math.fsum(numbers):g}; expected numbers from 0 that "
            f"sum to 1\n{described(state, turn)}"
        )
    return [outcome for outcome, chance in zip(outcomes, numbers, strict=True) if chance > 0]


def start_of(world: KnownWorld, prompt: Prompt) -> State:
    """Return the first state of an episode after a prompt.

    Raises:
        WorldError: the world raised an exception.
    """
    try:
        return world.start(prompt)
    except Exception as error:
        raise WorldError(
            f"{_name(world)}.start raised {type(error).__name__}: {error} on prompt {_short(prompt.text)}"
        ) from error


def outcomes_of(world: KnownWorld, state: State, turn: Completion, n_tokens: int) -> list[Outcome]:
    """Return a world's checked outcomes of a turn: those that :meth:`KnownWorld.reply` samples from.

    Args:
        world: the world.
        state: the world's own state, without a seed.
        turn: the turn.
        n_tokens: number of token ids that a reply may use.

    Raises:
        WorldError: the world raised an exception, or returned something else than outcomes.
    """
    try:
        outcomes = checked_outcomes(world.outcomes(state, turn), state, turn)
    except WorldError:
        raise
    except Exception as error:
        raise WorldError(
            f"{_name(world)}.outcomes raised {type(error).__name__}: {error}\n{described(state, turn)}"
        ) from error
    total = math.fsum(probability for probability, _, _ in outcomes)  # 1 up to rounding
    return [
        (probability / total, after, checked_reply(world, reply, state, turn, n_tokens))
        for probability, after, reply in outcomes
    ]


def _raise_for_turn(world: World, states: Sequence[State], turns: Sequence[Completion], error: Exception) -> NoReturn:
    """Raise a WorldError for an exception in a batch; it names the first turn that fails when it is asked alone."""
    place, cause = 0, error
    for i in range(len(turns)) if len(turns) > 1 else ():
        try:
            world.reply([states[i]], [turns[i]])
        except Exception as alone:
            place, cause = i, alone
            break
    raise WorldError(
        f"{_name(world)}.reply raised {type(cause).__name__}: {cause}\n{described(states[place], turns[place])}"
    ) from cause


def _counted(world: World, method: str, values: Any, n: int, of: str) -> list[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != n:
        got = len(values) if isinstance(values, Sequence) else shown(values)
        raise WorldError(f"{_name(world)}.{method} returned {got} {of}; expected a list of {n}")
    return list(values)


def _pair(world: World) -> Any:
    def checked(answer: Any) -> tuple[State, Any]:
        if not isinstance(answer, tuple) or len(answer) != 2 or isinstance(answer, Reply):
            raise WorldError(f"{_name(world)}.reply returned {shown(answer)}; expected pairs (state, Reply)")
        return answer

    return checked


def described(state: State, turn: Completion) -> str:
    """Return a state and a turn for a message, shortened if they are long."""
    return f"state: {_short(state)}\nturn: {_short(turn.text)}"


def _short(value: Any) -> str:
    try:
        return f"{value!r:.{_SHOWN}}"
    except Exception:  # a state is a user's object, whose repr may raise anything
        return f"something of type {type(value).__name__}"


def _name(world: Any) -> str:
    return type(world).__name__
