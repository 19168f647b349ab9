"""Best-of-n sampling: the value of its response, estimated from one pool of samples, and its KL from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import comb

from textgym.exact.models import TreeArrays
from textgym.exact.tree import Tree
from textgym.types import FloatArray

BEST_OF_N_COUNTS = (1, 2, 4, 8, 16, 32, 64)


def best_of_n_weights(pool: int, n: int) -> FloatArray:
    """Return the chances that the i-th worst of a pool is the best of ``n`` drawn without replacement, ``[pool]``.

    C(i−1, n−1) / C(pool, n), for i = 1 … pool.

    Raises:
        ValueError: n is not between 1 and the pool.

    Source: the estimator of Nakano et al. 2021 (WebGPT, arXiv 2112.09332), appendix I.
    """
    if not 1 <= n <= pool:
        raise ValueError(f"n={n}; expected 1 to {pool}, the responses of the pool")
    weights: FloatArray = np.asarray(comb(np.arange(pool), n - 1) / comb(pool, n), np.float64)
    return weights


def best_of_n_value(proxy: ArrayLike, value: ArrayLike, n: int) -> float:
    """Return the mean value of the response that the proxy likes best among ``n``, without bias.

    Uses every subset of the pool at once. The mean is over prompts.

    Args:
        proxy: ``[N, K]`` by which the best is chosen; of equal scores the later one counts as better.
        value: ``[N, K]`` the quantity to average: the gold reward, or the proxy itself.
        n: at most K.
    """
    by, wanted = np.asarray(proxy, np.float64), np.asarray(value, np.float64)
    order = by.argsort(axis=1, kind="stable")
    ranked = np.take_along_axis(wanted, order, axis=1)
    return float((ranked @ best_of_n_weights(by.shape[1], n)).mean())


def kl_bound(n: ArrayLike) -> FloatArray:
    """Return log n − (n−1)/n nats: an upper bound of best-of-n's KL, reached where no two rewards tie.

    An equality only for a continuous reward of a continuous distribution; of a discrete one an upper bound (Beirami
    et al. 2024, arXiv 2401.01879).
    """
    count = np.asarray(n, np.float64)
    bound: FloatArray = np.log(count) - (count - 1) / count
    return bound


def best_of_n_kl(log_probs: ArrayLike, rewards: ArrayLike, n: int) -> float:
    """Return KL(best-of-n ‖ reference) in nats, exactly, of a reference with ``m`` outcomes.

    With q the mass of the outcomes of one reward and F the mass of those up to it, best-of-n shows that reward with
    probability F^n − (F − q)^n, and among outcomes that tie it chooses as the reference does. So

        KL = Σ_rewards (F^n − (F − q)^n) · log((F^n − (F − q)^n) / q)

    Args:
        log_probs: ``[m]`` of the reference, summing to 1 as probabilities; −∞ for impossible outcomes.
        rewards: ``[m]`` by which the best is chosen; equal ones tie.
        n: at least 1.
    """
    probs, scores = np.exp(np.asarray(log_probs, np.float64)), np.asarray(rewards, np.float64)
    if n < 1 or not np.isclose(probs.sum(), 1):
        raise ValueError(f"n={n}, the probabilities sum to {probs.sum():.6g}; expected at least 1, and 1")
    _, group = np.unique(scores, return_inverse=True)
    mass = np.bincount(group, weights=probs)
    below = np.concatenate([[0.0], mass.cumsum()[:-1]])
    shown = (below + mass) ** n - below**n
    present = shown > 0
    kl = float((shown[present] * np.log(shown[present] / mass[present])).sum())
    return max(kl, 0.0)  # rounding may leave a little less


def outcomes(tree: Tree, log_probs: TreeArrays) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield the log-probabilities ``[m]`` and rewards ``[m]`` of all responses, prompt by prompt.

    Args:
        tree: every response with its reward.
        log_probs: log π, ``[n, V]`` for each level.
    """
    # Level by level: a prefix's probability is its parent's times its last token's; responses that end are collected.
    owners, chances, rewards = [], [], []
    before: FloatArray = np.zeros(len(tree[0].states))
    for level, after, following in zip(tree, (*tree[1:], None), log_probs, strict=True):
        reached, ended = before[:, None] + following, level.ended
        owners.append(np.broadcast_to(level.states.prompt[:, None], ended.shape)[ended])
        chances.append(reached[ended])
        rewards.append(level.reward[ended])
        if after is not None:
            before = reached[after.states.parent, after.states.own[:, -1]]
    owner, chance, reward = (np.concatenate(parts) for parts in (owners, chances, rewards))
    for prompt in np.unique(owner):
        yield chance[owner == prompt], reward[owner == prompt]


def enumerated_kl(tree: Tree, log_probs: TreeArrays, counts: Sequence[int]) -> list[float]:
    """Return the KL of best-of-n for each count, the mean over prompts."""
    known = list(outcomes(tree, log_probs))
    return [float(np.mean([best_of_n_kl(*outcome, n) for outcome in known])) for n in counts]
