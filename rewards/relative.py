"""Relative rewards: the score of a response depends on the other responses of an iteration.

They are called once with all responses of an iteration and the column ``episode_group``, the group of each. A group
holds the responses to one prompt that were sampled together, ``samples_per_prompt`` of them; the others of a response's
group are its *mates*. Without the column, as outside of training, the responses to equal prompts form a group.

Algorithms of textgym score so with ``score_together`` (the default), in an environment without wrappers. Whatever
scores a response by itself refuses them when it is made: ``gym.make`` alone, stock algorithms, ``ReferenceKL``, the
exact optimum. So do algorithms that compare scores with those of other samples: ReMax, whose baseline must not depend
on the response, and A*PO, whose reference's responses are scored apart. DAPO scores each of its collections in a call
of its own.

Own relative rewards: any reward with the attribute ``compares``, which is ``"group"`` (it needs mates) or ``"batch"``;
:class:`RelativeReward` is a base class for it.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, ClassVar, Literal, TypeAlias

from textgym.numbers import check, finite, plain, shown
from textgym.rewards.combination import OneReward, summed
from textgym.rewards.functions import EPISODE_GROUP, Batch, Compared, check_signature
from textgym.types import Score, completion_text

# --- groups ----------------------------------------------------------------------------------------------------


def groups_of(prompts: Sequence[Any], episode_group: Sequence[Any] | None = None) -> list[list[int]]:
    """Return the rows of each group, in the order of their first rows.

    Args:
        prompts: ``N`` texts or conversations.
        episode_group: ``N`` groups; None groups the rows by prompt.
    """
    keys: Iterable[Hashable] = map(_key, prompts) if episode_group is None else episode_group
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _key(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


class RelativeReward(ABC):
    """Base class of rewards that score the responses of a group together; see the module.

    Attributes:
        compares: ``"group"`` for rewards of group mates, ``"batch"`` for those of all responses together.
    """

    compares: ClassVar[Compared] = "group"

    @abstractmethod
    def score_group(self, texts: list[str], lengths: list[int]) -> Sequence[Score]:
        """Score the responses of a group, or of the whole batch if that is what the reward compares.

        Args:
            texts: the responses.
            lengths: their numbers of tokens, the end token included.
        """

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        episode_group: list[Any] | None = None,
        **_: Any,
    ) -> list[Score]:
        """Score all responses of an iteration."""
        whole = self.compares == "batch"
        groups = [list(range(len(prompts)))] if whole else groups_of(prompts, episode_group)
        return spread_groups(
            groups,
            [
                self.score_group(
                    [completion_text(completions[i]) for i in rows], [len(completion_ids[i]) for i in rows]
                )
                for rows in groups
            ],
        )


def spread_groups(groups: Sequence[Sequence[int]], scores: Sequence[Sequence[Score]]) -> list[Score]:
    """Return the scores in the order of the rows, given those of each group."""
    by_row = {i: score for rows, own in zip(groups, scores, strict=True) for i, score in zip(rows, own, strict=True)}
    return [by_row[i] for i in range(len(by_row))]


# --- pairs -----------------------------------------------------------------------------------------------------

Shares: TypeAlias = Sequence[float | None]
_OF_RESPONSES = ("completion_ids", "prompt_ids", "episode_seed", "episode_number", "finish_reason")
"""Columns of a response, not of its prompt, which a comparison of two does not receive."""
Compare: TypeAlias = Callable[..., "Shares | Awaitable[Shares]"]
"""``compare(prompts, first, second)``: for each of ``n`` pairs of completions 1 if the first wins, 0 if the second, 1/2
for a tie, or a probability; None where it cannot tell. It may be a coroutine function. One with ``**columns`` also
receives the columns of the data, one entry for each pair."""


@dataclass(frozen=True)
class Pairwise:
    """Score a response by its mean share of wins against its group mates, each pair judged once.

        R_i = mean_j w_ij over mates j,  w_ji = 1 − w_ij,  w_ij = 1 (win), 1/2 (tie) or 0 (loss)

    The range is [0, 1]. The mean over a group is 1/2 whatever the policy writes, so the score of an iteration says
    nothing about progress: log an absolute reward beside it, with weight 0. A group of k costs k·(k − 1)/2 comparisons,
    all of an iteration in one call of ``compare``. Which of a pair comes first alternates, so that each response is
    first about as often as second, and a judge that prefers a place favours none. Pairs that ``compare`` cannot tell do
    not count; a response without any other pair, or without mates, scores None. An empty completion is compared as it
    is.

    Source: the reward of a win over another response of the policy is that of Munos 2023 (Nash learning from human
    feedback, arXiv 2312.00886); here it is a mean over the mates.

    Attributes:
        compare: see :data:`Compare`.
        signed: True if ``compare`` returns 1 for a win of the first, 0 for a tie and −1 for a loss instead; None to ask
            its attribute ``signed``, which the judges of ``textgym.rewards.judges`` have.
        name: the name in logs.
    """

    compare: Compare
    signed: bool | None = None
    name: str = "pairwise"
    compares: ClassVar[Compared] = "group"

    def __post_init__(self) -> None:
        if not callable(self.compare):
            raise TypeError(f"compare={shown(self.compare)}; expected a function of prompts, first and second")

    def __call__(
        self, prompts: list[Any], completions: list[Any], *, episode_group: list[Any] | None = None, **columns: Any
    ) -> list[float | None] | Awaitable[list[float | None]]:
        """Score all responses of an iteration."""
        pairs = pairs_of(groups_of(prompts, episode_group))
        asked, first, second = (
            [prompts[i] for i, _ in pairs],
            [completions[i] for i, _ in pairs],
            [completions[j] for _, j in pairs],
        )
        # Mates answer the same prompt, so the first of a pair has the data's columns of both.
        own = {name: [values[i] for i, _ in pairs] for name, values in columns.items() if name not in _OF_RESPONSES}
        answer: Any = self.compare(asked, first, second, **(own if self._takes_columns else {})) if pairs else []
        if inspect.isawaitable(answer):
            return self._awaited(answer, pairs, len(prompts))
        return win_shares(pairs, self._shares(answer, pairs), len(prompts))

    async def _awaited(self, answer: Awaitable[Any], pairs: list[tuple[int, int]], count: int) -> list[float | None]:
        return win_shares(pairs, self._shares(await answer, pairs), count)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns that ``compare`` declares as required."""
        return tuple(getattr(self.compare, "required_columns", ()))

    @property
    def _is_signed(self) -> bool:
        function = self.compare.func if isinstance(self.compare, partial) else self.compare
        return bool(getattr(function, "signed", False)) if self.signed is None else self.signed

    @property
    def _takes_columns(self) -> bool:
        try:
            kinds = {parameter.kind for parameter in inspect.signature(self.compare).parameters.values()}
        except (TypeError, ValueError):  # some builtins have no signature to inspect
            return False
        return inspect.Parameter.VAR_KEYWORD in kinds

    def _shares(self, answer: Any, pairs: list[tuple[int, int]]) -> list[float | None]:
        values = list(answer)
        if len(values) != len(pairs):
            raise ValueError(f"compare returned {len(values)} results for {len(pairs)} pairs, expected one for each")
        return [self._share(value) for value in values]

    def _share(self, value: Any) -> float | None:
        if value is None:
            return None
        least = -1.0 if self._is_signed else 0.0
        number = plain(float(value) if isinstance(value, bool) else value)
        if number is None or not least <= number <= 1:
            hint = "" if self._is_signed or number != -1 else "; pass signed=True for a compare of −1, 0 and 1"
            raise ValueError(f"compare returned {shown(value)}, expected a number from {least:g} to 1, or None{hint}")
        return (number + 1) / 2 if self._is_signed else float(number)


