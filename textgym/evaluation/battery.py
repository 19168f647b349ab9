"""The measures of a policy's responses: those of any reward, and those of texts alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from textgym.agents.loop.evaluation import Report
from textgym.agents.loop.metrics import GOLD, named_parts
from textgym.agents.offline.alignment_tax import OF_TEXTS
from textgym.env.mdp import TokenMDP
from textgym.evaluation.decoders import Answers, answers_of
from textgym.evaluation.measured import (
    Measured,
    correlation,
    jackknife,
    jackknifed,
    mean_over_prompts,
    share_over_prompts,
)
from textgym.evaluation.texts import SEGMENT, distinct, msttr, self_bleu_within, words
from textgym.evaluation.votes import majority_at_k, pass_at_k
from textgym.intervals import SampleMean
from textgym.types import BoolArray, FloatArray, IntArray

Split: TypeAlias = Sequence[Sequence[str]]
Statistic: TypeAlias = Callable[[IntArray], float]

ORDERS = (1, 2, 3)
"""Orders of distinct-n."""
OWN = (
    *("score", "length", "end_rate", "length_correlation", "msttr", "self_bleu", "kl"),
    *("perplexity", "reference_perplexity", "wording_deviation", "wording_range"),
    *(f"distinct_{n}" for n in ORDERS),
)
"""Names of our own measures; a component of the reward with one of them is shown as ``components/NAME``."""
MOST_TEXTS = 256
"""Texts that self-BLEU compares, the first of them; its work grows with their square."""
MOST_WATCHED = 64
"""Texts that self-BLEU compares during training."""
WATCHED_GROUPS = 10
"""Groups of the jackknife during training, whose error bars need not be as sure."""


def measures(answers: Answers) -> dict[str, Measured]:
    """Measure responses: the reward and its components, length, end rate, and the diversity of the texts.

    All intervals are over prompts: several responses to one prompt do not count as independent.
    """
    keys = answers.keys
    found = {"score": mean_over_prompts(answers.scores, keys)}
    for name, values in named_parts(answers.components).items():
        found[f"components/{name}" if name in OWN else name] = mean_over_prompts(values, keys)
    found["length"] = mean_over_prompts(answers.lengths, keys, "tokens per response, mean over prompts")
    found["end_rate"] = share_over_prompts(answers.ended, keys, "share of responses that ended by themselves")
    about = "Pearson's, of reward and length; jackknife over groups of prompts"
    found["length_correlation"] = jackknifed(_length_correlation(answers), keys, about, (-1.0, 1.0))
    return found | text_measures(answers.texts, keys)


def text_measures(texts: Sequence[str], keys: Sequence[Hashable]) -> dict[str, Measured]:
    """Measure the diversity of texts: distinct-n, MSTTR and self-BLEU of all of them together.

    Args:
        texts: ``[n]`` texts.
        keys: ``[n]`` the prompt of each.
    """
    split = [words(text) for text in texts]
    found = {}
    for n in ORDERS:
        about = f"different {n}-grams over all of them; jackknife over groups of prompts"
        found[f"distinct_{n}"] = jackknifed(_of(split, partial(distinct, n=n)), keys, about)
    about = f"different words in segments of {SEGMENT}; jackknife over groups of prompts"
    found["msttr"] = jackknifed(_of(split, msttr), keys, about)
    compared = min(len(split), MOST_TEXTS)
    about = f"BLEU of a text with the others, of {compared}; jackknife over groups of prompts"
    found["self_bleu"] = jackknifed(_mean_self_bleu(split[:compared]), keys[:compared], about)
    return found


def _of(split: Split, statistic: Callable[[Split], float]) -> Statistic:
    return lambda rows: statistic([split[i] for i in rows])


def _mean_self_bleu(split: Split) -> Statistic:
    within = self_bleu_within(split)
    return lambda rows: float(within(rows).mean())


def _length_correlation(answers: Answers) -> Statistic:
    return lambda rows: correlation(answers.scores[rows], answers.lengths[rows])


# --- several samples for each prompt ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Votes:
    """Settings of pass@k and maj@k.

    Attributes:
        at: the values of k.
        right: a response is right if its gold, or its score where the task has no gold, is at least this.
        pattern: a regular expression that finds the answer in a response: its first group in its last match, or the
            whole match without a group; None takes the whole text for the answer. Responses without a match have one
            answer in common.
    """

    at: tuple[int, ...] = ()
    right: float = 1.0
    pattern: str | None = None

    def answer(self, text: str) -> str | None:
        """Return the answer that a response states."""
        if self.pattern is None:
            return text.strip()
        matches = list(re.finditer(self.pattern, text))
        if not matches:
            return None
        last = matches[-1]
        found = last[1] if last.re.groups else last[0]
        return None if found is None else found.strip()  # the group may be optional


def vote_measures(answers: Answers, votes: Votes) -> dict[str, Measured]:
    """Measure pass@k and maj@k: means over prompts of exact expectations over subsets of k samples."""
    right = answers.components.get(GOLD, answers.scores) >= votes.right
    rows: dict[int, list[int]] = {}
    for row, question in enumerate(answers.questions.tolist()):
        rows.setdefault(question, []).append(row)
    stated = [votes.answer(text) for text in answers.texts]
    found = {}
    for k in votes.at:
        passed = [pass_at_k(len(own), int(right[own].sum()), k) for own in rows.values()]
        voted = [majority_at_k([stated[i] for i in own], _floats(right, own), k) for own in rows.values()]
        found[f"pass@{k}"] = share_over_prompts(passed, list(rows), f"share with a right one of {k}, mean over prompts")
        found[f"maj@{k}"] = share_over_prompts(voted, list(rows), f"share right by majority of {k}, mean over prompts")
    return found


def _floats(right: BoolArray, rows: Sequence[int]) -> list[float]:
    values: FloatArray = right[list(rows)].astype(np.float64)
    return [float(value) for value in values]


# --- during training -------------------------------------------------------------------------------------------


def watched_measures(report: Report, mdp: TokenMDP) -> dict[str, dict[str, float]]:
    """Measure the texts of an evaluation during training: ``mean``, ``sem`` and ``n`` by name, as it logs them.

    The names begin with ``texts/``: end rate, distinct-1 and -2, self-BLEU of the first texts, and the correlation of
    reward with length where there is a reward. A measure that is not defined is left out.
    """
    answers = answers_of(mdp, report.episodes)
    split, keys = [words(text) for text in answers.texts], answers.keys
    compared = min(len(split), MOST_WATCHED)
    found = {
        "distinct_1": (_of(split, partial(distinct, n=1)), keys),
        "distinct_2": (_of(split, partial(distinct, n=2)), keys),
        "self_bleu": (_mean_self_bleu(split[:compared]), keys[:compared]),
        **({"length_correlation": (_length_correlation(answers), keys)} if report.judged else {}),
    }
    ended = answers.ended.astype(np.float64)
    estimates = {name: jackknife(*of, WATCHED_GROUPS) for name, of in found.items()}
    estimates["end_rate"] = SampleMean(
        float(ended.mean()), float(ended.std() / max(len(ended) - 1, 1) ** 0.5), len(ended)
    )
    return {f"{OF_TEXTS}{name}": _entry(one) for name, one in estimates.items() if math.isfinite(one.mean)}


def _entry(estimate: SampleMean) -> dict[str, float]:
    """Return an estimate as evaluations keep it; without a known error it counts as a single value."""
    if estimate.sem is None or estimate.n is None or not math.isfinite(estimate.sem):
        return {"mean": estimate.mean, "sem": 0.0, "n": 1}
    return {"mean": estimate.mean, "sem": estimate.sem, "n": estimate.n}
