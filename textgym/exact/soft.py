"""Soft optimality on a prefix tree: pure functions of arrays, float64, nats.

The objective is J(π) = E_π[R] − β·KL(π‖π_ref). With V = 0 beyond a response's end, and r its reward at the last token:

    Q(x, a)  = r(x, a) + V(x·a)
    V(x)     = β·log Σ_a π_ref(a|x)·exp(Q(x, a)/β)
    π*(a|x)  = π_ref(a|x)·exp((Q(x, a) − V(x))/β)

Source: Ziebart 2010 (maximum causal entropy), Levine 2018 (arXiv 1805.00909) for the recursion; Rafailov 2023
(arXiv 2305.18290), eq. 4, for π*(y) ∝ π_ref(y)·exp(R(y)/β), which is its product over a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textgym.exact.models import TreeArrays
from textgym.exact.tree import Tree
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
    for level, log_ref in zip(reversed(tree), reversed(ref_log_probs), strict=True):
        following = np.append(values[-1], 0.0)  # child -1, no further prefix, reads the 0
        weighted = log_ref + (level.reward + following[level.child]) / beta
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
    for level, log_p, paid in zip(reversed(tree), reversed(log_probs), reversed(payments), strict=True):
        total = paid + np.append(value, 0.0)[level.child]
        # 0 · ∞ = 0 here: a token that is never chosen costs nothing.
        probs = np.exp(log_p)
        value = np.where(probs > 0, probs * np.where(probs > 0, total, 0.0), 0.0).sum(1)
    return value


def log_ratios(log_p: Sequence[FloatArray], log_q: Sequence[FloatArray]) -> TreeArrays:
    """Return log p − log q at each level; 0 where p is 0, ∞ where only q is 0."""
    return tuple(map(_log_ratio, log_p, log_q))


def _log_ratio(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    never = np.isneginf(log_p)
    ratio: FloatArray = np.where(never, 0.0, log_p) - np.where(never, 0.0, log_q)
    return ratio
