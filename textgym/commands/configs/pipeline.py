"""Settings of ``textgym pipeline``: a part for each kind of stage, and those that all stages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tyro

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.hyperparameters import (
    DEFAULT_ALGORITHM,
    Hyperparameters,
    check_hyperparameters,
    hyperparameters_class,
    variant,
)
from textgym.commands.configs.shared import (
    CheckpointEvery,
    DemonstrationCount,
    Demonstrations,
    EvalEpisodes,
    EvalEvery,
    Log,
    MaxNewTokens,
    MaxPromptLength,
    MissingEndScore,
    Model,
    Overwrite,
    PretrainingText,
    PtxBatchSize,
    PtxCoef,
    ReadTokens,
    Seed,
    SkipBad,
    SkipTokens,
    StopKL,
    StopPatience,
    StopScore,
    TaskParameters,
    Truncated,
)
from textgym.labelling.settings import PagePart
from textgym.numbers import MOST_TOKENS, SettingError, check, check_given, check_words, count, finite, random_seed
from textgym.rewards.models.settings import RewardModelSettings


@dataclass(frozen=True)
class SFTPart:
    """First stage: supervised fine-tuning, as 'textgym sft' does it."""

    enabled: bool = True
    """Run this stage; without it the loop begins with the model itself."""
    demonstrations: Demonstrations = None
    count: DemonstrationCount = None
    settings: Annotated[SFTSettings, tyro.conf.arg(name="")] = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        check_given(self, count, "count")


@dataclass(frozen=True)
class LabelsPart:
    """In each iteration: rank samples of the current policy."""

    preferences: Path | None = None
    """Existing preferences, in a file like the data of 'textgym reward-model'. The first iteration trains its reward
    model on them and ranks no samples; later iterations keep them among the comparisons."""
    labeller: str = "gold"
    """Labeller: 'gold' (of the task), 'module:function', 'path/to/file.py:function' or 'rm:DIR', whose scores order the
    completions; 'page': people rank on a page, and the loop goes on when they have answered; or 'file': the run stops,
    people fill in the ranks, and --resume continues with them."""
    prompts: int = 512
    """Prompts in each iteration; other ones than in the iterations before, while there are enough."""
    completions: int = 4
    """Samples of each prompt that are ranked together, K. Published: 4 to 9 (Ouyang 2022)."""
    temperature: float = 0.0
    """Noise of a labeller with scores, in units of the score: two texts that differ by d are ordered correctly with
    probability σ(d/temperature) (Plackett–Luce). 0 for none; equal scores then tie."""
    error_rate: float = 0.0
    """Share of the answers of a labeller with scores that are drawn uniformly from all orders instead. Published: 0.1
    (Christiano 2017)."""
    threshold: float = 0.0
    """Difference of scores below which a labeller with scores ranks two texts equal, in units of the score."""
    enough: float = 1.0
    """Share of the questions on the page whose answers are waited for; the others are not learned from. A question
    counts as answered as soon as one person has ranked or skipped it, whatever 'page.shared' and 'page.repeat' are."""
    page: PagePart = field(default_factory=PagePart)

    def __post_init__(self) -> None:
        check(self, count, "prompts")
        check(self, count, "completions", least=2)
        check(self, finite, "temperature", "threshold", low=0)
        check(self, finite, "error_rate", low=0, high=1)
        check(self, finite, "enough", above=0, high=1)
        check_words(self, "labeller")


@dataclass(frozen=True)
class RewardModelPart(RewardModelSettings):
    """In each iteration: train a reward model on all rankings so far, as 'textgym reward-model' does."""


@dataclass(frozen=True)
class TrainPart:
    """In each iteration: train the current policy by reinforcement learning, as 'textgym train' does.

    The KL is measured to the model of the first stage.
    """

    algorithm: str = DEFAULT_ALGORITHM
    """Training algorithm, by its name in 'textgym train'; the flags below are its settings."""
    total_timesteps: int = 200_000
    """Number of tokens to generate in one iteration."""
    missing_end_score: MissingEndScore = None
    pretraining: PretrainingText = None
    ptx_coef: PtxCoef = None
    ptx_batch_size: PtxBatchSize = None
    value_from_reward_model: bool = False
    """Initialise the critic from the iteration's reward model, instead of as 'value' says (Stiennon 2020)."""
    checkpoint_every: CheckpointEvery = 10
    eval_every: EvalEvery = None
    stop_score: StopScore = None
    stop_kl: StopKL = None
    stop_patience: StopPatience = None
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = field(
        default_factory=hyperparameters_class(DEFAULT_ALGORITHM)
    )

    def __post_init__(self) -> None:
        check(self, count, "total_timesteps", "checkpoint_every")
        check_given(self, count, "ptx_batch_size", "eval_every", "stop_patience")
        check_given(self, finite, "stop_score")
        check_given(self, finite, "stop_kl", above=0)
        check_given(self, finite, "missing_end_score")
        check_given(self, finite, "ptx_coef", low=0)
        check_words(self, "algorithm", "pretraining")
        check_hyperparameters(self.algorithm, self.hyperparameters)
        if self.hyperparameters.has_teacher:
            raise SettingError(
                f"algorithm={self.algorithm!r} learns from a teacher, and not from the reward model of the stage "
                "before; use 'textgym distill', or another algorithm"
            )


