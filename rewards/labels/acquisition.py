"""Acquisition: which questions to ask a labeller, given what the members of an ensemble make of them.

A question is K completions of one prompt. Member m prefers completion a to b with probability σ(s_a − s_b), where s are
its scores before any normalisation, as the Bradley–Terry loss of training fits them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from textgym.types import FloatArray, IntArray

Acquisition: TypeAlias = Literal["random", "disagreement", "information"]
"""Rule that values a question; the questions of the highest values are asked."""


def disagreement(scores: ArrayLike) -> FloatArray:
    """Compute the variance over members of P(a ≻ b) = σ(s_a − s_b), averaged over the K·(K−1)/2 pairs.

    Args:
        scores: ``[..., K, M]`` scores of K completions by M members.

    Returns:
        ``[...]`` population variances, from 0 to ¼; exactly 0 if all members give one another's probabilities.

    Raises:
        ValueError: fewer than 2 completions or 2 members, or a score is not finite.

    Source: Christiano et al. 2017, arXiv:1706.03741, section 2.2.4, who take the pairs of highest variance.
    """
    chances = _sigmoid(_margins(scores, "disagreement"))
    # Relative to the first member: the mean of equal numbers may differ from them by rounding, that of zeros does not.
    variance: FloatArray = (chances - chances[..., :1]).var(axis=-1).mean(axis=-1)
    return variance


def information(scores: ArrayLike) -> FloatArray:
    """Compute the mutual information of a pair's label and the member, averaged over the K·(K−1)/2 pairs.

    It is H(mean of p) − mean of H(p) over members, with p = P(a ≻ b) and the entropy H of a coin in nats: large where
    members are sure, and of different opinions.

    Args:
        scores: ``[..., K, M]``; see :func:`disagreement`.

    Returns:
        ``[...]`` nats, from 0 to log 2.

    Raises:
        ValueError: see :func:`disagreement`.

    Source: Houlsby et al. 2011, arXiv:1112.5745, eq. 2 (BALD).
    """
    margins = _margins(scores, "information")
    wins, losses = _sigmoid(margins), _sigmoid(-margins)
    entropy = _entropy(wins, losses)
    mean = _entropy(_mean(wins), _mean(losses))
    # Rounding may leave −1e-17.
    found: FloatArray = np.maximum(mean - _mean(entropy), 0.0).mean(axis=-1)
    return found


RULES: dict[Acquisition, Callable[[ArrayLike], FloatArray]] = {
    "disagreement": disagreement,
    "information": information,
}
"""Rules that value questions; ``random`` values none."""


def choose(scores: Sequence[ArrayLike], count: int, acquisition: Acquisition, rng: np.random.Generator) -> IntArray:
    """Choose the questions to ask.

    Args:
        scores: ``Q`` arrays ``[K, M]``, or one ``[Q, K, M]``; K may differ between questions.
        count: number of questions to choose; all if there are fewer.
        acquisition: the rule. ``"random"`` looks at no score.
        rng: source of the random choice, and of the choice among equal values.

    Returns:
        ``[count]`` indices of questions, the most valuable first.

    Raises:
        ValueError: the rule is unknown, or cannot value a question: see :func:`disagreement`.
    """
    _check_rule(acquisition)
    # Ties fall in this order, and not in that of the questions: where all members agree, the choice is random.
    shuffled = rng.permutation(len(scores))
    if acquisition == "random":
        return shuffled[:count]
    values = np.array([float(RULES[acquisition](scores[i])) for i in shuffled])
    return shuffled[np.argsort(-values, kind="stable")[:count]]


def check_acquisition(acquisition: str, members: int) -> None:
    """Check that an ensemble of so many members can value questions by a rule.

    Raises:
        ValueError: the rule is unknown, or compares members and there is only one.
    """
    _check_rule(acquisition)
    if acquisition != "random" and members < 2:
        raise ValueError(
            f"acquisition={acquisition!r} compares the members of an ensemble, and there is {members}; train at least "
            "2 members, or choose at random"
        )


def _check_rule(acquisition: str) -> None:
    if acquisition not in ("random", *RULES):
        raise ValueError(f"acquisition={acquisition!r}; expected random, {' or '.join(RULES)}")


def _margins(scores: ArrayLike, acquisition: str) -> FloatArray:
    """Return ``s_a − s_b`` of each pair, ``[..., pairs, M]``."""
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim < 2 or s.shape[-2] < 2:
        raise ValueError(f"scores: expected [..., K, M] with at least 2 completions, got shape {s.shape}")
    check_acquisition(acquisition, s.shape[-1])
    if not np.isfinite(s).all():
        raise ValueError(f"scores: expected finite numbers, got {s[~np.isfinite(s)][0]}")
    first, second = np.triu_indices(s.shape[-2], k=1)
    margins: FloatArray = s[..., first, :] - s[..., second, :]
    return margins


def _sigmoid(x: FloatArray) -> FloatArray:
    return (1 + np.tanh(x / 2)) / 2


def _mean(values: FloatArray) -> FloatArray:
    """Return the mean over members, which of equal numbers is that number exactly."""
    first = values[..., 0]
    mean: FloatArray = first + (values - first[..., None]).mean(axis=-1)
    return mean


def _entropy(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return −p·log p − q·log q in nats, with 0·log 0 = 0."""
    return -(p * np.log(np.where(p > 0, p, 1.0)) + q * np.log(np.where(q > 0, q, 1.0)))
