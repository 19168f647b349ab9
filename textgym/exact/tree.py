"""Every response of a small task as a tree, with the reward of each.

A level has all states after one number of own tokens; properties of the next token are arrays ``[n, V]``. Without a
world these are all live prefixes of one length. The leaves, complete responses, are the tokens that end one: so a tree
of a million responses has a few hundred thousand rows. With a world, each reply that can follow a turn has a branch of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, cast

import numpy as np

from textgym.env.mdp import TokenMDP, reward_columns
from textgym.env.turns import messages_at_end
from textgym.exact.growth import Endings, States, check_known, first_states, grow
from textgym.rewards.compose import WeightedRewards
from textgym.rewards.functions import LazyList
from textgym.types import BoolArray, FinishReason, FloatArray, IntArray, MaskArray, as_completion

LIMIT = 10**6
"""Responses that are enumerated at most."""
RESPONSES_PER_CALL = 2**16
"""Responses that are scored in one call of the reward."""


@dataclass(frozen=True)
class Level:
    """The ``n`` states after ``t`` own tokens, and what follows them.

    Attributes:
        states: the states.
        allowed: ``[n, V]`` the tokens that the task admits.
        endings: the responses that end with the next token.
        paid: ``[n, V]`` mean reward that the world pays for the turn which a token ends; 0 elsewhere.
        reward: ``[n, V]`` mean reward of choosing a token: what the world pays, and the task's reward of the responses
            that end with it.
    """

    states: States
    allowed: BoolArray
    endings: Endings
    paid: FloatArray
    reward: FloatArray

    @property
    def ended(self) -> BoolArray:
        """The tokens that complete a response, ``[n, V]``."""
        ended = np.zeros(self.allowed.shape, bool)
        ended[self.endings.row, self.endings.token] = True
        return ended


Tree: TypeAlias = tuple[Level, ...]
"""Levels from the root on. The rows of level 0 are the prompts, in their order."""


def prefix_tree(mdp: TokenMDP, limit: int = LIMIT) -> Tree:
    """Enumerate all responses to all prompts of a task, with their rewards.

    Raises:
        ValueError: there are more than ``limit``, a reward depends on ``episode_seed`` and declares no ``expected``, or
            on other responses, or the task's world does not know its ``outcomes``.
    """
    return score_tree(grow_tree(mdp, limit), mdp)


def n_sequences(tree: Tree, log_probs: Sequence[FloatArray]) -> int:
    """Return the number of responses that are possible under a policy, over all prompts and all replies of the world.

    Args:
        tree: the tree.
        log_probs: log π, ``[n, V]`` a level; -inf for tokens that are never chosen.
    """
    count, lives = 0, np.ones(len(tree[0].states), bool)
    for level, after, log_p in zip(tree, (*tree[1:], None), log_probs, strict=True):
        possible = lives[:, None] & np.isfinite(log_p)
        count += int(possible[level.endings.row, level.endings.token].sum())
        if after is not None:
            lives = possible[after.states.parent, after.states.own[:, -1]]
    return count


def summed_at(shape: tuple[int, ...], row: IntArray, token: IntArray, amounts: FloatArray) -> FloatArray:
    """Return ``[n, V]`` the sum of the amounts at each place; 0 where there are none."""
    n, n_actions = shape
    sums = np.bincount(row * n_actions + token, amounts, n * n_actions)
    return np.asarray(sums, np.float64).reshape(shape)


# --- shape ---------------------------------------------------------------------------------------------------


def count_sequences(n_prompts: int, n_actions: int, n_ends: int, horizon: int) -> int:
    """Count the responses of a task without masks, stop rules and a world.

    Those that an end token ends, at each length, and those of full length.
    """
    going = n_actions - n_ends
    by_end = sum(int(going**t) * n_ends for t in range(horizon - 1))
    return n_prompts * (by_end + int(going ** (horizon - 1)) * n_actions)


def grow_tree(mdp: TokenMDP, limit: int) -> Tree:
    """Return the tree without rewards.

    Raises:
        ValueError: it has more than ``limit`` responses, or the task's world does not know its ``outcomes``.
    """
    check_known(mdp)
    check_scores_alone(mdp)
    if mdp.allowed is None and mdp.stop is None and mdp.world is None:
        ends = len(set(mdp.end_token_ids))
        _check_size(mdp, limit, "", count_sequences(len(mdp.prompts), mdp.n_actions, ends, mdp.max_new_tokens))
    levels: list[Level] = []
    complete = 0
    states = first_states(mdp)
    while len(states):
        check_size = partial(_check_size, mdp, limit, "at least ", complete)
        allowed = _allowed(mdp, states)
        # Every token leads to at least one response, so a tree that is too large is refused before it is built.
        check_size(int(allowed.sum()))
        stopped = allowed & _stops(mdp, states.own, allowed)
        after, endings, paid = grow(mdp, states, allowed, stopped, check_size)
        levels.append(Level(states, allowed, endings, paid, paid))
        states, complete = after, complete + len(endings.row)
    return tuple(levels)


def _check_size(mdp: TokenMDP, limit: int, about: str, *counts: int) -> None:
    if (count := sum(counts)) > limit:
        number = f"{count:,}" if count < 10**12 else f"more than 10^{len(str(count)) - 1}"
        ways = "take fewer prompts, a smaller vocabulary or a shorter horizon, or estimate with textgym.exact.bracket"
        if mdp.world is not None:
            ways = "take fewer prompts, a smaller vocabulary, a shorter horizon, or a world of fewer outcomes"
        raise ValueError(f"the task has {about}{number} responses, and at most limit={limit:,} are enumerated; {ways}")


def _allowed(mdp: TokenMDP, states: States) -> BoolArray:
    """Return the task's mask in each state, ``[n, V]``."""
    if mdp.allowed is None:
        return np.ones((len(states), mdp.n_actions), bool)
    observations = (_observations(mdp, states.prompt[i], states.tokens[i]) for i in _chunks(len(states)))
    return np.concatenate([mdp.allowed(*observation) for observation in observations])


