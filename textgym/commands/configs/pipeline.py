"""What ``textgym pipeline`` is told: one part for each kind of stage, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.hyperparameters import Hyperparameters
from textgym.numbers import LARGEST_RATE, MOST_TOKENS, check, check_given, check_words, count, finite, random_seed
from textgym.types import Combine, Service, SpecialTokens, Truncation


@dataclass(frozen=True)
class SFTPart:
    """The first stage: the model imitates demonstrations, as ``textgym sft`` does."""

    enabled: bool = True
    """Whether there is such a stage; without it all begins with the model itself."""
    demonstrations: Path | None = None
    """A file like the data of ``textgym sft``. Default: the task's reference texts."""
    count: int | None = None
    """How many of them to learn from, drawn by the seed. Default: all."""
    settings: Annotated[SFTSettings, tyro.conf.arg(name="")] = field(default_factory=SFTSettings)

    def __post_init__(self) -> None:
        check_given(self, count, "count")


@dataclass(frozen=True)
class LabelsPart:
    """In each iteration: samples of the current policy are ranked."""

    preferences: Path | None = None
    """Preferences that exist, in a file like the data of ``textgym reward-model``. The first iteration learns its
    reward model from them, and samples and ranks nothing; in later ones they stay among the comparisons."""
    labeller: str = "gold"
    """Who ranks: 'gold' (of the task), 'module:function', 'path/to/file.py:function' or 'rm:DIR', whose scores order
    the completions; or 'file': the run stops, people fill in the ranks, and --resume goes on with them."""
    prompts: int = 512
    """Prompts in an iteration; other ones than in the iterations before, while there are enough."""
    completions: int = 4
    """K, the samples of each prompt that are ranked together. Published: 4 to 9 (Ouyang 2022)."""
    temperature: float = 0.0
    """Noise of a labeller who scores, in units of the scores: the order of two texts that differ by d is right with
    probability σ(d/temperature) (Plackett–Luce). 0 for none; then equal scores tie."""

    def __post_init__(self) -> None:
        check(self, count, "prompts")
        check(self, count, "completions", least=2)
        check(self, finite, "temperature", low=0)
        check_words(self, "labeller")


@dataclass(frozen=True)
class RewardModelPart:
    """In each iteration: a reward model learns from all rankings so far, as ``textgym reward-model`` does."""

    heldout: float = 0.1
    """Share of the prompts that is held out to measure on."""
    ensemble: int = 1
    """How many models to train, each with a head and an order of the data of its own."""
    combine: Combine = "mean"
    """How an ensemble's scores become one: 'mean', 'min', or 'uncertainty' (mean less weighted variance)."""
    uncertainty_weight: float = 0.1
    """λ, the price of the members' variance, for 'uncertainty'."""
    learning_rate: float = 1e-4
    """At its peak, after a short warm-up; it then falls to 0."""
    epochs: int = 1
    """Passes over the rankings. More than one overfits quickly."""
    batch_size: int = 8
    """Prompts in one step; each brings all of its completions."""

    def __post_init__(self) -> None:
        check(self, count, "ensemble", "epochs", "batch_size")
        check(self, finite, "heldout", above=0, below=1)
        check(self, finite, "uncertainty_weight", low=0)
        check(self, finite, "learning_rate", above=0, high=LARGEST_RATE)


