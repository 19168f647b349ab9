"""Sentences by the facts that they state: a grammar's texts with their slots left open.

A grammar draws any sentence, but a task also needs a sentence that states given facts and no others. So all texts of a
symbol are written out, except for the words of the slots, and are looked up by the facts that their slots name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from textgym.tasks.grammar import Rules

_SYMBOL = re.compile(r"\{(.*?)\}")

Skeletons = Mapping[frozenset[str], Sequence[str]]
"""Facts -> the skeletons that state each of them once, and state nothing else."""


def skeletons(rules: Rules, symbol: str, facts: Mapping[str, str]) -> Skeletons:
    """Expand all texts of ``symbol``, leaving symbols without rules open, and group them by the facts they state.

    Args:
        rules: a grammar's rules without those of the slots.
        symbol: the start symbol; no rule may be recursive.
        facts: slot -> the fact that it states; a slot that is not named here states nothing.

    >>> rules = {"tale": ["{who} slept.", "{who} slept in {town}."], "who": ["{name}", "somebody"]}
    >>> found = skeletons(rules, "tale", {"name": "name", "town": "place"})
    >>> found[frozenset({"name"})], found[frozenset({"place"})]
    (['{name} slept.'], ['somebody slept in {town}.'])
    """
    groups: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for text in _expand(rules, f"{{{symbol}}}"):
        stated = [facts[slot] for slot in _SYMBOL.findall(text) if slot in facts]
        if len(set(stated)) == len(stated):
            groups[frozenset(stated)].append(text)
    return groups


def _expand(rules: Rules, text: str) -> Iterator[str]:
    """Yield every text that ``text`` becomes once no symbol in it has a rule."""
    found = next((match for match in _SYMBOL.finditer(text) if match[1] in rules), None)
    if found is None:
        yield text
        return
    for production in rules[found[1]]:
        yield from _expand(rules, text[: found.start()] + production + text[found.end() :])