def _observations(mdp: TokenMDP, prompt: IntArray, tokens: IntArray) -> tuple[IntArray, MaskArray]:
    """Return token ids and attention mask as the environment shows them, ``[n, P+T]`` each."""
    start, end = mdp.max_prompt_length, mdp.max_prompt_length + tokens.shape[1]
    ids = np.full((len(prompt), mdp.width), mdp.filler, np.int64)
    mask = np.zeros((len(prompt), mdp.width), np.int8)
    for which in np.unique(prompt):
        # Prompts are padded on the left, responses follow at a fixed column.
        rows, given = prompt == which, mdp.prompts[int(which)].ids
        ids[rows, start - len(given) : start] = given
        mask[rows, start - len(given) : start] = 1
    ids[:, start:end] = np.where(tokens >= 0, tokens, mdp.filler)
    mask[:, start:end] = tokens >= 0
    return ids, mask


def _stops(mdp: TokenMDP, tokens: IntArray, allowed: BoolArray) -> BoolArray:
    """Return True where a token is an end token or the stop rule ends the response with it, ``[n, V]``."""
    stops = np.broadcast_to(np.isin(np.arange(mdp.n_actions), mdp.end_token_ids), allowed.shape).copy()
    if mdp.stop is not None:
        for row, token in zip(*(allowed & ~stops).nonzero(), strict=True):
            stops[row, token] = bool(mdp.stop([*tokens[row].tolist(), int(token)]))
    return stops


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, start + RESPONSES_PER_CALL) for start in range(0, n, RESPONSES_PER_CALL))


# --- rewards -------------------------------------------------------------------------------------------------


def score_tree(tree: Tree, mdp: TokenMDP) -> Tree:
    """Return the tree with the reward E[R | y] of every response y: a dense reward's sum, a stochastic one's mean.

    Raises:
        ValueError: see :func:`prefix_tree`; or a reward compares responses, so that one by itself has no reward.
    """
    check_scores_alone(mdp)
    rewards = expected_rewards(mdp.rewards)
    _check_repeatable(tree, mdp, rewards)
    return tuple(replace(level, reward=_level_rewards(level, mdp, rewards)) for level in tree)


def check_scores_alone(mdp: TokenMDP) -> None:
    """Raise ValueError if the reward of a response depends on other responses."""
    mdp.check_scores_alone("an enumeration scores each by itself", "use a reward of one response")


def expected_rewards(rewards: WeightedRewards) -> WeightedRewards:
    """Replace each component by its ``expected``, where it declares one: a function that returns E[R | y]."""
    return replace(rewards, rewards=tuple(getattr(part, "expected", part) for part in rewards.rewards))


def _check_repeatable(tree: Tree, mdp: TokenMDP, rewards: WeightedRewards) -> None:
    """Check that a few responses score the same under two seeds."""
    level = tree[-1]
    few = np.arange(len(level.endings.row))[:64]
    first, second = (_score(level, few, mdp, rewards, seed) for seed in (0, 1))
    if not np.array_equal(first, second):
        raise ValueError(
            f"the reward ({', '.join(rewards.names)}) depends on episode_seed, so a response has no one reward; give "
            "the stochastic component an attribute 'expected', a function of the same signature that returns E[R | y]"
        )


def _level_rewards(level: Level, mdp: TokenMDP, rewards: WeightedRewards) -> FloatArray:
    ends = level.endings
    scores = np.zeros(len(ends.row))
    pays = np.arange(len(scores))
    if mdp.missing_end_score is not None:
        scores[~ends.stopped] = mdp.missing_end_score
        pays = np.flatnonzero(ends.stopped)
    for part in _chunks(len(pays)):
        scores[pays[part]] = _score(level, pays[part], mdp, rewards)
    return level.paid + summed_at(level.paid.shape, ends.row, ends.token, ends.chance * scores)


def _score(level: Level, which: IntArray, mdp: TokenMDP, rewards: WeightedRewards, seed: int = 0) -> FloatArray:
    """Return the task's rewards of the endings ``which [m]``, as the environment asks for them, ``[m]``."""
    states, ends = level.states, level.endings
    row, token = ends.row[which], ends.token[which]
    prompts = [mdp.prompts[i] for i in states.prompt[row].tolist()]
    own = np.concatenate([states.own[row], token[:, None]], axis=1).tolist()
    reasons: list[FinishReason] = ["stop" if stop else "length" for stop in ends.stopped[which]]
    columns = reward_columns(prompts, [seed] * len(own), reasons, mdp.columns)
    if mdp.world is None:
        completions = LazyList(
            len(own), lambda i: as_completion(prompts[i].content, mdp.completion(prompts[i], own[i]))
        )
    else:
        conversations = [ends.conversations[i] for i in which.tolist()]
        responses = [[*states.response(i), last] for i, last in zip(row.tolist(), token.tolist(), strict=True)]
        columns["response_ids"] = responses
        columns["turn_rewards"] = [list(conversation.rewards) for conversation in conversations]
        completions = LazyList(
            len(own),
            # Copies: endings share the messages of their common past, and a reward may change what it receives.
            lambda i: [dict(message) for message in messages_at_end(mdp, conversations[i], responses[i])],
        )
    totals = rewards.score([prompt.content for prompt in prompts], cast(list[str], completions), own, columns).totals
    return np.array([total if isinstance(total, float | int) else sum(total) for total in totals], np.float64)
