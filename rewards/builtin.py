"""A few rewards that need no model. As in TRL, a reward names the arguments it uses and takes the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from textgym.types import completion_text


def length(completions: list[Any], **_: Any) -> list[float]:
    """Words in the completion: the shortcut that reward models reward most often (Singhal et al. 2023)."""
    return [float(len(completion_text(said).split())) for said in completions]


def distinct(completions: list[Any], **_: Any) -> list[float]:
    """Share of different words, between 0 and 1: distinct-1 of Li et al. 2016; 0 for an empty completion."""
    texts = [completion_text(said).split() for said in completions]
    return [len(set(words)) / len(words) if words else 0.0 for words in texts]


def repetition(completions: list[Any], **_: Any) -> list[float]:
    """Minus the share of word pairs that occurred before, between −1 and 0: a penalty on loops."""
    texts = [completion_text(said).split() for said in completions]
    pairs = [list(pairwise(words)) for words in texts]
    return [len(set(found)) / len(found) - 1 if found else 0.0 for found in pairs]


def no_reward(prompts: list[Any], **_: Any) -> list[float]:
    """0 for everything, where nobody judges; an evaluation then has no score."""
    return [0.0] * len(prompts)


NAMED = {"length": length, "distinct": distinct, "repetition": repetition}
