"""The worth of tuning: scores to expect of a search with fewer trials, and the price of one setting for all tasks.

Trials are settings drawn at random from one search space, so every subset of k of the n trials is a search with k
trials, and all are equally probable. The mean over all of them is exact and needs no resampling. A search of ours
always holds the default setting and spreads the others evenly: its subsets stand for searches that do neither.

A trial that failed has no score. Pass the score that it counts as, the worst that a run can have: leaving it out would
make a space look safer than it is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from textgym.types import FloatArray


def expected_best(scores: ArrayLike) -> FloatArray:
    """Return the expected best score of k = 1 … n trials, ``[n]``.

    The mean of the best over all subsets of k, which is unbiased for a search with k trials (Tang et al., "Showing Your
    Work Doesn't Always Work", ACL 2020). Dodge et al. ("Show Your Work", EMNLP 2019) draw k trials with replacement:
    the i-th worst of n is then the best with probability (i/n)ᵏ − ((i − 1)/n)ᵏ. The best trial is missing from such a
    draw even at k = n, so that curve is lower from k = 2 on, and equal at k = 1, the mean.

    Args:
        scores: ``[n]``, one per trial, the higher the better.

    Raises:
        ValueError: no trial, or a score that is not finite.
    """
    ranked = np.sort(_checked("scores", scores, 1))
    return _best_of(len(ranked)) @ ranked


def sensitivity(scores: ArrayLike) -> float:
    """Return the gain in mean score from a setting per task, over the best single setting for all tasks.

    This is the sensitivity of Adkins et al. ("A Method for Evaluating Hyperparameter Sensitivity in Reinforcement
    Learning", NeurIPS 2024). It is 0 if one setting is best on every task. The best of noisy scores is too good by
    chance, the more so on a single task, so noise adds to it: compare algorithms at equal numbers of trials and runs.

    Args:
        scores: ``[n_trials, n_tasks]``, normalised so that tasks can be averaged.

    Raises:
        ValueError: no trial, no task, or a score that is not finite.
    """
    table = _checked("scores", scores, 2)
    return float(table.max(0).mean() - table.mean(1).max())


def _best_of(trials: int) -> FloatArray:
    """Return the probability that the i-th worst of all trials is the best of k drawn, ``[k - 1, i - 1]``."""
    numbers = range(1, trials + 1)
    return np.array([[math.comb(i - 1, k - 1) / math.comb(trials, k) for i in numbers] for k in numbers])


def _checked(name: str, values: ArrayLike, dimensions: int) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions or not array.size:
        shape = "[n_trials]" if dimensions == 1 else "[n_trials, n_tasks]"
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}, at least one trial")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds {(~np.isfinite(array)).sum()} numbers that are not finite; give a failed trial the worst"
            " score that a run can have"
        )
    return array
