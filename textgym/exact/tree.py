"""Every response of a small task as a prefix tree, with the reward of each.

A level has all live prefixes of one length; properties of the next token are arrays ``[n, V]``. The
leaves, complete responses, are the tokens that end one: so a tree of a million responses has a few hundred
thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast, overload

import numpy as np

from textgym.env.mdp import TokenMDP, reward_columns
from textgym.rewards.compose import WeightedRewards
from textgym.types import BoolArray, FinishReason, FloatArray, IntArray, MaskArray, Prompt, as_completion

LIMIT = 10**6
"""Responses that are enumerated at most."""
RESPONSES_PER_CALL = 2**16
"""Responses that are scored in one call of the reward."""


@dataclass(frozen=True)
class Level:
    """The ``n`` live prefixes of one length ``t``.

    Attributes:
        prompt: ``[n]`` which prompt each follows.
        tokens: ``[n, t]`` the response so far.
        parent: ``[n]`` its row in the level before; -1 at the root.
        allowed: ``[n, V]`` the tokens that the task admits.
        stopped: ``[n, V]`` the tokens that end the response by an end token or the task's stop rule.
        child: ``[n, V]`` the row in the next level; -1 where the token is forbidden or ends the response.
        reward: ``[n, V]`` of the response that the token ends; 0 elsewhere.
    """

    prompt: IntArray
    tokens: IntArray
    parent: IntArray
    allowed: BoolArray
    stopped: BoolArray
    child: IntArray
    reward: FloatArray

    @property
    def ended(self) -> BoolArray:
        """The tokens that complete a response, ``[n, V]``."""
        ended: BoolArray = self.allowed & (self.child < 0)
        return ended


Tree: TypeAlias = tuple[Level, ...]
"""Levels from the root on. The rows of level 0 are the prompts, in their order."""


def prefix_tree(mdp: TokenMDP, limit: int = LIMIT) -> Tree:
    """Enumerate all responses to all prompts of a task, with their rewards.

    Raises:
        ValueError: there are more than ``limit``, or a reward depends on ``episode_seed`` and declares no
            ``expected``.
    """
    return score_tree(grow_tree(mdp, limit), mdp)


def n_sequences(tree: Tree) -> int:
    """Return the number of responses in a tree, over all prompts."""
    return sum(int(level.ended.sum()) for level in tree)


# --- shape ---------------------------------------------------------------------------------------------------


def count_sequences(n_prompts: int, n_actions: int, n_ends: int, horizon: int) -> int:
    """Count the responses of a task without masks and stop rules.

    Those that an end token ends, at each length, and those of full length.
    """
    going = n_actions - n_ends
    by_end = sum(int(going**t) * n_ends for t in range(horizon - 1))
    return n_prompts * (by_end + int(going ** (horizon - 1)) * n_actions)


def grow_tree(mdp: TokenMDP, limit: int) -> Tree:
    """Return the tree without rewards.

    Raises:
        ValueError: it has more than ``limit`` responses.
    """
    if mdp.allowed is None and mdp.stop is None:
        ends = len(set(mdp.end_token_ids))
        _check_size(count_sequences(len(mdp.prompts), mdp.n_actions, ends, mdp.max_new_tokens), limit, "")
    levels: list[Level] = []
    prompt = np.arange(len(mdp.prompts))
    parent = np.full(len(prompt), -1)
    tokens = np.zeros((len(prompt), 0), np.int64)
    complete = 0
    for t in range(mdp.max_new_tokens):
        allowed = _allowed(mdp, prompt, tokens)
        stopped = allowed & _stops(mdp, tokens, allowed)
        alive = allowed & ~stopped & (t < mdp.max_new_tokens - 1)  # the last token ends every response
        complete += int((allowed & ~alive).sum())
        # Every live prefix has at least one completion, so a tree that is too large is refused before it is built.
        _check_size(complete + int(alive.sum()), limit, "at least ")
        row, token = alive.nonzero()
        child = np.full(alive.shape, -1)
        child[row, token] = np.arange(len(row))
        levels.append(Level(prompt, tokens, parent, allowed, stopped, child, np.zeros(alive.shape)))
        prompt, parent, tokens = prompt[row], row, np.concatenate([tokens[row], token[:, None]], axis=1)
        if not len(row):
            break
    return tuple(levels)


def _check_size(count: int, limit: int, about: str) -> None:
    if count > limit:
        number = f"{count:,}" if count < 10**12 else f"more than 10^{len(str(count)) - 1}"
        raise ValueError(
            f"the task has {about}{number} responses, and at most limit={limit:,} are enumerated; take fewer prompts, "
            "a smaller vocabulary or a shorter horizon, or estimate with textgym.exact.bracket"
        )


def _allowed(mdp: TokenMDP, prompt: IntArray, tokens: IntArray) -> BoolArray:
    """Return the task's mask after each prefix, ``[n, V]``."""
    if mdp.allowed is None:
        return np.ones((len(prompt), mdp.n_actions), bool)
    observations = (_observations(mdp, prompt[i], tokens[i]) for i in _chunks(len(prompt)))
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
    ids[:, start:end] = tokens
    mask[:, start:end] = 1
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
    """Return the tree with the reward E[R | y] of every response y: a dense reward's sum, a stochastic one's mean."""
    rewards = expected_rewards(mdp.rewards)
    _check_repeatable(tree, mdp, rewards)
    return tuple(replace(level, reward=_level_rewards(level, mdp, rewards)) for level in tree)


