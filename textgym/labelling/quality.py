"""Measure how good labels are: agreement between people, with oneself and with gold, and the pull of the first place.

Agreement is measured on pairs of completions: the share of pairs that two rankings order alike, among the pairs that
both order. A pair that either of them ties is left out and counted apart, as a tie says nothing of an order. Intervals
allow for pairs of one question being correlated (:func:`textgym.intervals.share_interval`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from textgym.intervals import Estimate, share_interval
from textgym.labelling.store import Answer, question_id
from textgym.rewards.labels.labelling import Question
from textgym.types import FloatArray, IntArray

Level: TypeAlias = Literal["nominal", "ordinal", "interval", "ratio"]
Compared: TypeAlias = tuple[str, Sequence[float], Sequence[float]]
"""A question, and two lists of K values of its completions; lower is better in both."""


@dataclass(frozen=True)
class Agreement:
    """Share of pairs of completions that are ordered alike.

    Attributes:
        share: the share, with its 95 % interval; None without pairs.
        pairs: pairs that both sides order.
        ties: pairs that one side or both tie, which are not in the share.
        questions: questions that the pairs come from.
    """

    share: Estimate | None
    pairs: int
    ties: int
    questions: int


@dataclass(frozen=True)
class LabellerQuality:
    """Quality of one person's answers.

    Attributes:
        answers: answers, skipped ones and repeats among them.
        skipped: skipped questions.
        seconds: median time of an answer.
        with_oneself: agreement of first and second answers to one question.
        with_gold: agreement with gold scores.
    """

    answers: int
    skipped: int
    seconds: float
    with_oneself: Agreement
    with_gold: Agreement


@dataclass(frozen=True)
class LabelQuality:
    """Quality of all answers.

    Attributes:
        answers: answers in force.
        skipped: skipped questions among them, by reason.
        questions: questions that were ranked at least once.
        seconds: median time of an answer; None without answers.
        labellers: quality of each person's answers, by name.
        between: agreement of two people, by their names in alphabetical order.
        between_people: agreement over all pairs of people.
        with_oneself: agreement of repeated answers, over all people.
        with_gold: agreement with gold, over all people.
        first_shown: share of pairs that the text shown first wins against another; ½ is expected, as orders are random.
        alpha: Krippendorff's α of the ranks, ordinal; None where no question was ranked by two people, or all ranks
            are equal.
        flags: share of completions with a flag, by axis.
        scores: mean overall score; None where none was given.
    """

    answers: int
    skipped: Mapping[str, int]
    questions: int
    seconds: float | None
    labellers: Mapping[str, LabellerQuality]
    between: Mapping[tuple[str, str], Agreement]
    between_people: Agreement
    with_oneself: Agreement
    with_gold: Agreement
    first_shown: Agreement
    alpha: float | None
    flags: Mapping[str, float]
    scores: float | None


def label_quality(answers: Sequence[Answer], questions: Sequence[Question] = ()) -> LabelQuality:
    """Measure the quality of answers.

    Args:
        answers: such as :meth:`textgym.labelling.store.LabelStore.answers` returns.
        questions: their questions; those with a column ``gold`` (K scores, higher is better) are compared with it.

    Raises:
        ImportError: the package krippendorff is not installed.
    """
    names = sorted({answer.labeller for answer in answers})
    ranked = [answer for answer in answers if answer.ranks is not None]
    gold = _gold(questions)
    reasons = [answer.skipped for answer in answers if answer.skipped is not None]
    scores = [score for answer in answers for score in answer.scores or () if score is not None]
    between = {pair: agreement(_between(ranked, *pair)) for pair in combinations(names, 2)}
    labellers = {}
    for name in names:
        own = [answer for answer in answers if answer.labeller == name]
        labellers[name] = LabellerQuality(
            answers=len(own),
            skipped=sum(answer.skipped is not None for answer in own),
            seconds=median(answer.seconds for answer in own),
            with_oneself=agreement(_with_oneself(own)),
            with_gold=agreement(_with_gold(own, gold)),
        )
    return LabelQuality(
        answers=len(answers),
        skipped={reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        questions=len({answer.question for answer in ranked}),
        seconds=median(answer.seconds for answer in answers) if answers else None,
        labellers=labellers,
        between=between,
        between_people=agreement(row for pair in between for row in _between(ranked, *pair)),
        with_oneself=agreement(_with_oneself(ranked)),
        with_gold=agreement(_with_gold(ranked, gold)),
        first_shown=first_shown(ranked),
        alpha=krippendorff_alpha(rank_matrix(ranked)),
        flags=_flags(answers),
        scores=float(np.mean(scores)) if scores else None,
    )


# --- agreement -----------------------------------------------------------------------------------------------------


def pair_signs(first: ArrayLike, second: ArrayLike) -> IntArray:
    """Compare two rankings pair by pair.

    Args:
        first: ``[K]`` ranks, or other values of which lower is better.
        second: ``[K]`` of the same completions.

    Returns:
        ``[K(K − 1)/2]``: 1 for a pair that both order alike, −1 for one that they order differently, 0 where either
        ties it.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    i, j = np.triu_indices(len(a), k=1)
    signs: IntArray = (np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])).astype(np.int64)
    return signs


