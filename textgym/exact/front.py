"""The exact Pareto front of two rewards: the best policy at each weight between them, by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textgym.exact.enumeration import find_mdp, optimum
from textgym.exact.soft import expectation, log_ratios, soft_optimum
from textgym.exact.tree import Tree, score_tree
from textgym.rewards.specs.resolve import resolve_reward
from textgym.types import FloatArray


@dataclass(frozen=True)
class ParetoFront:
    """The policies π_w that maximise J_w(π) = w·E[r1] + (1 − w)·E[r2] − β·KL(π‖π_ref), at n weights.

    No policy has more of r1, of r2 and of −KL than a policy of the front with 0 < w < 1. J*_w is convex in w, and its
    slope is E[r1] − E[r2].

    Attributes:
        weights: ``[n]`` w, the weight of the first reward.
        first: ``[n]`` E[r1] of π_w.
        second: ``[n]`` E[r2] of π_w.
        kl: ``[n]`` KL(π_w‖π_ref), in nats a response.
        values: ``[n]`` J*_w.
    """

    weights: FloatArray
    first: FloatArray
    second: FloatArray
    kl: FloatArray
    values: FloatArray


def pareto_front(env: Any, beta: float, rewards: tuple[Any, Any], weights: Sequence[float]) -> ParetoFront:
    """Compute the Pareto front of two rewards on a task, in place of the reward that it pays.

    Args:
        env: an environment, a token MDP, or an id, as for :func:`textgym.exact.optimum`.
        beta: β > 0.
        rewards: r1 and r2, as environments take them.
        weights: numbers from 0 to 1.

    Raises:
        ValueError: a weight is outside 0 to 1 or there is none; otherwise as :func:`textgym.exact.optimum`.
    """
    if not weights or not all(0 <= weight <= 1 for weight in weights):
        raise ValueError(f"weights={list(weights)}; expected one or more numbers from 0 to 1")
    paying = [replace(find_mdp(env), reward=resolve_reward(reward, {}), missing_end_score=None) for reward in rewards]
    base = optimum(paying[0], beta)
    one, other = base.tree, score_tree(base.tree, paying[1])

    def mean(log_probs: Sequence[FloatArray], paid: Sequence[FloatArray]) -> float:
        return float(expectation(base.tree, log_probs, paid).mean())

    found = []
    for weight in weights:
        log_probs = soft_optimum(_mixed(one, other, weight), base.ref_log_probs, beta).log_probs
        first, second = (mean(log_probs, [level.reward for level in tree]) for tree in (one, other))
        kl = mean(log_probs, log_ratios(log_probs, base.ref_log_probs))
        found.append((weight, first, second, kl, weight * first + (1 - weight) * second - beta * kl))
    return ParetoFront(*np.array(found).T)


def _mixed(first: Tree, second: Tree, weight: float) -> Tree:
    """Return the tree with the weighted mean of two trees' rewards."""
    return tuple(
        replace(one, reward=weight * one.reward + (1 - weight) * other.reward)
        for one, other in zip(first, second, strict=True)
    )
