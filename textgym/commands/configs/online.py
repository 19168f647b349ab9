"""Settings of ``textgym online``: those of ``textgym train``, with labels and a reward model in place of a reward."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from textgym.commands.configs.distill import Hidden
from textgym.commands.configs.hyperparameters import cautious, hyperparameters_class, variant
from textgym.commands.configs.train import TrainConfig
from textgym.labelling.settings import PagePart
from textgym.numbers import SettingError, check, check_given, check_words, count, finite
from textgym.rewards.labels.acquisition import Acquisition, check_acquisition
from textgym.rewards.labels.schedules import LabelSchedule
from textgym.rewards.models.settings import FitSettings
from textgym.types import Combine

PAGE, GOLD, SIMULATED = "page", "gold", "simulated"
ERROR_RATE = 0.1
"""Error rate of the labeller 'simulated' (Christiano 2017)."""


@dataclass(frozen=True)
class OnlineLabelsPart:
    """Questions: samples of the current policy that a labeller ranks, while training goes on."""

    count: int = 500
    """Number of questions in all. The first tenth is answered before training begins."""
    completions: int = 4
    """Samples of each prompt that are ranked together, K."""
    acquisition: Acquisition = "disagreement"
    """Choice of the questions among candidates: 'random'; by 'disagreement', the variance of P(a before b) over the
    members of the reward model (Christiano 2017); or by 'information', that of the label about the member."""
    oversample: int = 10
    """Candidates for each question that is asked. Published: 10 (Christiano 2017)."""
    schedule: LabelSchedule = "hyperbolic"
    """Rate of questions in the course of training: 'constant', or falling as 1/(1 + t) ('hyperbolic') or 1/(1 + t²)
    ('inverse-quadratic') from t = 0 to 1."""
    retrain_after: int | None = None
    """New answers after which the reward model is trained anew, on all of them; ties of all completions and skipped
    questions do not count. Default: a tenth of 'count'."""
    temperature: float = 0.0
    """Noise of a labeller with scores, in units of the score: two texts that differ by d are ordered correctly with
    probability σ(d/temperature) (Plackett–Luce). 0 for none; equal scores then tie."""
    error_rate: float | None = None
    """Share of the answers of a labeller with scores that are drawn uniformly from all orders instead. Default: 0.1 for
    the labeller 'simulated' (Christiano 2017), 0 for others."""
    threshold: float = 0.0
    """Difference of scores below which a labeller with scores ranks two texts equal, in units of the score."""

    def __post_init__(self) -> None:
        check(self, count, "count", "oversample")
        check(self, count, "completions", least=2)
        check_given(self, count, "retrain_after")
        check(self, finite, "temperature", "threshold", low=0)
        check_given(self, finite, "error_rate", low=0, high=1)


@dataclass(frozen=True)
class OnlineRewardModelPart(FitSettings):
    """Reward model: an ensemble that is trained anew, from the initial policy, on all answers so far."""

    epochs: int = 8
    """Passes over the answers. Few answers need several; many of them overfit quickly."""
    ensemble: int = 3
    """Number of members, each with a head and an order of the data of its own. Published: 3 (Christiano 2017)."""
    combine: Combine = "mean"
    """Combination of the members' scores: 'mean', 'min', or 'uncertainty' (mean less weighted variance)."""
    uncertainty_weight: float = 0.1
    """Weight λ of the members' variance, for 'uncertainty'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "ensemble")
        check(self, finite, "uncertainty_weight", low=0)


@dataclass(frozen=True)
class OnlineConfig(TrainConfig):
    """Train a policy on what people prefer, while they are asked: labelling page, reward model and RL in one command.

    The learner asks about samples of its policy, people answer on the page of 'textgym label', the reward model is
    trained anew on the answers, and the learner takes the newest one before each iteration. The three work at the same
    time and talk through the run's directory alone. The algorithm's own settings are listed last; 'textgym online
    --algorithm NAME --help' lists those of another.
    """

    labeller: str = PAGE
    """Labeller: 'page' (people, in a browser); 'gold', the task's true reward, or 'simulated', the same with errors; or
    'module:function', 'path/to/file.py:function' or 'rm:DIR', whose scores order the completions."""
    background: bool = False
    """Let a labeller with scores answer, and the reward model train, in processes of their own while the policy trains,
    as people do. Otherwise they take turns with it, and the seed repeats the run."""
    replay: Path | None = None
    """Run of this command to repeat bit for bit: its answers, and its reward models in the iterations that took them.
    Give the same settings and another 'out'."""
    reward: Hidden[str | None] = None
    reward_timeout: Hidden[float | None] = None
    labels: OnlineLabelsPart = field(default_factory=OnlineLabelsPart)
    page: PagePart = field(default_factory=PagePart)
    reward_model: OnlineRewardModelPart = field(default_factory=OnlineRewardModelPart)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_words(self, "labeller")
        check_acquisition(self.labels.acquisition, self.reward_model.ensemble)
        if self.labeller == PAGE and (self.labels.temperature or self.labels.error_rate or self.labels.threshold):
            raise SettingError(
                "labeller='page' is people, who bring their own noise; leave out labels.temperature, labels.error_rate "
                "and labels.threshold, or pass --labeller simulated"
            )
        if self.task is None and self.labeller in (GOLD, SIMULATED):
            raise SettingError(
                f"labeller={self.labeller!r} is a task's true reward; without --task pass --labeller with 'page', "
                "path/to/file.py:function, module:function or rm:DIR"
            )
        if self.hyperparameters.has_teacher:
            raise SettingError(
                f"algorithm={self.algorithm!r} learns from a teacher, and not from a reward model; use 'textgym "
                "distill', or another algorithm"
            )

    @property
    def in_background(self) -> bool:
        """True if labeller and reward trainer work in processes of their own."""
        return self.background or self.labeller == PAGE


@cache
def online_config_class(algorithm: str) -> type[OnlineConfig]:
    """Return the settings of ``textgym online`` with an algorithm: its hyperparameters, with cautious defaults.

    Raises:
        ValueError: there is no such algorithm; the nearest is named.
    """
    own: Any = Annotated[hyperparameters_class(algorithm), tyro.conf.arg(name="")]
    made = (own, partial(cautious, algorithm))
    return variant(OnlineConfig, algorithm=(str, lambda: algorithm), hyperparameters=made)
