"""Settings of ``textgym optimum``."""

from __future__ import annotations

from dataclasses import dataclass, field

from textgym.commands.configs.shared import Seed
from textgym.numbers import TEMPERATURES, check, check_given, check_words, count, finite, random_seed


@dataclass(frozen=True)
class OptimumConfig:
    """Compute the optimum of E[R] − β KL in a task, exactly by enumerating every response, or by sampling."""

    task: str
    """Id of a task, such as textgym/Emit-v0."""
    parameters: dict[str, int | float] = field(default_factory=dict)
    """Parameters of the task, such as 'size 4096' of Vocabulary, for a variant of another size."""
    beta: float | None = None
    """KL coefficient β: the price of one nat of KL. Default: the task's, at which it is scored."""
    policy: str | None = None
    """Policy to measure against the optimum: a run, a checkpoint, or the directory of any causal language model. A
    checkpoint is measured as it was trained: with its sampling settings and, after nlpo, under its mask."""
    reference: str | None = None
    """Reference of the KL: a directory or a hub id. Default: the task's base model."""
    reward: str | None = None
    """Reward, written as for 'textgym train'. Default: the task's."""
    temperature: float | None = None
    """Divisor of the logits of policy and reference. Default: as the policy was trained, or 1."""
    min_new_tokens: int | None = None
    """Minimum response length in tokens, for policy and reference; end tokens are masked until then. Default: as the
    policy was trained, or 0."""
    limit: int | None = None
    """Maximum number of responses to enumerate. Default: a million."""
    samples: int | None = None
    """Number of responses to sample for each prompt, instead of enumerating, for tasks that are too large; gives 95 %
    intervals. Default: enumerate."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_given(self, finite, "beta", above=0)
        check_given(self, finite, "temperature", **TEMPERATURES)
        check_given(self, count, "min_new_tokens", least=0)
        check_given(self, count, "limit", "samples")
        check(self, random_seed, "seed")
        check_words(self, "task", "policy", "reference", "reward")
