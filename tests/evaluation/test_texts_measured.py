"""Measures of texts: by hand, and against the package that their paper used."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textgym.evaluation.texts import distinct, msttr, self_bleu, self_bleu_within, words


def split(*texts: str) -> list[tuple[str, ...]]:
    return [tuple(text.split()) for text in texts]


def test_words_are_lower_case_and_punctuation_stands_alone() -> None:
    assert words(" The cat, the CAT: 3.5!") == ("the", "cat", ",", "the", "cat", ":", "3", ".", "5", "!")
    assert words("") == ()


def test_distinct_by_hand() -> None:
    texts = split("a b a b", "a b c")
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 3 / 5  # ab ba ab | ab bc: an n-gram never spans two texts
    assert distinct(texts, 4) == 1.0
    assert math.isnan(distinct(texts, 5))
    assert math.isnan(distinct(split("", ""), 1))


def test_msttr_by_hand() -> None:
    texts = split("a b a", "c c c d", "e")
    # Segments of three, over the borders of texts: a b a | c c c, and the rest is left out.
    assert msttr(texts, 3) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert msttr(texts, 4) == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert msttr(texts, 8) == 5 / 8
    assert math.isnan(msttr(texts, 9))


def test_msttr_does_not_grow_with_the_number_of_texts_but_distinct_falls() -> None:
    rng = np.random.default_rng(0)
    texts = [tuple(str(i) for i in rng.integers(0, 500, 50)) for _ in range(400)]
    assert distinct(texts, 1) < distinct(texts[:40], 1) / 3
    assert msttr(texts, 100) == pytest.approx(msttr(texts[:40], 100), abs=0.02)


def test_self_bleu_by_hand() -> None:
    assert self_bleu(split("a b c d e", "a b c d e")).tolist() == pytest.approx([1, 1])
    assert self_bleu(split("a b", "c d", "")).tolist() == [0, 0, 0]
    # Unigrams 2/3, bigrams 1/2, no trigram (0.1 of 1); equal lengths, so no penalty.
    assert self_bleu(split("a b c", "a b d"), 3).tolist() == pytest.approx([(2 / 3 * 1 / 2 * 0.1) ** (1 / 3)] * 2)
    # A count is clipped by the largest of one other text, not by their sum; the shorter text pays exp(1 − 4/2).
    assert self_bleu(split("a a", "a b c d", "e a f g"), 1)[0] == pytest.approx(1 / 2 * math.exp(-1))
    assert math.isnan(self_bleu(split("a"))[0])


def test_self_bleu_agrees_with_nltk() -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    rng, smoothing = np.random.default_rng(1), bleu.SmoothingFunction().method1
    for _ in range(60):
        texts = [tuple("abcde"[i] for i in rng.integers(0, 5, rng.integers(0, 10))) for _ in range(rng.integers(2, 7))]
        expected = [
            bleu.sentence_bleu([[*t] for t in texts[:i] + texts[i + 1 :]], list(text), smoothing_function=smoothing)
            for i, text in enumerate(texts)
        ]
        np.testing.assert_allclose(self_bleu(texts), expected, rtol=1e-12)


def test_a_subset_is_the_self_bleu_of_its_texts_alone() -> None:
    rng = np.random.default_rng(2)
    texts = [tuple("abcdef"[i] for i in rng.integers(0, 6, 7)) for _ in range(9)]
    within = self_bleu_within(texts)
    for rows in ([0, 3, 8], [5, 1], list(range(9))):
        np.testing.assert_allclose(within(np.array(rows)), self_bleu([texts[i] for i in rows]), rtol=1e-12)
