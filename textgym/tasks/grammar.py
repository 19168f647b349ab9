"""Template grammars: one table of rules generates texts and recognises them exactly.

A rule lists the productions of a non-terminal. A production is a template: literal text, spaces and punctuation
included, in which ``{name}`` stands for any text of the non-terminal ``name``. Nothing is added or removed between the
parts, so the generated texts are, character for character, the recognised ones.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from typing import TypeAlias

import numpy as np

Rules: TypeAlias = Mapping[str, Sequence[str] | Mapping[str, float]]
"""Non-terminal -> its productions: a sequence (all equally likely), or a mapping from template to weight."""

Parts: TypeAlias = tuple[str, ...]
"""A split template: literal texts at even indices, names of non-terminals at odd ones."""

Ends: TypeAlias = Mapping[int, float]
"""Possible end of a match -> its probability."""

_BRACES = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True)
class _Rule:
    """Productions of one non-terminal, compiled.

    Attributes:
        productions: every split template with its probability.
        cumulative: running sums of the probabilities, for sampling.
        words: the templates without non-terminals: length -> text -> probability. One look-up per length finds all
            matches, however many words there are.
        phrases: the other templates.
    """

    productions: tuple[tuple[Parts, float], ...]

    @cached_property
    def cumulative(self) -> list[float]:
        return list(accumulate(probability for _, probability in self.productions))

    @cached_property
    def words(self) -> Mapping[int, Mapping[str, float]]:
        words: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for parts, probability in self.productions:
            if len(parts) == 1:
                words[len(parts[0])][parts[0]] = probability
        return words

    @cached_property
    def phrases(self) -> list[tuple[Parts, float]]:
        return [(parts, probability) for parts, probability in self.productions if len(parts) > 1]


@dataclass(frozen=True, eq=False)
class Grammar:
    """Weighted context-free grammar over characters.

    Rules may be recursive, except on the left (a rule that can begin with itself). The weights of a recursive rule must
    be such that sampling ends.

    >>> rules = {"tale": {"A {pet} slept.": 3, "Listen: {tale}": 1}, "pet": ["cat", "dog"]}
    >>> grammar = Grammar(rules, start="tale")
    >>> grammar.sample(np.random.default_rng(0))
    'A cat slept.'
    >>> grammar.accepts("Listen: A dog slept."), grammar.accepts("Listen: A dog")
    (True, False)
    >>> math.exp(grammar.log_probability("A cat slept."))
    0.375

    Attributes:
        rules: the table; see the module's docstring.
        start: the non-terminal whose texts are the language.
    """

    rules: Rules
    start: str

    def __post_init__(self) -> None:
        for name, productions in self.rules.items():
            if not productions:
                raise ValueError(f"rule {name!r} has no production")
            if isinstance(productions, Mapping) and min(productions.values()) <= 0:
                raise ValueError(f"rule {name!r} has a weight that is not positive: {dict(productions)}")
        self._refuse_unknown_symbols()
        self._refuse_left_recursion()

    def sample(self, rng: np.random.Generator, symbol: str | None = None) -> str:
        """Sample a text of ``symbol`` (by default of ``start``) according to the rules' weights."""
        rule = self._compiled[symbol or self.start]
        # The last sum may round to just below 1; the bound keeps the index inside.
        chosen = bisect_right(rule.cumulative, rng.random(), hi=len(rule.cumulative) - 1)
        parts, _ = rule.productions[chosen]
        return "".join(self.sample(rng, part) if place % 2 else part for place, part in enumerate(parts))

    def accepts(self, text: str, symbol: str | None = None) -> bool:
        """Return True if the whole text is a text of ``symbol`` (by default of ``start``)."""
        return len(text) in self._matches(text, symbol or self.start)

    def log_probability(self, text: str, symbol: str | None = None) -> float:
        """Return the natural logarithm of the probability that ``sample`` draws this text; -inf if it cannot.

        The sum runs over all derivations of the text (the inside probability), so its mean over samples is minus the
        entropy of the language, however ambiguous the rules. In floating point, a text of more than about a thousand
        bits underflows to -inf, while ``accepts`` stays exact.
        """
        probability = self._matches(text, symbol or self.start).get(len(text), 0.0)
        return math.log(probability) if probability > 0 else -math.inf

    @cached_property
    def _compiled(self) -> Mapping[str, _Rule]:
        return {name: _compile(productions) for name, productions in self.rules.items()}

    def _matches(self, text: str, symbol: str) -> Ends:
        """Return the possible ends of texts of ``symbol`` that begin at position 0, by memoised recursive descent."""
        memo: dict[tuple[str, int], Ends] = {}

        def match(name: str, begin: int) -> Ends:
            # Memoised, so that recognition takes polynomial time although many derivations share parts.
            if (name, begin) not in memo:
                memo[name, begin] = _match_rule(self._compiled[name], text, begin, match)
            return memo[name, begin]

        return match(symbol, 0)

    def _refuse_unknown_symbols(self) -> None:
        if self.start not in self.rules:
            raise ValueError(f"start={self.start!r} is not one of the rules {sorted(self.rules)}")
        for name, rule in self._compiled.items():
            unknown = {symbol for parts, _ in rule.productions for symbol in parts[1::2]} - set(self.rules)
            if unknown:
                raise ValueError(f"rule {name!r} names symbols that no rule defines: {sorted(unknown)}")

    def _refuse_left_recursion(self) -> None:
        """Check that no symbol can begin with itself, for which recursive descent would not terminate.

        Raises:
            ValueError: a symbol can; the message names the cycle.
        """
        corners = _left_corners(self._compiled)
        try:
            TopologicalSorter(corners).prepare()
        except CycleError as error:
            raise ValueError(f"rules are left-recursive: {' -> '.join(reversed(error.args[1]))}") from None


