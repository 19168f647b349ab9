"""Reward-model ensembles: mean, minimum, or mean minus weighted variance of the members' scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from textgym.files import replaced_directory, write_json
from textgym.numbers import check, finite
from textgym.rewards.models.model import READS_FEEDBACK, RewardModel
from textgym.types import Combine, FloatArray, Messages, Prompt

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedTokenizerBase

ENSEMBLE = "ensemble.json"
CHECKPOINT = "checkpoint"  # the folder of a run's directory that holds the trained model


def combine_scores(scores: ArrayLike, combine: Combine, uncertainty_weight: float = 0.0) -> FloatArray:
    """Combine the scores of ``m`` models into one score for each completion.

    Args:
        scores: ``[m, N]``.
        combine: ``"mean"``; ``"min"``; or ``"uncertainty"``: mean − λ · variance, with the population variance of
            the ``m`` scores (divided by ``m``).
        uncertainty_weight: λ.

    Returns:
        ``[N]``.

    Source: Coste et al. 2023, arXiv:2310.02743, section 3.2.
    """
    s = np.asarray(scores, dtype=np.float64)
    combined: FloatArray = s.min(axis=0) if combine == "min" else s.mean(axis=0)
    return combined - uncertainty_weight * s.var(axis=0) if combine == "uncertainty" else combined


@dataclass(frozen=True, eq=False)
class RewardEnsemble:
    """Reward function that combines several reward models.

    Preferences determine scores only up to a constant, so members are comparable only if each has an offset: see
    :meth:`textgym.rewards.RewardModel.set_offset`.

    Attributes:
        members: the models.
        combine: see :func:`combine_scores`.
        uncertainty_weight: λ, for ``combine="uncertainty"``.
        name: the name in logs.
    """

    members: tuple[RewardModel, ...]
    combine: Combine = "mean"
    uncertainty_weight: float = 0.1
    name: str = "reward_model"

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("members: got none, expected at least one reward model")
        if self.combine not in get_args(Combine):
            raise ValueError(f"combine={self.combine!r} is not one of {', '.join(get_args(Combine))}")
        check(self, finite, "uncertainty_weight", low=0)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        combine: Combine | None = None,
        uncertainty_weight: float | None = None,
        **settings: Any,
    ) -> RewardEnsemble:
        """Open a saved ensemble.

        Args:
            directory: a directory that :meth:`save` wrote.
            combine: replaces the saved value.
            uncertainty_weight: replaces the saved value.
            **settings: settings of the members; see :meth:`textgym.rewards.RewardModel.load`.

        Raises:
            FileNotFoundError: the directory holds no ensemble, or a member is missing.
            ValueError: ``ensemble.json`` is damaged.
        """
        path = Path(directory) / ENSEMBLE
        if not path.is_file():
            raise FileNotFoundError(f"no ensemble at {str(directory)!r}: it has no {ENSEMBLE}")
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            names = [str(name) for name in saved["members"]]
            how = saved["combine"] if combine is None else combine
            weight = float(saved["uncertainty_weight"] if uncertainty_weight is None else uncertainty_weight)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); train it again") from error
        return cls(tuple(load_text_model(path.parent / name, **settings) for name in names), how, weight)

    def save(self, directory: str | Path) -> None:
        """Write a directory with one reward-model directory for each member, completely or not at all.

        Raises:
            FileExistsError: ``directory`` holds something other than a saved ensemble.
        """
        target = Path(directory)
        is_empty = target.is_dir() and not any(target.iterdir())
        if target.exists() and not is_empty and not (target / ENSEMBLE).is_file():
            raise FileExistsError(f"{target} exists and is not a saved ensemble: choose another directory")
        names = [f"member_{i}" for i in range(len(self.members))]
        with replaced_directory(target) as scratch:
            for name, member in zip(names, self.members, strict=True):
                member.save(scratch / name)
            described = {"combine": self.combine, "uncertainty_weight": self.uncertainty_weight, "members": names}
            write_json(scratch / ENSEMBLE, described)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> RewardEnsemble:
        """Return a copy of this ensemble for a policy with the given tokenizer."""
        return replace(self, members=tuple(member.bind(tokenizer) for member in self.members))

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that each member can read the task's texts: see :meth:`textgym.rewards.RewardModel.check_lengths`."""
        for member in self.members:
            member.check_lengths(prompts, max_new_tokens, end_token_ids, stops)

    def __call__(
        self,
        prompts: list[str | Messages],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float]:
        """Return ``N`` combined scores; see :meth:`textgym.rewards.RewardModel.__call__`."""
        return self._combined([m(prompts, completions, completion_ids=completion_ids, **columns) for m in self.members])

    def score(self, prompts: Sequence[str | Messages], completions: Sequence[str | Messages]) -> list[float]:
        """Return ``N`` combined scores of texts that ended."""
        return self._combined([member.score(prompts, completions) for member in self.members])

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Return ``N`` combined scores of token sequences, which are read unchanged."""
        return self._combined([member.score_ids(sequences) for member in self.members])

    def _combined(self, scores: list[list[float]]) -> list[float]:
        return [float(score) for score in combine_scores(scores, self.combine, self.uncertainty_weight)]


def load_reward_model(directory: str | Path, **settings: Any) -> RewardModel | RewardEnsemble:
    """Open a reward model, an ensemble, or the result of a ``textgym reward-model`` run.

    Raises:
        FileNotFoundError, ValueError: see :meth:`RewardModel.load` and :meth:`RewardEnsemble.load`. ValueError also for
            a model of feedback on single tokens.
    """
    checkpoint = Path(directory) / CHECKPOINT
    # A run keeps its model in a folder; the directory of a model is the model itself.
    source = checkpoint if checkpoint.is_dir() else directory
    if (Path(source) / ENSEMBLE).is_file():
        return RewardEnsemble.load(source, **settings)
    return load_text_model(source, **settings)


def load_text_model(directory: str | Path, **settings: Any) -> RewardModel:
    """Open a reward model of whole texts; see :meth:`RewardModel.load`.

    Raises:
        ValueError: it is a model of feedback on single tokens.
    """
    model = RewardModel.load(directory, **settings)
    if hasattr(model.model.config, READS_FEEDBACK):
        raise ValueError(
            f"{str(directory)!r} predicts feedback on each token, and its last score is no score of a text; use it as "
            f"tamer:{directory}"
        )
    return model