def expected_rewards(rewards: WeightedRewards) -> WeightedRewards:
    """Replace each component by its ``expected``, where it declares one: a function that returns E[R | y]."""
    return replace(rewards, rewards=tuple(getattr(part, "expected", part) for part in rewards.rewards))


def _check_repeatable(tree: Tree, mdp: TokenMDP, rewards: WeightedRewards) -> None:
    """Check that a few responses score the same under two seeds."""
    level = tree[-1]
    row, token = (index[:64] for index in level.ended.nonzero())
    first, second = (_score(level, row, token, mdp, rewards, seed) for seed in (0, 1))
    if not np.array_equal(first, second):
        raise ValueError(
            f"the reward ({', '.join(rewards.names)}) depends on episode_seed, so a response has no one reward; give "
            "the stochastic component an attribute 'expected', a function of the same signature that returns E[R | y]"
        )


def _level_rewards(level: Level, mdp: TokenMDP, rewards: WeightedRewards) -> FloatArray:
    found = np.zeros(level.child.shape)
    pays = level.ended
    if mdp.missing_end_score is not None:
        found[pays & ~level.stopped] = mdp.missing_end_score
        pays = pays & level.stopped
    row, token = pays.nonzero()
    for part in _chunks(len(row)):
        found[row[part], token[part]] = _score(level, row[part], token[part], mdp, rewards)
    return found


def _score(
    level: Level, row: IntArray, token: IntArray, mdp: TokenMDP, rewards: WeightedRewards, seed: int = 0
) -> FloatArray:
    """Return the rewards of the responses that ``token [m]`` ends after the prefixes ``row [m]``, ``[m]``."""
    prompts = [mdp.prompts[i] for i in level.prompt[row].tolist()]
    ids = np.concatenate([level.tokens[row], token[:, None]], axis=1).tolist()
    reasons: list[FinishReason] = ["stop" if stop else "length" for stop in level.stopped[row, token]]
    columns = reward_columns(prompts, [seed] * len(ids), reasons, mdp.columns)
    texts = cast(list[str], LazyTexts(mdp, prompts, ids))
    totals = rewards.score([prompt.content for prompt in prompts], texts, ids, columns).totals
    return np.array([total if isinstance(total, float | int) else sum(total) for total in totals], np.float64)


class LazyTexts(Sequence[Any]):
    """Completions that are decoded only when a reward reads them; most rewards of small tasks read the ids alone."""

    def __init__(self, mdp: TokenMDP, prompts: Sequence[Prompt], ids: Sequence[list[int]]) -> None:
        self.mdp = mdp
        self.prompts = prompts
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        prompt = self.prompts[index]
        return as_completion(prompt.content, self.mdp.completion(prompt, self.ids[index]))
