"""Products, limits and normalisation of rewards.

Each is a reward itself, so they nest: ``Clipped(Product((helpful, harmless)), 0, 1)``. The rewards that they are made
of are logged under their own names, beside the result.

A score of None, of a reward that does not apply, stays None, except where a docstring says otherwise. Statistics that
run along with training are not offered: the score of a response would depend on the calls before, evaluations among
them, and a repeated or resumed iteration would not score as the first time. Measure them once, and keep them fixed, or
take those of each iteration alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from textgym.numbers import check, check_given, finite
from textgym.rewards.combination import Combination, OneReward, summed
from textgym.rewards.functions import Batch, Compared, Reward, check_signature, compared, reward_name, strongest
from textgym.types import Score

ROUNDING = 1e-6
"""Spread of scores, as a share of the largest, that is rounding: models compute in float32."""


@dataclass(frozen=True)
class Product(Combination):
    """Multiply rewards: ``Π_j R_j``, for conditions that must hold together, such as a format and an answer.

    A factor of None drops out, as from a weighted sum; the product of None alone is None. A dense score enters as its
    sum, so that the product is paid at the last token. The range is that of the product: with factors in [0, 1] it is
    [0, 1]. No ``expected`` is declared, as the mean of a product of noisy rewards is not the product of their means.

    Attributes:
        rewards: the factors, at least two.
    """

    rewards: tuple[Reward, ...]
    name: str = "product"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewards", tuple(self.rewards))
        if len(self.rewards) < 2:
            raise ValueError(f"rewards has {len(self.rewards)}; expected at least two factors")
        for reward in self.rewards:
            check_signature(reward)

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The factors."""
        return self.rewards

    def with_parts(self, parts: tuple[Reward, ...]) -> Self:
        """Return the product of other factors."""
        return replace(self, rewards=parts)

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` products."""
        rows = [[summed(score) for score in row] for row in zip(*scores, strict=True)]
        given = [[score for score in row if score is not None] for row in rows]
        return [math.prod(row) if row else None for row in given]


@dataclass(frozen=True)
class Clipped(OneReward):
    """Limit a reward to ``[low, high]``: ``min(max(R, low), high)``.

    A dense score enters as its sum, so that the result is paid at the last token. No ``expected`` is declared: the mean
    of a clipped noisy reward is not its clipped mean.

    Attributes:
        low: the least score; None for no limit.
        high: the greatest score; None for no limit.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_given(self, finite, "low", "high")
        if self.low is None and self.high is None:
            raise ValueError("low and high are None; expected a limit, or the reward without Clipped")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low={self.low:g}, high={self.high:g}; expected low < high")

    @property
    def name(self) -> str:
        """``clipped_NAME``."""
        return f"clipped_{reward_name(self.reward)}"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` scores within the limits."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        totals = map(summed, scores[0])
        return [None if total is None else min(max(total, low), high) for total in totals]


@dataclass(frozen=True)
class Threshold(OneReward):
    """Pay 1 where a reward is above a threshold, otherwise 0: ``1[R > above]``.

    A score equal to the threshold pays 0. A dense score enters as its sum. No ``expected`` is declared, as for
    :class:`Clipped`.

    Attributes:
        above: the threshold.
    """

    above: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "above")

    @property
    def name(self) -> str:
        """``NAME_above``."""
        return f"{reward_name(self.reward)}_above"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` indicators."""
        totals = map(summed, scores[0])
        return [None if total is None else float(total > self.above) for total in totals]


@dataclass(frozen=True)
class Whitened(OneReward):
    """Normalise a reward by fixed statistics: ``(R − mean) / std``.

    With the mean and the standard deviation of the reward over completions of a reference, those have mean 0 and
    standard deviation 1, so that β and clip ranges mean the same for every reward. Sources: Ziegler 2019 (arXiv
    1909.08593), with samples of the initial policy; Stiennon 2020 (arXiv 2009.01325), which shifts the reward so that
    reference summaries score 0 on average. The statistics are measured once; :meth:`from_scores`
    does that.

    Every token of a dense score is divided by the standard deviation, and the mean is subtracted at the last one, so
    that the sum is whitened. The mean of a noisy reward is whitened too: ``expected`` is declared where the reward
    does.

    Attributes:
        mean: the reference's mean score.
        std: the reference's standard deviation, above 0.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "mean")
        check(self, finite, "std", above=0)

    @classmethod
    def from_scores(cls, reward: Reward, scores: Sequence[float | None]) -> Whitened:
        """Return a reward whitened by its scores of reference completions; None and NaN, not applicable, are left out.

        For instance those of ``textgym.agents.evaluate`` with the reference as the policy. The standard deviation has
        the divisor N.

        Raises:
            ValueError: fewer than two scores, or all are equal.
        """
        given = np.array([score for score in scores if score is not None and not math.isnan(score)], np.float64)
        if len(given) < 2 or not np.ptp(given) > 0:
            raise ValueError(
                f"scores has {len(given)} numbers, {len(np.unique(given))} of them different; expected at least two "
                "that differ: score more reference completions"
            )
        return cls(reward, float(given.mean()), float(given.std()))

    @property
    def name(self) -> str:
        """``whitened_NAME``."""
        return f"whitened_{reward_name(self.reward)}"

    @property
    def expected(self) -> Whitened:
        """E[R | y] of a noisy reward, whitened; raises AttributeError if the reward declares none."""
        reward: Any = self.reward
        return replace(self, reward=reward.expected)

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` whitened scores."""
        return [_whitened(score, self.mean, self.std) for score in scores[0]]


@dataclass(frozen=True)
class WhitenedInBatch(OneReward):
    """Normalise a reward by the responses of the iteration: ``(R − mean) / std`` over all of them together.

    The statistics follow the policy: an iteration in which every response improves pays no more than the one before,
    so that scores of two iterations cannot be compared; :class:`Whitened` keeps a fixed scale. Nothing is remembered
    between iterations, and a resumed run needs no statistics. All responses of an iteration are scored together (see
    :mod:`textgym.rewards.relative`). Its mean over any batch is 0, so it tells nothing where policies are compared: log
    the reward itself beside it, with weight 0. The standard deviation has the divisor N; where all scores are equal, up
    to rounding, all are 0.

    Dense scores enter by their sums, and are treated as by :class:`Whitened`.
    """

    @property
    def name(self) -> str:
        """``whitened_NAME``."""
        return f"whitened_{reward_name(self.reward)}"

    @property
    def compares(self) -> Compared:
        """The whole iteration, or what the reward itself needs."""
        return strongest([compared(self.reward), "batch"]) or "batch"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` whitened scores."""
        totals = np.array([total for total in map(summed, scores[0]) if total is not None], np.float64)
        if not totals.size:
            return list(scores[0])
        mean, spread = float(totals.mean()), float(totals.std())
        if spread <= ROUNDING * np.abs(totals).max():
            return [None if score is None else 0.0 for score in scores[0]]
        return [_whitened(score, mean, spread) for score in scores[0]]


def _whitened(score: Score, mean: float, std: float) -> Score:
    if score is None:
        return None
    if not isinstance(score, Sequence):
        return (score - mean) / std
    scaled = [part / std for part in score]
    return [*scaled[:-1], scaled[-1] - mean / std] if scaled else scaled
