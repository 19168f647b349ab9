"""Several samples for each question: the chance that one of k is right (pass@k), or that a majority vote is (maj@k)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import binom, poisson

from textgym.numbers import count
from textgym.types import FloatArray


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Compute pass@k of one question without bias: 1 − C(n−c, k) / C(n, k).

    That is the share of the subsets of k of n samples in which one of the c right ones is.

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.

    Args:
        samples: n.
        right: c.
        k: from 1 to n.

    Raises:
        ValueError: ``k`` or ``right`` is out of its range.
    """
    samples, right = count("samples", samples), count("right", right, 0, samples)
    k = count("k", k, 1, samples)
    # The product of (1 − k/i) over i = n−c+1 … n, with numbers that stay small.
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - right + 1, samples + 1)))


def majority_at_k(answers: Sequence[Hashable], right: Sequence[float], k: int) -> float:
    """Compute maj@k of one question: the expected score of the answer that most of k samples give.

    The expectation is exact: over all subsets of k of the n samples, and over ties, which are broken uniformly among
    the tied answers. An answer's score is the mean over its samples.

    Source of the vote: Wang et al. 2022, self-consistency, arXiv:2203.11171.

    Args:
        answers: the answers of the n samples; equal ones are votes for the same.
        right: n scores: 1 for a right answer, 0 for a wrong one.
        k: from 1 to n.

    Raises:
        ValueError: ``k`` is out of its range.
    """
    k = count("k", k, 1, len(answers))
    groups: dict[Hashable, list[float]] = {}
    for answer, score in zip(answers, right, strict=True):
        groups.setdefault(answer, []).append(score)
    scores = np.array([np.mean(own) for own in groups.values()])
    # A subset's counts are multivariate hypergeometric: independent binomials, given that their sum is k.
    votes = np.arange(k + 1)
    chances = [binom.pmf(votes, len(own), k / len(answers)) for own in groups.values()]
    return float(sum(scores[i] * _wins(chances, int(i), k) for i in np.flatnonzero(scores)))


def majority_of_draws(probabilities: Sequence[float], k: int) -> FloatArray:
    """Compute the chance of each answer to win a majority vote among k independent draws; ties are broken uniformly.

    >>> majority_of_draws([0.3, 0.4, 0.3], 3).round(3).tolist()
    [0.288, 0.424, 0.288]

    Args:
        probabilities: of each answer; they sum to 1.
        k: number of draws.
    """
    k = count("k", k)
    # The counts are multinomial: independent Poisson variables, given that their sum is k.
    chances = [poisson.pmf(np.arange(k + 1), k * p) for p in probabilities]
    return np.array([_wins(chances, i, k) for i in range(len(chances))])


def _wins(chances: Sequence[FloatArray], i: int, k: int) -> float:
    """Compute the chance that answer ``i`` wins, if counts are independent but for their sum, which is k.

    Args:
        chances: ``[k+1]`` for each answer: the unconditional chance of each count.
        i: the answer.
        k: number of votes.
    """
    whole = np.zeros(k + 1)
    whole[0] = 1.0
    for own in chances:
        whole = np.convolve(whole, own)[: k + 1]
    others = [own for j, own in enumerate(chances) if j != i]
    won = sum(chances[i][m] * _shares(others, m, k - m) for m in range(1, k + 1) if chances[i][m] > 0)
    return float(won / whole[k])


def _shares(others: Sequence[FloatArray], m: int, rest: int) -> float:
    """Sum over all counts of others up to ``m`` with sum ``rest``: their chance, over one more than those at ``m``."""
    table = np.zeros((1, rest + 1))  # [number of answers at m, votes]
    table[0, 0] = 1.0
    for own in others:
        below = np.stack([np.convolve(row, own[:m])[: rest + 1] for row in table])
        tied = np.zeros_like(table)
        if m <= rest:
            tied[:, m:] = table[:, : rest + 1 - m] * own[m]
        table = np.vstack([below, np.zeros((1, rest + 1))])
        table[1:] += tied
        table = table[: rest // m + 1]  # more ties than that have more votes than there are
    return float(sum(table[t, rest] / (t + 1) for t in range(len(table))))
