"""Measures of a set of texts: distinct n-grams, type-token ratio, self-BLEU."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from textgym.types import FloatArray, IntArray

SEGMENT = 100
"""Words in a segment of :func:`msttr`: those of RL4LMs, and of the GEM benchmark before it."""
UNSEEN = 0.1
"""Matches counted for an n-gram order without any: method 1 of Chen and Cherry (2014), as in Texygen's self-BLEU."""

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> tuple[str, ...]:
    """Split a text into lower-case words and single punctuation marks.

    >>> words("Don't stop.")
    ('don', "'", 't', 'stop', '.')
    """
    return tuple(_WORD.findall(text.lower()))


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Compute distinct-n: the number of different n-grams of all texts over the number of all n-grams.

    Range (0, 1]; 1 if no n-gram occurs twice. It falls as texts get longer or more, so compare equally many. Texts of
    fewer than n words, such as empty ones, have no n-gram.

    Source: Li et al. 2016, arXiv:1510.03055.

    Args:
        texts: the words of each text.
        n: words in an n-gram.

    Returns:
        NaN if no text has n words.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def msttr(texts: Sequence[Sequence[str]], segment: int = SEGMENT) -> float:
    """Compute the mean segmental type-token ratio: the share of different words in segments of equal length.

    The texts are joined in their order and cut into segments; the rest behind the last whole segment is left out.
    Unlike :func:`distinct`, it does not depend on the number of texts. Range (0, 1].

    Source: Johnson 1944, Studies in language behavior I; van Miltenburg et al. 2018, "Measuring the diversity of
    automatic image descriptions".

    Args:
        texts: the words of each text.
        segment: words in a segment.

    Returns:
        NaN if there are fewer words than one segment holds.
    """
    joined = [word for text in texts for word in text]
    starts = range(0, len(joined) - segment + 1, segment)
    ratios = [len(set(joined[start : start + segment])) / segment for start in starts]
    return sum(ratios) / len(ratios) if ratios else math.nan


def self_bleu(texts: Sequence[Sequence[str]], order: int = 4) -> FloatArray:
    """Compute the BLEU of each text with all others as its references, ``[N]``; the mean is the set's self-BLEU.

    Range [0, 1]: 1 for a text that another one repeats; the higher, the less diverse. A text without a word in common
    with another one has 0, so an empty text has, too. Sentence BLEU: geometric mean of the clipped precisions of 1-
    to 4-grams, 0.1 matches for an order without any, and the brevity penalty to the nearest reference length.

    Source: Zhu et al. 2018, Texygen, arXiv:1802.01886.

    Args:
        texts: the words of ``N`` texts.
        order: words in the longest n-gram.

    Returns:
        NaN for a single text, which has no reference.
    """
    return self_bleu_within(texts, order)(np.arange(len(texts)))


def self_bleu_within(texts: Sequence[Sequence[str]], order: int = 4) -> Callable[[IntArray], FloatArray]:
    """Return :func:`self_bleu` as a function of the rows that make the set, for many subsets of the same texts."""
    lengths = np.array([len(text) for text in texts], np.int64)
    counts = [_counts(texts, n) for n in range(1, order + 1)]

    def within(rows: IntArray) -> FloatArray:
        if len(rows) < 2:
            return np.full(len(rows), math.nan)
        matches = [_matches(table[rows]) for table in counts]
        log_precision = np.zeros(len(rows))
        for n, matched in enumerate(matches, start=1):
            # A text of fewer than n words has one n-gram by convention, without a match.
            possible = np.maximum(lengths[rows] - n + 1, 1)
            log_precision += np.log(np.where(matched > 0, matched, UNSEEN) / possible) / order
        bleu: FloatArray = np.exp(log_precision) * _brevity(lengths[rows])
        return np.where(matches[0] > 0, bleu, 0.0)

    return within


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def _counts(texts: Sequence[Sequence[str]], n: int) -> NDArray[np.int32]:
    """Count the n-grams in each text, ``[N, G]``; those of a single text match nothing, and are left out."""
    own = [Counter(_grams(text, n)) for text in texts]
    spread = Counter(gram for counts in own for gram in counts)
    column = {gram: i for i, gram in enumerate(gram for gram, several in spread.items() if several > 1)}
    table = np.zeros((len(texts), len(column)), np.int32)
    for row, counts in enumerate(own):
        for gram, number in counts.items():
            if gram in column:
                table[row, column[gram]] = number
    return table


def _matches(counts: NDArray[np.int32]) -> IntArray:
    """Sum the n-grams of each text, ``[N]``, each at most as often as it occurs in one of the other texts."""
    second, first = np.partition(counts, -2, axis=0)[-2:]  # the two largest counts of each n-gram
    matched: IntArray = np.minimum(counts, np.where(counts == first, second, first)).sum(1, dtype=np.int64)
    return matched


def _brevity(lengths: IntArray) -> FloatArray:
    """Compute the brevity penalty of each text to the nearest length of another one; of two, the shorter."""
    apart = 2.0 * np.abs(lengths[:, None] - lengths) + (lengths > lengths[:, None])
    np.fill_diagonal(apart, math.inf)
    nearest = lengths[apart.argmin(1)]
    return np.where(lengths < nearest, np.exp(1 - nearest / np.maximum(lengths, 1)), 1.0)
