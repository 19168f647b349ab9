"""Settings of ``textgym train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from textgym.commands.configs.hyperparameters import (
    DEFAULT_ALGORITHM,
    Hyperparameters,
    cautious,
    check_hyperparameters,
    hyperparameters_class,
    variant,
)
from textgym.commands.configs.shared import (
    CheckpointEvery,
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
    Resume,
    Seed,
    SkipBad,
    SkipTokens,
    StopKL,
    StopPatience,
    StopScore,
    Truncated,
)
from textgym.numbers import (
    LONGEST_WAIT,
    MOST_TOKENS,
    SettingError,
    check,
    check_given,
    check_words,
    count,
    finite,
    random_seed,
)


@dataclass(frozen=True)
class TrainConfig:
    """Train a language model by reinforcement learning against any reward, with a KL penalty to its starting point.

    The algorithm's own settings are listed last; 'textgym train --algorithm NAME --help' lists those of another.
    '--preset NAME' begins with published settings, such as those of rl4lms/imdb-ppo (docs/migrating.md); --config and
    other flags win.
    """

    out: Path
    """Directory of the run: configuration, metrics, samples, checkpoint, report."""
    task: str | None = None
    """Id of a task, such as textgym/Reviews-v0; gives prompts, sizes, the reward 'gold' and a base model."""
    parameters: dict[str, int | float | str] = field(default_factory=dict)
    """Parameters of the task, such as 'name chain_sum size 200' of textgym/ReasoningGym-v0. A task's parameter 'model'
    is given by --model."""
    model: Model = None
    prompts: Path | None = None
    """Prompts: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with a field 'prompt'. Other fields
    reach the reward."""
    validation: Path | None = None
    """Prompts for evaluation only, in a file like 'prompts'. Default: the task's validation split, if the task's own
    prompts are used and it has one; otherwise the training prompts."""
    reward: str | None = None
    """Reward: 'module:function', 'path/to/file.py:function', 'rm:DIR' (a reward model), 'clf:DIR,label=LABEL' (a
    classifier), 'tamer:DIR' (a model of feedback on tokens) or a NAME, each with an optional ',weight'; several are
    separated by spaces in one quoted string. Default: the task's gold reward; distill needs none."""
    reward_timeout: float | None = None
    """Maximum time of one call of a reward, in seconds; a longer one ends the run with an error that names the reward.
    Default: no limit."""
    reference: str | None = None
    """Reference of the KL: a directory, a run or a hub id of a model with the same tokens, or 'without-adapters', the
    model below the adapters of 'model'. It is the teacher of distill. Default: the model as it is before training."""
    algorithm: str = DEFAULT_ALGORITHM
    """Training algorithm: ppo, nlpo, a2c, trpo, reinforce, reinforce++, remax, rloo, rloo-clipped, grpo,
    grpo-published, dr-grpo, dapo, gspo, luspo, gmpo, cispo, dppo, sapo, vespo, maxrl, a-star-po, best-of-n (distilled),
    expert-iteration, or for feedback on each token coach, e-coach or deep-coach."""
    total_timesteps: int = 200_000
    """Number of tokens to generate."""
    max_prompt_length: MaxPromptLength = None
    max_new_tokens: MaxNewTokens = None
    truncation: Truncated = "error"
    skip_bad: SkipBad = 0
    special_tokens: ReadTokens = "text"
    skip_special_tokens: SkipTokens = False
    missing_end_score: MissingEndScore = None
    pretraining: PretrainingText = None
    ptx_coef: PtxCoef = None
    ptx_batch_size: PtxBatchSize = None
    eval_episodes: EvalEpisodes = 256
    eval_every: EvalEvery = None
    checkpoint_every: CheckpointEvery = 10
    keep_last: int | None = None
    """Number of older checkpoints to keep, as 'checkpoints/iteration-000040'. Default: none."""
    keep_best: str | None = None
    """Metric of the evaluations that chooses the checkpoint in 'best': 'score', 'gold' or another that is measured;
    'min-kl' or 'min-length' where less is better. Needs 'eval_every'. Default: no best is kept."""
    stop_score: StopScore = None
    stop_kl: StopKL = None
    stop_patience: StopPatience = None
    kl_horizon: float | None = None
    """Episodes over which an adaptive beta (kl_target) changes by at most 20 %. Default: 10,000 (Ziegler 2019)."""
    log: Log = ()
    seed: Seed = 0
    overwrite: Overwrite = False
    resume: Resume = False
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = field(
        default_factory=partial(cautious, DEFAULT_ALGORITHM)
    )

    def __post_init__(self) -> None:
        check(self, count, "total_timesteps", "eval_episodes", "checkpoint_every")
        check_given(self, count, "max_prompt_length", "max_new_tokens", most=MOST_TOKENS)
        check_given(self, count, "ptx_batch_size", "eval_every", "keep_last", "stop_patience")
        check_given(self, finite, "stop_score")
        check_given(self, finite, "stop_kl", above=0)
        check_given(self, finite, "missing_end_score")
        check_given(self, finite, "ptx_coef", low=0)
        check_given(self, finite, "kl_horizon", above=0)
        check_given(self, finite, "reward_timeout", above=0, high=LONGEST_WAIT)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "reward", "reference", "algorithm", "pretraining", "keep_best")
        check_hyperparameters(self.algorithm, self.hyperparameters)
        if self.kl_horizon is not None and self.hyperparameters.kl_target is None:
            raise SettingError(f"kl_horizon={self.kl_horizon} is for a beta that is steered; pass --kl-target, too")
        if self.hyperparameters.has_teacher and self.reference is None:
            raise SettingError(f"reference=None, and {self.algorithm} needs a teacher; pass --reference MODEL")


@cache
def train_config_class(algorithm: str) -> type[TrainConfig]:
    """Return the settings of ``textgym train`` with an algorithm: its hyperparameters, with cautious defaults.

    Raises:
        ValueError: there is no such algorithm; the nearest is named.
    """
    own: Any = Annotated[hyperparameters_class(algorithm), tyro.conf.arg(name="")]
    return variant(TrainConfig, algorithm=(str, lambda: algorithm), hyperparameters=(own, partial(cautious, algorithm)))
