"""Settings of ``textgym train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from textgym.commands.configs.hyperparameters import CAUTIOUS, Hyperparameters
from textgym.numbers import LONGEST_WAIT, MOST_TOKENS, check, check_given, check_words, count, finite, random_seed
from textgym.types import Service, SpecialTokens, Truncation


@dataclass(frozen=True)
class TrainConfig:
    """Train a language model by reinforcement, against any reward, with a KL leash to where it began."""

    out: Path
    """The run's directory: configuration, metrics, samples, checkpoint, report."""
    task: str | None = None
    """A task's id, such as textgym/Reviews-v0; gives prompts, sizes, the reward 'gold' and a base model."""
    model: str | None = None
    """A language model with its tokenizer: a directory, a run or a hub id. Default: the task's base model."""
    prompts: Path | None = None
    """JSON Lines, a JSON array, Parquet or a directory saved by datasets, with a field 'prompt'; others reach the
    reward."""
    validation: Path | None = None
    """Prompts that only measure, in a file like 'prompts'. Default: the validation split, where the task's own prompts
    are used and it has one; otherwise the prompts that are trained on."""
    reward: str | None = None
    """'module:function', 'path/to/file.py:function', 'rm:DIR' (a reward model), 'clf:DIR,label=LABEL' (a classifier) or
    a NAME, each with an optional ',weight'; several stand in one quoted string, with spaces between them. Default: the
    task's gold reward."""
    reward_timeout: float | None = None
    """Seconds that a call of a reward may take before the run ends with an error that names it. Default: no limit."""
    reference: str | None = None
    """Reference of the KL: a directory, a run or a hub id of a model with the same tokens, or
    'without-adapters', the model below the adapters that 'model' has. Default: the model as it is before training."""
    algorithm: str = "ppo"
    """The training algorithm: ppo, nlpo, a2c, trpo, reinforce, rloo, grpo, gspo, remax, best-of-n (distilled) or
    expert-iteration."""
    total_timesteps: int = 200_000
    """Tokens to generate in all."""
    max_prompt_length: int | None = None
    """P, in tokens. Default: the task's, or the longest prompt."""
    max_new_tokens: int | None = None
    """T, in tokens. Default: the task's, or 48."""
    truncation: Truncation = "error"
    """Treatment of prompts with more than P tokens, or more than the model reads beside T new ones: 'error' (they are
    bad rows), 'left' (keep their end) or 'drop' (leave them out and count them)."""
    skip_bad: int = 0
    """How many bad rows may be left out: malformed, empty, too long. 'skipped.jsonl' lists
    them. Where there are more, nothing is trained."""
    special_tokens: SpecialTokens = "text"
    """Reading of special-token strings, such as '<eos>', in prompts: as 'text', or 'parse' for special tokens,
    where a chat template has rendered the prompts already."""
    skip_special_tokens: bool = False
    """Leave all special tokens out of the completions that rewards receive, as TRL does, rather than only end, padding
    and start tokens."""
    missing_end_score: float | None = None
    """Paid instead of the reward to a response that ends by length alone. Published: -1 (Ziegler 2019)."""
    pretraining: str | None = None
    """Text that every update learns beside the reward, so that little is forgotten (PPO-ptx, with any algorithm): a
    file with the column 'text', a .txt with a text a line, 'task' for the task's references, or 'mini' for what the
    mini tasks' base model learned from. Loss on held-out text, and on a mini task that on the references of the other
    mini tasks, is measured before and after."""
    ptx_coef: float | None = None
    """γ, the weight of that text's loss per token; 0 only measures. Default: 0.1. Published: 27.8 (Ouyang 2022)."""
    ptx_batch_size: int | None = None
    """Texts in each update. Default: 32."""
    eval_episodes: int = 256
    """Responses to the prompts of 'validation' that are measured before and after."""
    eval_every: int | None = None
    """Iterations between evaluations on the prompts of 'validation', with as many responses. They disturb nothing.
    Default: only before and after."""
    checkpoint_every: int = 10
    """Iterations between checkpoints, of which 'checkpoint' is the newest, where --resume goes on."""
    keep_last: int | None = None
    """Further checkpoints that are kept, as 'checkpoints/iteration-000040': the last so many. Default: none."""
    keep_best: str | None = None
    """Figure of the evaluations whose best iteration is kept in 'best': 'score', 'gold' or another that is measured;
    'min-kl' or 'min-length' where less is better. Needs 'eval_every'. Default: no best is kept."""
    stop_score: float | None = None
    """Train no further once an evaluation's mean score is at least this. Needs 'eval_every', as the next two."""
    stop_kl: float | None = None
    """Train no further once an evaluation's mean KL to the reference is above this, in nats per response."""
    stop_patience: int | None = None
    """Train no further after so many evaluations in a row that are no better than the best before them, by the figure
    of 'keep_best', or else by score."""
    log: tuple[Service, ...] = ()
    """Services that get the metrics while the run goes on, each through its own client: 'tensorboard', 'wandb',
    'trackio'; several are separated by spaces. See docs/watching.md."""
    seed: int = 0
    """Of everything random."""
    overwrite: bool = False
    """Replace the run that stands in 'out'."""
    resume: bool = False
    """Continue the run that stands in 'out'."""
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = CAUTIOUS

    def __post_init__(self) -> None:
        check(self, count, "total_timesteps", "eval_episodes", "checkpoint_every")
        check_given(self, count, "max_prompt_length", "max_new_tokens", most=MOST_TOKENS)
        check_given(self, count, "ptx_batch_size", "eval_every", "keep_last", "stop_patience")
        check_given(self, finite, "stop_score")
        check_given(self, finite, "stop_kl", above=0)
        check_given(self, finite, "missing_end_score")
        check_given(self, finite, "ptx_coef", low=0)
        check_given(self, finite, "reward_timeout", above=0, high=LONGEST_WAIT)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "task", "model", "reward", "reference", "algorithm", "pretraining", "keep_best")