def pairs_of(groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return all pairs of rows within groups, each once; the first of each alternates."""
    return [
        (rows[a], rows[b]) if (a + b) % 2 else (rows[b], rows[a])
        for rows in groups
        for a, b in combinations(range(len(rows)), 2)
    ]


def win_shares(pairs: Sequence[tuple[int, int]], shares: Shares, count: int) -> list[float | None]:
    """Return the mean share of wins of ``count`` rows, given that of the first of each pair; None without pairs."""
    won: list[list[float]] = [[] for _ in range(count)]
    for (first, second), share in zip(pairs, shares, strict=True):
        if share is not None:
            won[first].append(share)
            won[second].append(1 - share)
    return [math.fsum(own) / len(own) if own else None for own in won]


@dataclass(frozen=True)
class Ranked(OneReward):
    """Score a response by the share of its group mates that a reward scores lower; a tie counts half.

    It equals :class:`Pairwise` with a comparison of the reward's scores, which are computed once for each response. The
    range is [0, 1], and the mean over a group 1/2: only the order of scores within a group matters, not their scale. A
    dense score enters as its sum; a response that the reward does not apply to scores None, and is nobody's mate. The
    reward is logged under its own name.
    """

    name: str = "ranked"

    @property
    def compares(self) -> Compared:
        """``"group"``."""
        return "group"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` shares of wins."""
        totals = [summed(score) for score in scores[0]]
        pairs = pairs_of(groups_of(batch.prompts, batch.columns.get(EPISODE_GROUP)))
        return list(win_shares(pairs, [_beats(totals[i], totals[j]) for i, j in pairs], len(batch)))


def _beats(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 0.5 if first == second else float(first > second)


# --- agreement -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Majority(RelativeReward):
    """Pay 1 for the answer that most responses of the group give, otherwise 0: self-consistency without labels.

    The range is [0, 1]. Of m answers that tie for the most votes each pays 1/m, the mean over a choice among them by
    chance; so if all k answers differ, each pays 1/k. A response without an answer, such as an empty completion, has no
    vote and pays 0.

    Sources: Wang 2022 (arXiv 2203.11171) for the vote; Zuo 2025 (TTRL, arXiv 2504.16084) for the vote as a reward,
    where a tie falls to one of the answers.
    """

    pattern: str = ""
    r"""Regular expression of the answer, such as ``answer is (\d+)``: its first group, or the whole match without one,
    at its last place in the response. Default: the whole response. Answers are compared in lower case, with single
    spaces."""
    name: ClassVar[str] = "majority"

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"pattern={shown(self.pattern)}; expected a regular expression ({error})") from None

    def answer(self, text: str) -> str | None:
        """Return a response's answer; None if it has none."""
        if self.pattern:
            found = list(re.finditer(self.pattern, text))
            # An optional group may have matched nothing, which is no answer.
            text = (found[-1][1 if found[-1].re.groups else 0] or "") if found else ""
        return " ".join(text.lower().split()) or None

    def score_group(self, texts: list[str], lengths: list[int]) -> list[Score]:
        """Return each response's share of the majority; None without mates."""
        if len(texts) < 2:
            return [None] * len(texts)
        answers = [self.answer(text) for text in texts]
        votes = Counter(answer for answer in answers if answer is not None)
        most = max(votes.values(), default=0)
        winners = [answer for answer, count in votes.items() if count == most]
        return [1 / len(winners) if answer in winners else 0.0 for answer in answers]


# --- novelty ---------------------------------------------------------------------------------------------------

ORDER = 4
"""Longest n-grams of self-BLEU."""


@dataclass(frozen=True)
class Novelty(RelativeReward):
    """Reward words that the other responses do not share: 1 minus self-BLEU, the BLEU of a response against all others.

    BLEU-4 of sentences over words split at spaces, with sacrebleu's ``effective_order`` and its smoothing ``exp``:

        BLEU = BP·exp(mean_n log p_n),  p_n = clipped matches / n-grams,  BP = min(1, exp(1 − r/c))

    n goes up to 4, or to the response's length; an order without matches counts as half a match, the next such as a
    quarter, and so on. c is the response's length in words, r the closest length of another one, the shorter if two are
    as close. A match is clipped at the most that a single other response has of an n-gram. The range is [0, 1]. An
    empty completion scores 0, as it says nothing new; a response without others scores 1. As BP favours a response that
    is shorter than all others, watch the length.

    Sources: Zhu 2018 (Texygen, arXiv 1802.01886) for self-BLEU; Post 2018 (arXiv 1804.08771) for sacrebleu.
    """

    against: Literal["batch", "group"] = "batch"
    """The others: all responses of the 'batch', which are those of an iteration, or those to the same prompt, the
    'group'."""
    name: ClassVar[str] = "novelty"

    def __post_init__(self) -> None:
        if self.against not in ("batch", "group"):
            raise ValueError(f"against={shown(self.against)}; expected 'batch' or 'group'")

    @property
    def compares(self) -> Compared:  # type: ignore[override]
        """``against``."""
        return self.against

    def score_group(self, texts: list[str], lengths: list[int]) -> list[Score]:
        """Return 1 minus self-BLEU of each response; 0 for an empty one."""
        words = [text.split() for text in texts]
        return [1.0 - bleu if own else 0.0 for own, bleu in zip(words, self_bleu(words), strict=True)]


def self_bleu(texts: Sequence[Sequence[str]]) -> list[float]:
    """Return the sentence BLEU, in [0, 1], of each text against all others; 0 for an empty text, or without others.

    Args:
        texts: ``N`` texts as words.
    """
    counts = [[Counter(_ngrams(words, n)) for words in texts] for n in range(1, ORDER + 1)]
    # The largest count among the others is the largest of all, or the second largest where that is the text's own:
    # kept for each n-gram, they make this linear in the number of texts.
    tops = [_two_largest(each) for each in counts]
    lengths = sorted(map(len, texts))
    return [
        _bleu(
            len(words),
            [_matches(each[i], top) for each, top in zip(counts, tops, strict=True)],
            _closest(lengths, words),
        )
        for i, words in enumerate(texts)
    ]


def _ngrams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _two_largest(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int]]:
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for own in counts:
        for gram, count in own.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (count, first) if count > first else (first, max(second, count))
    return found


