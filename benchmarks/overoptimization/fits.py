"""Gao's forms of over-optimisation, and which of them a curve follows.

With d = √KL and R the gain over the reference, best-of-n follows R = d·(α − β·d) and RL follows R = d·(α − β·log d): α
is how fast a little pressure pays, β how fast more of it spoils it. Both are linear in α and β, so least squares find
them directly.

Source: Gao et al. 2022, arXiv 2210.10760, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from textgym.types import FloatArray

Form: TypeAlias = Literal["best-of-n", "rl"]


@dataclass(frozen=True)
class Fit:
    """A form fitted to a curve.

    Attributes:
        form: which.
        alpha: α, gain per √nat.
        beta: β.
        r2: share of the gains' variance that it explains; negative where their mean would do better.
        aic: Akaike's criterion under Gaussian errors, up to a constant of the points; smaller is better.
    """

    form: Form
    alpha: float
    beta: float
    r2: float
    aic: float

    def gain(self, d: ArrayLike) -> FloatArray:
        """R at ``d``, which is above 0."""
        gains: FloatArray = design(self.form, np.asarray(d, np.float64)) @ np.array([self.alpha, self.beta])
        return gains


def design(form: Form, d: FloatArray) -> FloatArray:
    """``[m, 2]``: what α and β are multiplied by at each ``d``."""
    return np.stack([d, -(d**2) if form == "best-of-n" else -d * np.log(d)], axis=-1)


def fit_form(form: Form, d: ArrayLike, gain: ArrayLike) -> Fit:
    """Least squares.

    Args:
        form: which.
        d: ``[m]`` √KL; points at 0 say nothing, as both forms are 0 there, and are left out.
        gain: ``[m]`` R, the reward less the reference's.

    Raises:
        ValueError: the form is unknown, or fewer than 3 points lie above 0.
    """
    if form not in get_args(Form):
        raise ValueError(f"form={form!r} is not one of {', '.join(get_args(Form))}")
    far, gains = np.asarray(d, np.float64), np.asarray(gain, np.float64)
    inside = far > 0
    far, gains = far[inside], gains[inside]
    if len(far) < 3:
        raise ValueError(f"d: {len(far)} points lie above 0; two numbers are fitted, so expected at least 3")
    matrix = design(form, far)
    (alpha, beta), *_ = np.linalg.lstsq(matrix, gains, rcond=None)
    squares = float(((gains - matrix @ [alpha, beta]) ** 2).sum())
    spread = float(((gains - gains.mean()) ** 2).sum())
    # A perfect fit of made-up numbers has no errors whose logarithm could be taken.
    aic = len(far) * np.log(max(squares / len(far), np.finfo(float).tiny)) + 4
    return Fit(form, float(alpha), float(beta), 1 - squares / spread if spread else 1.0, float(aic))
