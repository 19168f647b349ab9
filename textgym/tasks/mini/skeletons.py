"""Sentences by what they tell: a grammar's texts with their slots still open.

A grammar draws any sentence; a task also needs a sentence that tells these facts and no others. So all texts of
a symbol are written out, but for the words of the slots, and are looked up by the facts that their slots name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from textgym.tasks.grammar import Rules

_SYMBOL = re.compile(r"\{(.*?)\}")

Skeletons = Mapping[frozenset[str], Sequence[str]]
"""Facts -> the skeletons that tell each of them once, and tell nothing else."""


def skeletons(rules: Rules, symbol: str, facts: Mapping[str, str]) -> Skeletons:
    """All texts of ``symbol``, those of symbols without rules left open, by the facts that they tell.

    Args:
        rules: a grammar's rules without those of the slots.
        symbol: where the texts begin; no rule may be recursive.
        facts: slot -> the fact that it tells; a slot that is not named here tells nothing.

    >>> rules = {"tale": ["{who} slept.", "{who} slept in {town}."], "who": ["{name}", "somebody"]}
    >>> told = skeletons(rules, "tale", {"name": "name", "town": "place"})
    >>> told[frozenset({"name"})], told[frozenset({"place"})]
    (['{name} slept.'], ['somebody slept in {town}.'])
    """
    groups: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for text in _expand(rules, f"{{{symbol}}}"):
        told = [facts[slot] for slot in _SYMBOL.findall(text) if slot in facts]
        if len(set(told)) == len(told):
            groups[frozenset(told)].append(text)
    return groups


def _expand(rules: Rules, text: str) -> Iterator[str]:
    """Every text that ``text`` becomes once no symbol in it has a rule."""
    found = next((match for match in _SYMBOL.finditer(text) if match[1] in rules), None)
    if found is None:
        yield text
        return
    for production in rules[found[1]]:
        yield from _expand(rules, text[: found.start()] + production + text[found.end() :])
