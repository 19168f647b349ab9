"""Gao's forms of over-optimisation, fitted to a curve and compared.

With d = √KL and R the gain over the reference, best-of-n follows R = d·(α − β·d) and RL follows R = d·(α − β·log d): α
is how fast a little pressure pays, β how fast more of it spoils it. Both are linear in α and β, so least squares find
them directly. Where the curve begins may be one more unknown: rollouts are of other prompts than those that the
reference was measured on, and a small error there would decide which form seems to fit.

Source: Gao et al. 2022, arXiv 2210.10760, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from textgym.types import FloatArray

Form: TypeAlias = Literal["best-of-n", "rl"]


@dataclass(frozen=True)
class Fit:
    """A form fitted to a curve.

    Attributes:
        form: form of the curve.
        start: the reference's reward.
        alpha: α, gain per √nat.
        beta: β.
        r2: share of the rewards' variance that it explains; negative where their mean would do better.
        aic: Akaike's criterion under independent Gaussian errors, up to a constant of the points; smaller is better.
    """

    form: Form
    start: float
    alpha: float
    beta: float
    r2: float
    aic: float

    def reward(self, d: ArrayLike) -> FloatArray:
        """Return the reward at ``d``."""
        gains: FloatArray = design(self.form, np.asarray(d, np.float64)) @ np.array([self.alpha, self.beta])
        return self.start + gains


def design(form: Form, d: FloatArray) -> FloatArray:
    """Return the factors of α and β at each ``d``, ``[m, 2]``."""
    return np.stack([d, -(d**2) if form == "best-of-n" else -xlogy(d, d)], axis=-1)


def enough_points(d: ArrayLike, start: float | None = None) -> bool:
    """Return True if more points are above 0 than numbers are fitted; see :func:`fit_form`."""
    return bool((np.asarray(d, np.float64) > 0).sum() > _unknowns(start))


def _unknowns(start: float | None) -> int:
    return 3 if start is None else 2


def fit_form(form: Form, d: ArrayLike, reward: ArrayLike, start: float | None = None) -> Fit:
    """Fit a form by least squares.

    Args:
        form: form of the curve.
        d: ``[m]`` √KL.
        reward: ``[m]``.
        start: the reference's reward, where it is known; then points at 0 say nothing and are left out. Else it is
            fitted, too.

    Raises:
        ValueError: the form is unknown, or no more points than unknowns lie above 0.
    """
    if form not in get_args(Form):
        raise ValueError(f"form={form!r} is not one of {', '.join(get_args(Form))}")
    away, rewards = np.asarray(d, np.float64), np.asarray(reward, np.float64)
    unknowns = _unknowns(start)
    if not enough_points(away, start):
        raise ValueError(
            f"d: {(away > 0).sum()} points lie above 0; {unknowns} numbers are fitted, so expected at least "
            f"{unknowns + 1}"
        )
    if start is None:
        matrix = np.column_stack([design(form, away), np.ones_like(away)])
        alpha, beta, begin = np.linalg.lstsq(matrix, rewards, rcond=None)[0].tolist()
    else:
        away, rewards = away[away > 0], rewards[away > 0]
        alpha, beta = np.linalg.lstsq(design(form, away), rewards - start, rcond=None)[0].tolist()
        begin = start
    squares = float(((rewards - Fit(form, begin, alpha, beta, 0, 0).reward(away)) ** 2).sum())
    spread = float(((rewards - rewards.mean()) ** 2).sum())
    # A perfect fit, as of made-up numbers, has no error to take the logarithm of.
    aic = len(away) * np.log(max(squares / len(away), np.finfo(float).tiny)) + 2 * unknowns
    return Fit(form, begin, alpha, beta, 1 - squares / spread if spread else 1.0, float(aic))
