"""Normalisation of a reward model on samples: mean 0 and standard deviation 1, so that one β fits every version of it.

Preferences fix a reward model up to its origin only, and the spread of its scores grows with its training. Source:
Ziegler et al. 2019, arXiv:1909.08593, section 2.1, who set gain and bias of the reward on samples of the language model
that the KL is measured to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textgym.rewards.models.ensemble import RewardEnsemble, combine_scores
from textgym.rewards.models.model import RewardModel
from textgym.types import FloatArray, Messages, Prompt

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class NormalisedReward:
    """Reward function: the scores of a reward model or an ensemble, shifted and scaled. See :func:`normalise`.

    Attributes:
        ensemble: the members, and how they are combined; a single model is an ensemble of one.
        means: ``[m]`` subtracted from each member's scores.
        deviations: ``[m]``; each member's scores are divided by its own.
        mean: subtracted from the combined scores.
        deviation: the combined scores are divided by it.
        name: the name in logs.
    """

    ensemble: RewardEnsemble
    means: FloatArray
    deviations: FloatArray
    mean: float
    deviation: float
    name: str = "reward_model"

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> NormalisedReward:
        """Return a copy for a policy with the given tokenizer."""
        return replace(self, ensemble=self.ensemble.bind(tokenizer))

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that each member can read the task's texts: see :meth:`textgym.rewards.RewardModel.check_lengths`."""
        self.ensemble.check_lengths(prompts, max_new_tokens, end_token_ids, stops)

    def __call__(
        self,
        prompts: list[str | Messages],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float]:
        """Return ``N`` normalised scores; see :meth:`textgym.rewards.RewardModel.__call__`."""
        raw = [m(prompts, completions, completion_ids=completion_ids, **columns) for m in self.ensemble.members]
        scores = (_combined(self.ensemble, np.asarray(raw), self.means, self.deviations) - self.mean) / self.deviation
        return [float(score) for score in scores]


def normalise(
    model: RewardModel | RewardEnsemble,
    prompts: Sequence[str | Messages],
    completions: Sequence[str],
    ended: Sequence[bool],
) -> NormalisedReward:
    """Normalise a reward model on samples, on which its scores then have mean 0 and standard deviation 1.

    The members of an ensemble are normalised one by one, so that they agree in origin and scale, then combined; the
    combination, whose deviation is smaller where members differ, is normalised once more. Deviations are those of the
    samples (divided by N). Scores that are all the same, up to rounding, keep their scale.

    Args:
        model: the model; it is not changed.
        prompts: ``N`` prompts.
        completions: ``N`` texts that follow them.
        ended: ``N``, True if the text ended, False if it was cut off.
    """
    ensemble = model if isinstance(model, RewardEnsemble) else RewardEnsemble((model,))
    raw = member_scores(ensemble, prompts, completions, ended)
    means, deviations = raw.mean(axis=1), np.array([_scale(own) for own in raw])
    combined = _combined(ensemble, raw, means, deviations)
    return NormalisedReward(ensemble, means, deviations, float(combined.mean()), _scale(combined))


def member_scores(
    ensemble: RewardEnsemble,
    prompts: Sequence[str | Messages],
    completions: Sequence[str],
    ended: Sequence[bool],
) -> FloatArray:
    """Return the scores of ``N`` texts by each member, ``[m, N]``."""
    # Without token ids a reward model encodes the texts itself.
    columns = {"completion_ids": [[]] * len(prompts), "finish_reason": ["stop" if own else "length" for own in ended]}
    return np.array([member(list(prompts), list(completions), **columns) for member in ensemble.members])  # type: ignore[arg-type]


def _combined(ensemble: RewardEnsemble, raw: FloatArray, means: FloatArray, deviations: FloatArray) -> FloatArray:
    own = (raw - means[:, None]) / deviations[:, None]
    return combine_scores(own, ensemble.combine, ensemble.uncertainty_weight)


def _scale(scores: FloatArray) -> float:
    # The mean of equal numbers may differ from them by rounding, and rounding is no scale.
    deviation, rounding = float(scores.std()), 1e-6 * max(1.0, float(np.abs(scores).max()))
    return deviation if deviation > rounding else 1.0