@dataclass(frozen=True)
class TrainPart:
    """In each iteration: reinforcement goes on from the current policy, as ``textgym train`` does; the KL is measured
    to the model of the first stage."""

    algorithm: str = "ppo"
    """The training algorithm, by its name in ``textgym train``."""
    total_timesteps: int = 200_000
    """Tokens to generate in one iteration."""
    missing_end_score: float | None = None
    """Paid instead of the reward to a response that ends by length alone. Published: -1 (Ziegler 2019)."""
    pretraining: str | None = None
    """Text that every update learns beside the reward (PPO-ptx): a file, 'task' or 'mini'; see ``textgym train``."""
    ptx_coef: float | None = None
    """γ, the weight of that text's loss per token. Default: 0.1. Published: 27.8 (Ouyang 2022)."""
    ptx_batch_size: int | None = None
    """Texts in each update. Default: 32."""
    value_from_reward_model: bool = False
    """Whether the critic begins as the iteration's reward model, instead of what 'value' says (Stiennon 2020)."""
    checkpoint_every: int = 10
    """Iterations of the algorithm between checkpoints."""
    eval_every: int | None = None
    """Iterations between evaluations on validation prompts. Default: only before and after."""
    stop_score: float | None = None
    """Train no further, in this iteration, once an evaluation's mean score is at least this. Needs 'eval_every'."""
    stop_kl: float | None = None
    """The same once its mean KL is above this, in nats per response."""
    stop_patience: int | None = None
    """The same after so many evaluations in a row that are no better than the best before them, by score."""
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = field(default_factory=Hyperparameters)

    def __post_init__(self) -> None:
        check(self, count, "total_timesteps", "checkpoint_every")
        check_given(self, count, "ptx_batch_size", "eval_every", "stop_patience")
        check_given(self, finite, "stop_score")
        check_given(self, finite, "stop_kl", above=0)
        check_given(self, finite, "missing_end_score")
        check_given(self, finite, "ptx_coef", low=0)
        check_words(self, "algorithm", "pretraining")


@dataclass(frozen=True)
class PipelineConfig:
    """Run the loop of InstructGPT: imitate, then rank samples, train a reward model, train the policy against it."""

    out: Path
    """The run's directory: a run for each stage, and a report of all."""
    task: str | None = None
    """A task's id, such as textgym/Reviews-v0; gives prompts, demonstrations, a base model, gold and metrics."""
    model: str | None = None
    """The causal language model to begin from: a directory, a run or a hub id. Default: the task's base model."""
    prompts: Path | None = None
    """JSON Lines (or Parquet, or a directory saved by datasets) with a field 'prompt'. Default: the task's."""
    validation: Path | None = None
    """Prompts that only measure, in a file like 'prompts', which needs it. Default: the task's validation split."""
    max_prompt_length: int | None = None
    """P, in tokens. Default: the task's, or the longest prompt."""
    max_new_tokens: int | None = None
    """T, in tokens. Default: the task's, or 48."""
    truncation: Truncation = "error"
    """Treatment of rows with more tokens than fit, in all files: 'error' (they are bad rows), 'left' (their prompt
    loses its beginning, completions stay whole) or 'drop' (they are left out and counted)."""
    skip_bad: int = 0
    """How many bad rows (malformed, blank, with equal completions, too long) each stage may leave out. 'skipped.jsonl'
    of the stage lists them. Where there are more, nothing is trained."""
    special_tokens: SpecialTokens = "text"
    """Reading of special-token strings, such as '<eos>', in the data: as 'text', or 'parse' for special tokens,
    where a chat template has rendered the prompts already."""
    skip_special_tokens: bool = False
    """Leave all special tokens out of the completions that labellers and rewards receive, rather than only end, padding
    and start tokens."""
    iterations: int = 1
    """How often samples are ranked, a reward model is trained, and the policy is trained against it."""
    eval_episodes: int = 256
    """Responses that measure each model: to the same prompts, with the same random streams."""
    log: tuple[Service, ...] = ()
    """Services that get the metrics while a stage runs, each through its own client: 'tensorboard', 'wandb',
    'trackio'; several are separated by spaces. See docs/watching.md."""
    seed: int = 0
    """Of everything random."""
    sft: SFTPart = field(default_factory=SFTPart)
    labels: LabelsPart = field(default_factory=LabelsPart)
    reward_model: RewardModelPart = field(default_factory=RewardModelPart)
    train: TrainPart = field(default_factory=TrainPart)
    overwrite: bool = False
    """Replace the run that stands in 'out'."""
    resume: bool = False
    """Continue the run that stands in 'out': complete stages are kept, and the one that was cut off goes on."""

    def __post_init__(self) -> None:
        check(self, count, "iterations", "eval_episodes")
        check_given(self, count, "max_prompt_length", "max_new_tokens", most=MOST_TOKENS)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model")
