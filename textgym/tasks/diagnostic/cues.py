"""Parts of tasks whose prompt is a cue behind filler, and whose words are of several kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from textgym.tasks.diagnostic.memory import filler
from textgym.types import FloatArray

GAP = 3
"""Words of filler before a cue."""
TRAIN, HELD_OUT = 3, 2
"""Prompts of each cue for training, and held-out ones: the same cue behind other filler."""

Row: TypeAlias = dict[str, Any]


def cued(cues: Mapping[str, Mapping[str, Any]], rng: np.random.Generator) -> tuple[list[Row], list[Row]]:
    """Draw prompts for training, and held-out ones.

    Args:
        cues: columns of each cue, by its text.
        rng: source of the filler.
    """
    drawn: tuple[list[Row], list[Row]] = ([], [])
    for cue, columns in cues.items():
        for place, code in enumerate(rng.choice(2**GAP, TRAIN + HELD_OUT, replace=False).tolist()):
            drawn[place >= TRAIN].append({"prompt": " ".join([*filler(code, GAP), cue]), **columns})
    return drawn


def draw_kinds(counts: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the kind of each word, given how many words there are of each kind."""
    return tuple(rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist())


def draw_patterns(n: int, length: int, rng: np.random.Generator) -> list[list[int]]:
    """Draw ``n`` different patterns of ``length`` bits.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= n <= 2**length:
        raise ValueError(f"cues={n}; expected 1 to 2**horizon = {2**length}, as each has a pattern of its own")
    codes = rng.choice(2**length, n, replace=False).tolist()
    return [[code >> place & 1 for place in range(length)] for code in codes]


def spread_over(kinds: Sequence[int], shares: Sequence[float]) -> FloatArray:
    """Return ``[V]`` probabilities of words: those of a kind have equal parts of its share."""
    parts: FloatArray = np.asarray(shares) / np.bincount(kinds)
    return parts[list(kinds)]
