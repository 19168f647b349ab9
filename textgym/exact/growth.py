"""One step of a tree's growth: what follows each token that the policy may choose.

A reply is a chance node between two states of the policy. The policy sees tokens alone, so replies that look alike lead
to one state. Its *belief* holds the conversations that it may be in; an optimum that kept them apart would see what the
world hides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from textgym.env.mdp import TokenMDP
from textgym.env.turns import Conversation, answered, ends_turn, present_turn
from textgym.types import BoolArray, FloatArray, IntArray
from textgym.worlds.world import KnownWorld, outcomes_of, start_of

Belief: TypeAlias = "tuple[tuple[float, Conversation], ...]"
"""Conversations that look alike to the policy, with probabilities that sum to 1."""


@dataclass(frozen=True)
class States:
    """The ``n`` states after ``t`` own tokens, in which the policy chooses the next one.

    Attributes:
        prompt: ``[n]`` the prompt of each.
        own: ``[n, t]`` the policy's tokens so far.
        tokens: ``[n, w]`` the response so far, with the world's tokens; -1 after its end.
        lengths: ``[n]`` number of tokens of the response so far.
        parent: ``[n]`` the row in the level before, in ascending order; -1 at the root.
        chance: ``[n]`` probability of the reply that leads here, given the last own token; 1 without a reply.
        beliefs: ``n`` beliefs; empty without a world.
    """

    prompt: IntArray
    own: IntArray
    tokens: IntArray
    lengths: IntArray
    parent: IntArray
    chance: FloatArray
    beliefs: Sequence[Belief]

    def __len__(self) -> int:
        return len(self.prompt)

    def response(self, row: int) -> list[int]:
        """Return a state's response so far."""
        ids: list[int] = self.tokens[row, : self.lengths[row]].tolist()
        return ids


class Endings(NamedTuple):
    """The ``m`` responses that end with the next own token.

    Attributes:
        row: ``[m]`` the state in which the token is chosen.
        token: ``[m]`` the token.
        chance: ``[m]`` probability of the ending, given the token.
        stopped: ``[m]`` True where the reason is ``"stop"``.
        conversations: ``m`` conversations; empty without a world.
    """

    row: IntArray
    token: IntArray
    chance: FloatArray
    stopped: BoolArray
    conversations: Sequence[Conversation]


class Growth(NamedTuple):
    """States and endings after one more own token in each state of a level.

    Attributes:
        states: the states after one more own token.
        endings: the responses that end with it.
        paid: ``[n, V]`` mean reward that the world pays for the turn which a token ends.
    """

    states: States
    endings: Endings
    paid: FloatArray


def check_known(mdp: TokenMDP) -> None:
    """Check that the optimum against a task's world can be known, if it has one.

    Raises:
        ValueError: the probabilities of the world's replies are unknown, or two prompts look alike to the policy but
            not to the world.
    """
    if mdp.world is None:
        return
    if not isinstance(mdp.world, KnownWorld):
        raise ValueError(
            f"world={type(mdp.world).__name__} has no outcomes, so the probabilities of its replies are unknown and J* "
            "cannot be computed; derive it from textgym.worlds.KnownWorld, or estimate J of a policy by sampling with "
            "textgym.agents.evaluate"
        )
    first: dict[tuple[int, ...], int] = {}
    for number, prompt in enumerate(mdp.prompts, start=1):
        other = first.setdefault(prompt.ids, number)
        if mdp.prompts[other - 1] != prompt:
            raise ValueError(
                f"prompts {other} and {number} have the same tokens, {prompt.text[:80]!r}, and differ otherwise: the "
                "policy cannot tell them apart, and J* would be too high; give them other tokens, or let the world's "
                "outcomes draw what is hidden"
            )


def first_states(mdp: TokenMDP) -> States:
    """Return the states before the first token: the prompts."""
    n = len(mdp.prompts)
    nothing = np.zeros((n, 0), np.int64)
    beliefs: list[Belief] = []
    if isinstance(mdp.world, KnownWorld):
        beliefs = [((1.0, Conversation(prompt, start_of(mdp.world, prompt))),) for prompt in mdp.prompts]
    return States(np.arange(n), nothing, nothing, np.zeros(n, np.int64), np.full(n, -1), np.ones(n), beliefs)


