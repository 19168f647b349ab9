"""Several reward models as one: their mean, their minimum, or their mean less their disagreement."""

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
from textgym.rewards.model import RewardModel
from textgym.types import Combine, FloatArray, Messages, Prompt

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedTokenizerBase

ENSEMBLE = "ensemble.json"
CHECKPOINT = "checkpoint"  # where a run's directory holds what it learned


def combine_scores(scores: ArrayLike, combine: Combine, uncertainty_weight: float = 0.0) -> FloatArray:
    """One score for each completion, from those of ``m`` models.

    ``mean``; ``min``; or ``uncertainty``: mean − λ · variance, the variance being that of the ``m`` scores about
    their mean, divided by ``m``.

    Args:
        scores: ``[m, N]``.
        combine: how.
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
    """A reward function that asks several reward models.

    A preference fixes scores only up to a constant, so members can be compared only if each has its offset: see
    :meth:`textgym.rewards.RewardModel.set_offset`.

    Attributes:
        members: the models.
        combine: see :func:`combine_scores`.
        uncertainty_weight: λ, for ``combine="uncertainty"``.
        name: under which it is logged.
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
            directory: what :meth:`save` wrote.
            combine: instead of what was saved.
            uncertainty_weight: instead of what was saved.
            **settings: of the members, as :meth:`textgym.rewards.RewardModel.load` takes them.

        Raises:
            FileNotFoundError: it is no ensemble, or a member is missing.
            ValueError: its description is damaged.
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
        return cls(tuple(RewardModel.load(path.parent / name, **settings) for name in names), how, weight)

    def save(self, directory: str | Path) -> None:
        """Write a directory with a reward model's directory for each member, completely or not at all.

        Raises:
            FileExistsError: something other than a saved ensemble stands there.
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
        """Return the same ensemble for a policy with this tokenizer."""
        return replace(self, members=tuple(member.bind(tokenizer) for member in self.members))

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Refuse a task that a member cannot read: see :meth:`textgym.rewards.RewardModel.check_lengths`."""
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
        """``N`` combined scores; see :meth:`textgym.rewards.RewardModel.__call__`."""
        return self._combined([m(prompts, completions, completion_ids=completion_ids, **columns) for m in self.members])

    def score(self, prompts: Sequence[str | Messages], completions: Sequence[str | Messages]) -> list[float]:
        """``N`` combined scores of texts that ended."""
        return self._combined([member.score(prompts, completions) for member in self.members])

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """``N`` combined scores of token sequences that are read as they are."""
        return self._combined([member.score_ids(sequences) for member in self.members])

    def _combined(self, scores: list[list[float]]) -> list[float]:
        return [float(score) for score in combine_scores(scores, self.combine, self.uncertainty_weight)]


def load_reward_model(directory: str | Path, **settings: Any) -> RewardModel | RewardEnsemble:
    """Open a reward model, an ensemble, or what a run of ``textgym reward-model`` learned.

    Raises:
        FileNotFoundError, ValueError: as :meth:`RewardModel.load` and :meth:`RewardEnsemble.load`.
    """
    checkpoint = Path(directory) / CHECKPOINT
    source = checkpoint if checkpoint.is_dir() else directory
    if (Path(source) / ENSEMBLE).is_file():
        return RewardEnsemble.load(source, **settings)
    return RewardModel.load(source, **settings)
