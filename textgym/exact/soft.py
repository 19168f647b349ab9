"""Soft optimality on a tree of states: pure functions of arrays, float64, nats.

The objective is J(π) = E[R] − β·E[Σ KL(π(·|x)‖π_ref(·|x))], a sum over the states x in which the policy chooses. A
token a has outcomes o with probabilities p_o: the world's replies if it ends a turn, otherwise one. r_o is what an
outcome pays: the reward of the turn, and the task's reward if the response ends. V_o is the value of the state that it
leads to, 0 after the end:

    Q(x, a)  = Σ_o p_o·(r_o + V_o)
    V(x)     = β·log Σ_a π_ref(a|x)·exp(Q(x, a)/β)
    π*(a|x)  = π_ref(a|x)·exp((Q(x, a) − V(x))/β)

The policy's tokens enter by a log of a mean of exponentials, the world's replies by a plain mean, as the policy can
tilt its own choices alone. For every policy J* − J(π) = β·E_π[Σ KL(π(·|x)‖π*(·|x))].

Without chance, the product of π* over a response y is π*(y) ∝ π_ref(y)·exp(R(y)/β). With chance that formula is wrong:
it tilts the world as well, and so counts on its luck.

Source: Ziebart 2010 (maximum *causal* entropy: a choice knows the past alone); Levine 2018 (arXiv 1805.00909) for the
recursion, and for the optimism of inference over whole trajectories; Rafailov 2023 (arXiv 2305.18290), eq. 4, for the
product formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textgym.exact.models import TreeArrays
from textgym.exact.tree import Level, Tree, summed_at
from textgym.types import FloatArray


class SoftOptimum(NamedTuple):
    """The result of the soft backward recursion.

    Attributes:
        values: V of the prefixes, ``[n]`` a level; of level 0: of each prompt.
        log_probs: log π*, ``[n, V]`` a level.
    """

    values: TreeArrays
    log_probs: TreeArrays


def soft_optimum(tree: Tree, ref_log_probs: Sequence[FloatArray], beta: float) -> SoftOptimum:
    """Compute V and log π* by the soft backward recursion.

    Args:
        tree: with rewards.
        ref_log_probs: ``[n, V]`` a level, normalised; -inf where a token is left out.
        beta: β > 0.
    """
    values: list[FloatArray] = [np.zeros(0)]
    log_probs: list[FloatArray] = []
    for level, after, log_ref in zip(reversed(tree), _afters(tree), reversed(ref_log_probs), strict=True):
        weighted = log_ref + (level.reward + following(level, after, values[-1])) / beta
        log_sum = log_sum_exp(weighted)
        values.append(beta * log_sum)
        log_probs.append(weighted - log_sum[:, None])
    return SoftOptimum(tuple(reversed(values[1:])), tuple(reversed(log_probs)))


def log_sum_exp(x: FloatArray) -> FloatArray:
    """Return the log of the sum of exponentials of each row, ``[n, V] -> [n]``; every row has a finite entry."""
    top = x.max(1)
    total: FloatArray = top + np.log(np.exp(x - top[:, None]).sum(1))
    return total


def expectation(tree: Tree, log_probs: Sequence[FloatArray], payments: Sequence[FloatArray]) -> FloatArray:
    """Return E_π of the sum of payments along a response, for each prompt: ``[n_prompts]``.

    Args:
        tree: the prefixes.
        log_probs: log π, ``[n, V]`` a level.
        payments: reward or cost of choosing a token, ``[n, V]`` a level.
    """
    value: FloatArray = np.zeros(0)
    for level, after, log_p, paid in zip(
        reversed(tree), _afters(tree), reversed(log_probs), reversed(payments), strict=True
    ):
        total = paid + following(level, after, value)
        # 0 · ∞ = 0 here: a token that is never chosen costs nothing.
        probs = np.exp(log_p)
        value = np.where(probs > 0, probs * np.where(probs > 0, total, 0.0), 0.0).sum(1)
    return value


def following(level: Level, after: Level | None, values: FloatArray) -> FloatArray:
    """Return the mean value of the states that each token leads to, ``[n, V]``; 0 where the response ends.

    Args:
        level: the states in which the token is chosen.
        after: the next level; None for the last one.
        values: ``[n']`` of the next level's states.
    """
    if after is None:
        return np.zeros(level.allowed.shape)
    states = after.states
    return summed_at(level.allowed.shape, states.parent, states.own[:, -1], states.chance * values)


def _afters(tree: Tree) -> tuple[Level | None, ...]:
    """Return the level after each one, from the last to the first."""
    return (None, *reversed(tree[1:]))


def log_ratios(log_p: Sequence[FloatArray], log_q: Sequence[FloatArray]) -> TreeArrays:
    """Return log p − log q at each level; 0 where p is 0, ∞ where only q is 0."""
    return tuple(map(_log_ratio, log_p, log_q))


def _log_ratio(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    never = np.isneginf(log_p)
    ratio: FloatArray = np.where(never, 0.0, log_p) - np.where(never, 0.0, log_q)
    return ratio