def grow(
    mdp: TokenMDP, states: States, allowed: BoolArray, stopped: BoolArray, check_size: Callable[[int], None]
) -> Growth:
    """Return what follows the states of a level.

    Args:
        mdp: the task.
        states: ``n`` states.
        allowed: ``[n, V]`` tokens that the task admits.
        stopped: ``[n, V]`` those that end the response by an end token or the task's stop rule.
        check_size: called with the number of states and endings found so far.
    """
    if mdp.world is not None:
        return _grow_with_replies(mdp, states, allowed, stopped, check_size)
    goes_on = allowed & ~stopped & (states.lengths < mdp.max_new_tokens - 1)[:, None]
    row, token = goes_on.nonzero()
    own = np.concatenate([states.own[row], token[:, None]], axis=1)
    after = States(states.prompt[row], own, own, states.lengths[row] + 1, row, np.ones(len(row)), ())
    row, token = (allowed & ~goes_on).nonzero()
    endings = Endings(row, token, np.ones(len(row)), stopped[row, token], ())
    return Growth(after, endings, np.zeros(allowed.shape))


# --- replies ---------------------------------------------------------------------------------------------------


class Following(NamedTuple):
    """Mean reward, endings and continuations after one token of the policy.

    Attributes:
        paid: mean reward of the turn.
        ends: probability, True for ``"stop"``, and conversation of each ending.
        goes_on: the conversations that go on and their probabilities, by the tokens that the world appends.
    """

    paid: float
    ends: list[tuple[float, bool, Conversation]]
    goes_on: dict[tuple[int, ...], list[tuple[float, Conversation]]]


def _grow_with_replies(
    mdp: TokenMDP, states: States, allowed: BoolArray, stopped: BoolArray, check_size: Callable[[int], None]
) -> Growth:
    paid = np.zeros(allowed.shape)
    ends: list[tuple[int, int, float, bool, Conversation]] = []
    nexts: list[tuple[int, int, list[int], float, Belief]] = []
    for row, token in np.argwhere(allowed).tolist():
        response = [*states.response(row), token]
        following = _follow(mdp, states.beliefs[row], response, bool(stopped[row, token]))
        paid[row, token] = following.paid
        ends += [(row, token, *end) for end in following.ends]
        for appended, alike in following.goes_on.items():
            chance = math.fsum(weight for weight, _ in alike)
            belief = tuple((weight / chance, conversation) for weight, conversation in alike)
            nexts.append((row, token, [*response, *appended], chance, belief))
        check_size(len(ends) + len(nexts))
    return Growth(_next_states(states, nexts), _endings(ends), paid)


def _follow(mdp: TokenMDP, belief: Belief, response: list[int], stopped: bool) -> Following:
    """Return what follows the last token of a response, in the order in which the environment asks."""
    begun = belief[0][1].begun  # alike in all conversations of a belief
    if not stopped and ends_turn(mdp, response[-1], len(response) - begun):
        return _answer(mdp, belief, response)
    if stopped or len(response) == mdp.max_new_tokens:
        return Following(0.0, [(weight, stopped, conversation) for weight, conversation in belief], {})
    return Following(0.0, [], {(): list(belief)})


def _answer(mdp: TokenMDP, belief: Belief, response: list[int]) -> Following:
    """Return what follows the last token of a turn."""
    assert isinstance(mdp.world, KnownWorld), "check_known refuses other worlds"
    turn = present_turn(mdp, belief[0][1], response)
    paid = 0.0
    ends: list[tuple[float, bool, Conversation]] = []
    goes_on: dict[tuple[int, ...], list[tuple[float, Conversation]]] = {}
    for weight, conversation in belief:
        for probability, state, reply in outcomes_of(mdp.world, conversation.state, turn, mdp.n_tokens):
            chance = weight * probability
            paid += chance * reply.reward
            after = answered(mdp, conversation, turn, len(response), state, reply)
            if after.finish_reason is None:
                goes_on.setdefault(after.appended, []).append((chance, after.conversation))
            else:
                ends.append((chance, after.finish_reason == "stop", after.conversation))
    return Following(paid, ends, goes_on)


def _next_states(states: States, nexts: list[tuple[int, int, list[int], float, Belief]]) -> States:
    row, token = (np.array([each[i] for each in nexts], np.int64) for i in (0, 1))
    lengths = np.array([len(response) for _, _, response, _, _ in nexts], np.int64)
    tokens = np.full((len(nexts), lengths.max(initial=0)), -1)
    for i, (_, _, response, _, _) in enumerate(nexts):
        tokens[i, : len(response)] = response
    own = np.concatenate([states.own[row], token[:, None]], axis=1)
    chance = np.array([chance for *_, chance, _ in nexts])
    return States(states.prompt[row], own, tokens, lengths, row, chance, [belief for *_, belief in nexts])


def _endings(ends: list[tuple[int, int, float, bool, Conversation]]) -> Endings:
    row, token = (np.array([each[i] for each in ends], np.int64) for i in (0, 1))
    chance, stopped = np.array([each[2] for each in ends]), np.array([each[3] for each in ends], bool)
    return Endings(row, token, chance, stopped, [conversation for *_, conversation in ends])