def _compile(productions: Sequence[str] | Mapping[str, float]) -> _Rule:
    """Split every template at its braces and normalise the weights."""
    weights = productions if isinstance(productions, Mapping) else dict.fromkeys(productions, 1.0)
    total = sum(weights.values())
    # ``split`` with a group returns literals and names in turn.
    return _Rule(tuple((tuple(_BRACES.split(text)), weight / total) for text, weight in weights.items()))


def _match_rule(rule: _Rule, text: str, begin: int, match: Callable[[str, int], Ends]) -> Ends:
    """Return the possible ends of a match of ``rule`` from ``begin``; ``match`` does the same for a non-terminal."""
    ends: defaultdict[int, float] = defaultdict(float)
    for length, words in rule.words.items():
        if (probability := words.get(text[begin : begin + length])) is not None:
            ends[begin + length] += probability
    for parts, probability in rule.phrases:
        for end, product in _match_parts(parts, text, {begin: probability}, match).items():
            ends[end] += product
    return ends


def _match_parts(parts: Parts, text: str, ends: Ends, match: Callable[[str, int], Ends]) -> Ends:
    """Advance ``ends`` past all ``parts`` in turn; return an empty mapping if one does not match."""
    for place, part in enumerate(parts):
        moved: defaultdict[int, float] = defaultdict(float)
        # Different derivations that end at the same position add their probabilities.
        for end, probability in ends.items():
            if place % 2:
                for further, factor in match(part, end).items():
                    moved[further] += probability * factor
            elif text.startswith(part, end):
                moved[end + len(part)] += probability
        if not moved:
            return {}
        ends = moved
    return ends


def _left_corners(rules: Mapping[str, _Rule]) -> dict[str, set[str]]:
    """Map each name to the symbols with which its texts can begin."""
    corners: dict[str, set[str]] = {name: set() for name in rules}
    empty = _symbols_that_may_be_empty(rules)
    for name, rule in rules.items():
        for parts, _ in rule.phrases:
            for place, part in enumerate(parts):
                if place % 2:
                    corners[name].add(part)
                # Later parts can begin the text only while all before them may be empty.
                if part not in empty if place % 2 else part:
                    break
    return corners


def _symbols_that_may_be_empty(rules: Mapping[str, _Rule]) -> Set[str]:
    """Return the symbols that have an empty text: the least fixed point."""
    empty: set[str] = set()
    while True:
        grown = {
            name
            for name, rule in rules.items()
            if any(not any(parts[::2]) and empty.issuperset(parts[1::2]) for parts, _ in rule.productions)
        }
        if grown == empty:
            return empty
        empty = grown
