"""Rewards that need no model.

As in TRL, a reward names the arguments that it uses and accepts all others as ``**kwargs``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from textgym.types import completion_text


def length(completions: list[Any], **_: Any) -> list[float]:
    """Count the words of each completion: the shortcut that reward models reward most often (Singhal et al. 2023)."""
    return [float(len(completion_text(completion).split())) for completion in completions]


def distinct(completions: list[Any], **_: Any) -> list[float]:
    """Compute distinct-1 (Li et al. 2016): the share of distinct words, in [0, 1]; 0 for an empty completion."""
    texts = [completion_text(completion).split() for completion in completions]
    return [len(set(words)) / len(words) if words else 0.0 for words in texts]


def repetition(completions: list[Any], **_: Any) -> list[float]:
    """Compute minus the share of repeated word pairs, in [−1, 0]: a penalty on loops."""
    texts = [completion_text(completion).split() for completion in completions]
    pairs = [list(pairwise(words)) for words in texts]
    return [len(set(found)) / len(found) - 1 if found else 0.0 for found in pairs]


def no_reward(prompts: list[Any], **_: Any) -> list[float]:
    """Return 0 for every completion, where no reward is configured; an evaluation then has no score."""
    return [0.0] * len(prompts)


NAMED = {"length": length, "distinct": distinct, "repetition": repetition}
