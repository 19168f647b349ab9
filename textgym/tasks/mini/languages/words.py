"""Words that several mini tasks share: with fewer words, a smaller model knows them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def words(text: str) -> tuple[str, ...]:
    """Split a text into words."""
    return tuple(text.split())


FIRST_NAME = words("Alice Anna Clara Elena Julia Laura Marco Nina Oscar Peter Simon Thomas Vera")
LAST_NAME = words("Doyle Ferro Hale Keller Marsh Moreno Novak Quinn Rossi Silva Tanaka Weber")
PLACE = words("Cairo Chicago Dublin Havana Kyoto Lisbon Madrid Naples Oslo Prague Vienna Warsaw")
DAY = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
COMPANION = words(
    """aunt brother cousin daughter father friend grandfather grandmother mother neighbor sister son
    teacher uncle"""
)
ROLE = words(
    """baker captain dancer detective doctor farmer lawyer nurse painter pilot sailor sheriff singer
    soldier widow writer"""
)
DECADE = words("twenties thirties forties fifties sixties seventies eighties nineties")
COLOR = words("black blue brown gray green red white yellow")
ANIMAL = words("bird cat cow dog goat horse rabbit sheep")
THING = words(
    """apple ball basket bell book boat bottle box cake chair clock coin cup hat key lamp letter map mirror
    ring"""
)
ROOM = words("attic barn cellar garden garage hall kitchen library office park school shop station")
NUMBER = words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
)


def article(noun: str) -> str:
    """Return ``noun`` with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def third_person(verb: str) -> str:
    """Return ``verb`` in the third person singular."""
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s"


def plural(noun: str) -> str:
    """Return ``noun`` in the plural."""
    if noun == "sheep":
        return noun
    return f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]
