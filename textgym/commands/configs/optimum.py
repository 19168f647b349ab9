"""Settings of ``textgym optimum``."""

from __future__ import annotations

from dataclasses import dataclass, field

from textgym.numbers import TEMPERATURES, check, check_given, check_words, count, finite, random_seed


@dataclass(frozen=True)
class OptimumConfig:
    """Compute the optimum of E[R] - beta KL in a task, exactly by enumerating every response, or by sampling."""

    task: str
    """A task's id, such as textgym/Emit-v0."""
    parameters: dict[str, int | float] = field(default_factory=dict)
    """The task's own parameters, such as 'size 4096' of Vocabulary, for a variant of another size."""
    beta: float | None = None
    """β, the price of a nat of KL. Default: that at which the task is scored."""
    policy: str | None = None
    """A run, a checkpoint, or any causal language model's directory, to be measured against the optimum. A checkpoint
    is measured as it was trained: with its sampling settings and, after nlpo, under its mask."""
    reference: str | None = None
    """The KL reference: a directory or a hub id. Default: the task's base model."""
    reward: str | None = None
    """As for 'textgym train'. Default: what the task pays."""
    temperature: float | None = None
    """Divides the logits of policy and reference. Default: as the policy was trained, or 1."""
    min_new_tokens: int | None = None
    """No end token before so many tokens, for policy and reference. Default: as the policy was trained, or 0."""
    limit: int | None = None
    """Responses that are enumerated at most. Default: a million."""
    samples: int | None = None
    """Sample so many responses to each prompt instead: for tasks that are too large, with 95 % intervals."""
    seed: int = 0
    """Of the samples."""

    def __post_init__(self) -> None:
        check_given(self, finite, "beta", above=0)
        check_given(self, finite, "temperature", **TEMPERATURES)
        check_given(self, count, "min_new_tokens", least=0)
        check_given(self, count, "limit", "samples")
        check(self, random_seed, "seed")
        check_words(self, "task", "policy", "reference", "reward")