def _matches(own: Counter[tuple[str, ...]], top: dict[tuple[str, ...], tuple[int, int]]) -> tuple[int, int]:
    """Return the clipped matches of a text with the others, and its number of n-grams."""
    matched = 0
    for gram, count in own.items():
        first, second = top[gram]
        matched += min(count, second if count == first else first)
    return matched, own.total()


def _closest(lengths: list[int], words: Sequence[str]) -> int:
    """Return the length of another text that is closest to a text's own; of two the shorter. 0 without others."""
    others = lengths.copy()
    others.remove(len(words))
    return min(others, key=lambda length: (abs(length - len(words)), length), default=0)


def _bleu(length: int, matches: Sequence[tuple[int, int]], closest: int) -> float:
    if not length or not matches[0][0]:
        return 0.0
    logs, halves = [], 1.0
    for matched, total in matches:
        if not total:
            break
        if not matched:
            halves *= 2
        logs.append(math.log(matched / total if matched else 1 / (halves * total)))
    penalty = min(0.0, 1 - closest / length)
    return math.exp(penalty + math.fsum(logs) / len(logs))


# --- length ----------------------------------------------------------------------------------------------------


def length_scores(lengths: Sequence[int]) -> list[float]:
    """Return 1/2 for the shortest of a group, −1/2 for the longest, linear between; 0 if all are equally long."""
    least, most = min(lengths), max(lengths)
    if least == most:
        return [0.0] * len(lengths)
    return [0.5 - (length - least) / (most - least) for length in lengths]


