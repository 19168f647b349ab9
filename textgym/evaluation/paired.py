"""Comparison of responses to the same prompts: win rates, and the spread over paraphrases."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from textgym.evaluation.measured import Measured, mean_over_prompts, share_over_prompts
from textgym.intervals import wins
from textgym.types import FloatArray


@dataclass(frozen=True)
class WinRate:
    """Share of pairs that A wins against B.

    Attributes:
        rate: wins and half of the ties, over all pairs, with its interval over prompts.
        won: share of pairs that A wins.
        tied: share of ties.
    """

    rate: Measured
    won: float
    tied: float

    @property
    def row(self) -> dict[str, Any]:
        """The win rate as an object of JSON."""
        lost = 1.0 - self.won - self.tied
        return {"rate": self.rate.row, "won": self.won, "tied": self.tied, "lost": max(lost, 0.0)}


ABOUT = "wins plus half of the ties, over prompts"


def win_rate(outcomes: ArrayLike, prompts: Sequence[Hashable]) -> WinRate:
    """Compute the win rate of A from pairs that were judged.

    The interval is Clopper and Pearson's for as many pairs as would have the error that is seen over prompts: the pairs
    of one prompt are not independent. See :func:`textgym.intervals.share_interval`.

    Args:
        outcomes: ``[n]`` 1 where A is better, 0 where B is, ½ for a tie.
        prompts: ``[n]`` the prompt of each pair.

    Raises:
        ValueError: there is no pair, or an outcome is none of these.
    """
    array = np.asarray(outcomes, np.float64)
    if not len(array):
        raise ValueError("outcomes is empty; expected at least one pair")
    if not np.isin(array, (0.0, 0.5, 1.0)).all():
        bad = array[~np.isin(array, (0.0, 0.5, 1.0))][0]
        raise ValueError(f"outcomes holds {bad!r}; expected 1 where A is better, 0 where B is, 0.5 for a tie")
    return WinRate(share_over_prompts(array, prompts, ABOUT), float((array == 1).mean()), float((array == 0.5).mean()))


def win_rate_by_score(a: ArrayLike, b: ArrayLike, prompts: Sequence[Hashable]) -> WinRate:
    """Compute the win rate of A under a reward: each response of A against each of B to the same prompt.

    Args:
        a: ``[N, S]`` scores of the responses of A.
        b: ``[N, R]`` scores of the responses of B to the same prompts.
        prompts: ``[N]`` the prompts.
    """
    first, second = (np.asarray(scores, np.float64) for scores in (a, b))
    outcomes: FloatArray = wins(first[:, :, None] - second[:, None, :])
    pairs = outcomes[0].size if len(outcomes) else 0
    return win_rate(outcomes.reshape(-1), [prompt for prompt in prompts for _ in range(pairs)])


@dataclass(frozen=True)
class Spread:
    """Dependence of the score on the wording of a question.

    Attributes:
        deviation: standard deviation of the mean score over the wordings of a question, its mean over questions.
        range: the best wording less the worst, its mean over questions.
    """

    deviation: Measured
    range: Measured


def spread_over_wordings(scores: ArrayLike, questions: Sequence[Hashable], wordings: Sequence[Hashable]) -> Spread:
    """Compute the spread of scores over paraphrased prompts.

    Samples of one wording are averaged first. Their noise stays in both numbers: with greedy decoding there is none.
    Questions with a single wording are left out.

    Source of the question: Sclar et al. 2023, arXiv:2310.11324.

    Args:
        scores: ``[n]`` scores of responses.
        questions: ``[n]`` the question of each.
        wordings: ``[n]`` the wording of each.
    """
    cells: dict[Hashable, dict[Hashable, list[float]]] = {}
    for score, question, wording in zip(np.asarray(scores, np.float64), questions, wordings, strict=True):
        cells.setdefault(question, {}).setdefault(wording, []).append(float(score))
    means = {question: [np.mean(own) for own in found.values()] for question, found in cells.items()}
    several = {question: own for question, own in means.items() if len(own) > 1}
    deviations = [np.std(own, ddof=1) for own in several.values()]
    ranges = [max(own) - min(own) for own in several.values()]
    return Spread(
        mean_over_prompts(deviations, list(several), "standard deviation over wordings, mean over questions"),
        mean_over_prompts(ranges, list(several), "best less worst wording, mean over questions"),
    )