def agreement(compared: Iterable[Compared]) -> Agreement:
    """Compute the share of pairs that are ordered alike, over all questions."""
    rows = [(which, pair_signs(a, b)) for which, a, b in compared]
    signs = np.concatenate([own for _, own in rows]) if rows else np.zeros(0, np.int64)
    which = [name for name, own in rows for _ in own]
    return _share(signs, which)


def first_shown(answers: Iterable[Answer]) -> Agreement:
    """Compute how often the completion that was shown first beats another one of its question.

    Each other completion makes one pair with it; tied pairs are left out. With two completions a question this is the
    binomial share of first places.
    """
    signs, which = [], []
    for answer in answers:
        if answer.ranks is not None:
            first, *others = answer.order
            signs += [np.sign(answer.ranks[other] - answer.ranks[first]) for other in others]
            which += [answer.question] * len(others)
    return _share(np.array(signs, np.int64), which)


def _share(signs: IntArray, which: Sequence[str]) -> Agreement:
    ordered = signs != 0
    wins = (signs[ordered] > 0).astype(np.float64)
    names = [name for name, counts in zip(which, ordered, strict=True) if counts]
    share = None
    if len(wins):
        low, high = share_interval(wins, names) or (math.nan, math.nan)
        share = Estimate(float(wins.mean()), low, high)
    return Agreement(share, len(wins), int((~ordered).sum()), len(set(names)))


def _between(answers: Iterable[Answer], one: str, other: str) -> list[Compared]:
    """Return the questions that two people ranked, each with both rankings; first answers only."""
    found: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for answer in answers:
        if answer.ranks is not None and answer.repeat == 0:
            found[answer.question][answer.labeller] = answer.ranks
    return [(which, own[one], own[other]) for which, own in found.items() if one in own and other in own]


def _with_oneself(answers: Iterable[Answer]) -> list[Compared]:
    found: dict[tuple[str, str], list[tuple[int, ...]]] = defaultdict(list)
    for answer in sorted(answers, key=lambda answer: answer.repeat):
        if answer.ranks is not None:
            found[answer.question, answer.labeller].append(answer.ranks)
    return [(which, *pair) for (which, _), own in found.items() for pair in pairwise(own)]


def _gold(questions: Iterable[Question]) -> dict[str, FloatArray]:
    return {
        question_id(question.prompt.content, question.completions): np.asarray(
            question.prompt.columns["gold"], np.float64
        )
        for question in questions
        if "gold" in question.prompt.columns
    }


def _with_gold(answers: Iterable[Answer], gold: Mapping[str, FloatArray]) -> list[Compared]:
    return [
        (answer.question, answer.ranks, (-gold[answer.question]).tolist())
        for answer in answers
        if answer.ranks is not None and answer.question in gold
    ]


def _flags(answers: Sequence[Answer]) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        if answer.ranks is not None:
            for axis, values in answer.flags.items():
                found[axis] += values
    return {axis: float(np.mean(values)) for axis, values in found.items()}


# --- Krippendorff's α ----------------------------------------------------------------------------------------------


def rank_matrix(answers: Iterable[Answer]) -> FloatArray:
    """Return ranks as reliability data: one row for each person, one column for each completion of each question.

    So a unit is a completion, and its value is the number of completions of its question that are ranked better: 0, 0,
    2 for two that are tied before a third, however the answer numbers its ranks. First answers only; NaN where a person
    did not rank the question.

    Returns:
        ``[labellers, units]``.
    """
    first = [answer for answer in answers if answer.ranks is not None and answer.repeat == 0]
    rows = {name: row for row, name in enumerate(sorted({answer.labeller for answer in first}))}
    starts: dict[str, int] = {}
    size = 0
    for answer in first:
        if answer.question not in starts:
            starts[answer.question] = size
            size += len(answer.order)
    matrix = np.full((len(rows), size), np.nan)
    for answer in first:
        start, ranks = starts[answer.question], np.asarray(answer.ranks)
        matrix[rows[answer.labeller], start : start + len(ranks)] = (ranks[:, None] > ranks).sum(axis=1)
    return matrix


def krippendorff_alpha(values: ArrayLike, level: Level = "ordinal") -> float | None:
    """Compute Krippendorff's α: 1 for perfect agreement, 0 for what chance would give.

    Args:
        values: ``[labellers, units]``, NaN where a labeller has no value.
        level: level of measurement.

    Returns:
        None where no unit has two values, or all values that can be compared are equal.

    Raises:
        ImportError: the package krippendorff is not installed.

    Source: Krippendorff 2004, *Content Analysis*, chapter 11.
    """
    try:
        import krippendorff
    except ImportError as error:
        raise ImportError("Krippendorff's α needs the package krippendorff: pip install 'textgym[label]'") from error
    matrix = np.asarray(values, np.float64)
    paired = matrix[:, (~np.isnan(matrix)).sum(axis=0) > 1]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=paired, level_of_measurement=level))