@dataclass(frozen=True)
class PipelineConfig:
    """Run the loop of InstructGPT: imitate, then rank samples, train a reward model, train the policy against it.

    The settings of the training algorithm are listed last; 'textgym pipeline --train.algorithm NAME --help' lists those
    of another.
    """

    out: Path
    """Directory of the run: a run for each stage, and a report of all."""
    task: str | None = None
    """Id of a task, such as textgym/Reviews-v0; gives prompts, demonstrations, a base model, gold and metrics."""
    parameters: TaskParameters = field(default_factory=dict)
    model: Model = None
    prompts: Path | None = None
    """Prompts: JSON Lines, Parquet or a directory saved by datasets, with a field 'prompt'. Default: the task's."""
    validation: Path | None = None
    """Prompts for evaluation only, in a file like 'prompts', which needs it. Default: the task's validation split."""
    max_prompt_length: MaxPromptLength = None
    max_new_tokens: MaxNewTokens = None
    truncation: Truncated = "error"
    skip_bad: SkipBad = 0
    special_tokens: ReadTokens = "text"
    skip_special_tokens: SkipTokens = False
    iterations: int = 1
    """Rounds of ranking samples, training a reward model and training the policy against it."""
    eval_episodes: EvalEpisodes = 256
    log: Log = ()
    seed: Seed = 0
    sft: SFTPart = field(default_factory=SFTPart)
    labels: LabelsPart = field(default_factory=LabelsPart)
    reward_model: RewardModelPart = field(default_factory=RewardModelPart)
    train: TrainPart = field(default_factory=TrainPart)
    overwrite: Overwrite = False
    resume: bool = False
    """Continue the run in 'out': complete stages are kept, and the one that was cut off goes on."""

    def __post_init__(self) -> None:
        check(self, count, "iterations", "eval_episodes")
        check_given(self, count, "max_prompt_length", "max_new_tokens", most=MOST_TOKENS)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model")


@cache
def train_part_class(algorithm: str) -> type[TrainPart]:
    """Return the settings of the reinforcement with an algorithm: its hyperparameters, with the published defaults.

    Raises:
        ValueError: there is no such algorithm; the nearest is named.
    """
    own = hyperparameters_class(algorithm)
    shown: Any = Annotated[own, tyro.conf.arg(name="")]
    return variant(TrainPart, algorithm=(str, lambda: algorithm), hyperparameters=(shown, own))


@cache
def pipeline_config_class(algorithm: str) -> type[PipelineConfig]:
    """Return the settings of ``textgym pipeline`` with an algorithm in its reinforcement.

    Raises:
        ValueError: there is no such algorithm; the nearest is named.
    """
    part = train_part_class(algorithm)
    return variant(PipelineConfig, train=(part, part))
