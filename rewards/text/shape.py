"""Rewards of a text's shape: varied words, length, patterns and keywords. They need no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

from textgym.numbers import SettingError, check, check_words, count
from textgym.rewards.text.needs import ReadsColumn, choice, require
from textgym.types import completion_text

Unit: TypeAlias = Literal["words", "tokens"]


@dataclass(frozen=True)
class DistinctN:
    """Share of a completion's word n-grams that are distinct, in [0, 1].

    ``distinct-n = number of different n-grams / number of n-grams``, of words between white space. A completion of
    fewer than n words, such as the empty one, scores 0. With ``n=1`` this is the reward ``distinct``.

    Source: Li et al. 2016, arXiv:1510.03055.
    """

    n: int = 2
    """Words in an n-gram."""

    def __post_init__(self) -> None:
        check(self, count, "n")

    @property
    def name(self) -> str:
        return f"distinct-{self.n}"

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[float]:
        """Score ``N`` completions."""
        return [_share_distinct(_ngrams(completion_text(one), self.n), 0.0) for one in completions]


@dataclass(frozen=True)
class RepeatedN:
    """Minus the share of a completion's word n-grams that repeat an earlier one, in [−1, 0]: a penalty on loops.

    ``number of different n-grams / number of n-grams − 1``. A completion of fewer than n words, such as the empty one,
    repeats nothing and scores 0. With ``n=2`` this is the reward ``repetition``.

    Source: seq-rep-n of Welleck et al. 2020, arXiv:1908.04319.
    """

    n: int = 4
    """Words in an n-gram."""

    def __post_init__(self) -> None:
        check(self, count, "n")

    @property
    def name(self) -> str:
        return f"repeated-{self.n}"

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[float]:
        """Score ``N`` completions."""
        return [_share_distinct(_ngrams(completion_text(one), self.n), 1.0) - 1 for one in completions]


@dataclass(frozen=True)
class LengthBudget:
    """Zero for a completion within a budget of words or tokens, less for each one beyond it.

    ``−max(0, length − most, least − length) / most``: a text twice as long as the budget scores −1, one of three times
    −2. An empty completion scores 0, unless there is a ``least``. Words are runs between white space; tokens are those
    that the policy sampled, the end token included.
    """

    most: int
    """Greatest length that costs nothing."""
    least: int = 0
    """Smallest length that costs nothing."""
    unit: Unit = "words"
    """Unit of length: ``"words"`` or ``"tokens"``."""

    def __post_init__(self) -> None:
        check(self, count, "most")
        check(self, count, "least", least=0)
        choice("unit", self.unit, Unit)
        if self.least > self.most:
            raise SettingError(f"least={self.least} is more than most={self.most}; expected at most as much")

    @property
    def name(self) -> str:
        return "length-budget"

    def __call__(self, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        """Score ``N`` completions."""
        if self.unit == "tokens":
            lengths = [len(ids) for ids in completion_ids]
        else:
            lengths = [len(completion_text(one).split()) for one in completions]
        return [-max(0, n - self.most, self.least - n) / self.most + 0.0 for n in lengths]


@dataclass(frozen=True)
class Regex:
    """One if a regular expression is found in the completion, 0 otherwise.

    The pattern is one of Python's ``re``; flags stand in it, as in ``(?i)yes``. An empty completion is searched like
    any other. A pattern with nested repetitions, such as ``(a+)+b``, can take exponential time on some texts.
    """

    pattern: str
    """The regular expression."""
    whole: bool = False
    """Require that the whole completion matches, without the white space around it."""

    def __post_init__(self) -> None:
        try:
            _ = self._compiled
        except re.error as error:
            at = "" if error.pos is None else f" at position {error.pos}"
            raise SettingError(
                f"pattern={self.pattern!r} is not a regular expression: {error.msg}{at}; put a backslash before "
                "characters that stand for themselves"
            ) from error

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @property
    def name(self) -> str:
        return "regex"

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[float]:
        """Score ``N`` completions."""
        texts = map(completion_text, completions)
        if self.whole:
            return [float(self._compiled.fullmatch(text.strip()) is not None) for text in texts]
        return [float(self._compiled.search(text) is not None) for text in texts]


@dataclass(frozen=True)
class Keywords(ReadsColumn):
    """Share of a row's keywords that the completion contains, in [0, 1].

    A keyword is contained if its words stand in the completion, one after another; words are runs of letters and
    digits, compared without regard to case. A keyword that is given twice counts twice. An empty completion scores 0.

    With ``stem`` inflected forms count. People's sentences for CommonGen (dev split) contain 97% of the concepts
    by their stems, and 70% by exact words.

    Source: concept coverage of Lin et al. 2020 (CommonGen), which compares lemmas.
    """

    packages: ClassVar[tuple[str, ...]] = ("nltk",)

    concepts: str = "concepts"
    """Column of the keywords: a text or a list of texts in each row."""
    stem: bool = False
    """Compare Porter stems, so that *running* contains *runs*."""

    def __post_init__(self) -> None:
        check_words(self, "concepts")
        if self.stem:
            require(self.name, "nltk", "nltk")

    @property
    def name(self) -> str:
        return "keywords"

    def column(self) -> str:
        return self.concepts

    def score(self, text: str, given: list[str]) -> float:
        words = self._words(text)
        return sum(_contains(words, self._keyword(one)) for one in given) / len(given)

    def _words(self, text: str) -> list[str]:
        words = re.findall(r"\w+", text.lower())
        return [_stem(word) for word in words] if self.stem else words

    def _keyword(self, text: str) -> list[str]:
        words = self._words(text)
        if not words:
            raise ValueError(f"column {self.concepts!r} holds the keyword {text!r}; expected letters or digits in it")
        return words


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _share_distinct(ngrams: list[tuple[str, ...]], without_any: float) -> float:
    return len(set(ngrams)) / len(ngrams) if ngrams else without_any


def _contains(words: list[str], keyword: list[str]) -> bool:
    n = len(keyword)
    return any(words[i : i + n] == keyword for i in range(len(words) - n + 1))


@lru_cache(maxsize=2**16)
def _stem(word: str) -> str:
    from nltk.stem.porter import PorterStemmer  # takes seconds to import

    return str(PorterStemmer().stem(word))
