"""Prompts of two words, and which of them are held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class PromptRows:
    """Rows of prompts by split.

    Attributes:
        train: the rows to train on.
        test: the held-out rows.
    """

    train: tuple[Row, ...]
    test: tuple[Row, ...]


def pair_rows(n: int, seed: int, row: Callable[[int, int], Mapping[str, Any]]) -> PromptRows:
    """Return the rows of all pairs of ``n`` first and ``n`` second words.

    A drawn permutation of the second words is held out: each word is in one test prompt, and in training stands beside
    all others but one.

    Args:
        n: number of first words, and of second words.
        seed: draws the permutation.
        row: makes the row of a pair of indices.
    """
    partner = instance_rng(seed, "pairs").permutation(n)
    pairs = list(product(range(n), repeat=2))
    train = tuple(dict(row(i, j)) for i, j in pairs if partner[i] != j)
    return PromptRows(train, tuple(dict(row(i, j)) for i, j in pairs if partner[i] == j))


def cue_rows(n: int, seed: int, columns: Callable[[int], Mapping[str, Any]]) -> PromptRows:
    """Return rows whose prompt is a cue, ``c0``, ``c1``, …, and an idle word, ``x0``, ``x1``, …; see :func:`pair_rows`.

    Args:
        n: number of cues, and of idle words.
        seed: draws the pairs that are held out.
        columns: returns the columns of a cue.
    """
    return pair_rows(n, seed, lambda cue, idle: {"prompt": f"c{cue} x{idle}", **columns(cue)})


def instance_rng(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one part of an instance; each purpose has a stream of its own."""
    return np.random.default_rng([seed, *purpose.encode()])


def either_case(words: list[str]) -> list[str]:
    """Return the words in small letters, followed by the same in capitals: word ``i`` and ``i + len(words)``."""
    return [*words, *(word.upper() for word in words)]