@dataclass(frozen=True)
class RelativeLength(RelativeReward):
    """Reward responses that are shorter than their group mates: ``1/2 − (len − min) / (max − min)``.

    len is the number of tokens, min and max are those of the group. The range is [−1/2, 1/2]; if all are equally long,
    each scores 0. A response without mates scores None. An empty completion is the shortest. What is long is thus
    decided by the prompt, not by a fixed budget.

    Source: section 2.3.3 of Kimi k1.5 (arXiv 2501.12599), which pays it to right answers, and its negative part to
        wrong
    ones: that is :class:`CorrectLength`.
    """

    name: ClassVar[str] = "relative_length"

    def score_group(self, texts: list[str], lengths: list[int]) -> list[Score]:
        """Return the scores of lengths; None without mates."""
        return list(length_scores(lengths)) if len(lengths) > 1 else [None] * len(lengths)


@dataclass(frozen=True)
class CorrectLength(OneReward):
    """Reward right answers that are shorter than their group mates, and punish long wrong ones.

        λ_i = 1/2 − (len_i − min) / (max − min),  R_i = λ_i if the reward is above ``above``, otherwise min(0, λ_i)

    The range is [−1/2, 1/2]. It is the length reward alone: train on the sum with the reward itself,
    ``compose([(correct, 1), (CorrectLength(correct), 0.1)])``, which calls the reward once. A response that the reward
    does not apply to scores None, but its length counts for its mates. Otherwise as :class:`RelativeLength`.

    Source: section 2.3.3 of Kimi k1.5 (arXiv 2501.12599).

    Attributes:
        above: the score above which an answer counts as right.
    """

    above: float = 0.5
    name: str = "correct_length"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "above")
        check_signature(self.reward)

    @property
    def compares(self) -> Compared:
        """``"group"``."""
        return "group"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return the ``N`` length rewards."""
        plain_lengths = RelativeLength()(
            list(batch.prompts),
            [""] * len(batch),
            completion_ids=list(batch.completion_ids),
            episode_group=batch.columns.get(EPISODE_GROUP),  # type: ignore[arg-type]
        )
        return [self._one(summed(score), length) for score, length in zip(scores[0], plain_lengths, strict=True)]

    def _one(self, score: float | None, length: Score) -> Score:
        if score is None or length is None:
            return None
        assert isinstance(length, float)
        return length if score > self.above else min(0.0, length)
