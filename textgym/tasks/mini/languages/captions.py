"""Tables and sentences of the captions task: players, and what a table row says about each.

A column has its values and the phrases that state them. The sentences consist only of these phrases, so that a reader,
like the gold reward, can determine which cells a sentence states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from textgym.tasks.grammar import Grammar, Rules
from textgym.tasks.mini.languages import words
from textgym.tasks.mini.languages.skeletons import skeletons

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": tuple(f"{first} {last}" for first in words.FIRST_NAME for last in words.LAST_NAME),
    "job": words.ROLE,
    "home": words.PLACE,
    "birthplace": words.PLACE,
    "goals": words.NUMBER[2:],
    "rank": words.words("first second third fourth fifth sixth seventh eighth ninth tenth"),
    "color": words.COLOR,
    "day": words.DAY,
}
"""Header -> the values that its cells may have."""

# Phrases that state a cell: with a verb, or added to another cell's verb.
_MAIN: Mapping[str, Sequence[str]] = {
    "job": ("works as a {job}",),
    "home": ("lives in {home}", "has a house in {home}"),
    "birthplace": ("was born in {birthplace}", "comes from {birthplace}"),
    "goals": ("scored {goals} goals", "made {goals} goals"),
    "rank": ("finished in {rank} place", "came {rank} in the end"),
    "color": ("played in {color}", "wore a {color} shirt"),
    "day": ("played on {day}", "was there on {day}"),
}
_ADDED: Mapping[str, str] = {"goals": "with {goals} goals", "color": "in {color}", "day": "on {day}"}
_ADDITIONS: Mapping[str, Sequence[str]] = {
    "goals": ("color", "day"),
    "rank": ("goals", "color", "day"),
    "color": ("day",),
}

PHRASES: Mapping[str, Sequence[str]] = {
    "name": ("{name}",),
    **_MAIN,
    "goals": (*_MAIN["goals"], _ADDED["goals"]),
    "color": (*_MAIN["color"], _ADDED["color"]),
    "day": (_ADDED["day"], "On {day}"),
}
"""Header -> all phrases that state its cell."""


def _with_additions() -> Iterator[str]:
    """Yield phrases that state two cells."""
    for header, added in _ADDITIONS.items():
        for phrase in _MAIN[header]:
            yield from (f"{phrase} {_ADDED[other]}" for other in added)


_CAPTIONS: Rules = {
    "caption": [
        " {Subject} {clause}.",
        " {Subject} {clause} and {clause}.",
        " {Subject}, who {clause}, {clause}.",
        " {Subject} {phrase}, {phrase} and {phrase}.",
        " {Subject}, who {phrase}, {phrase} and {phrase}.",
        " On {day}, {subject} {match}.",
        " On {day}, {subject} {match} and {match}.",
    ],
    "Subject": ["{name}", "The player", "One player"],
    "subject": ["{name}", "the player", "one player"],
    "clause": ["{phrase}", *_with_additions()],
    "phrase": [phrase for phrases in _MAIN.values() for phrase in phrases],
    "match": [phrase for header in _ADDITIONS for phrase in _MAIN[header]],
}

_TABLES: Rules = {
    "text": ["Table: name, {name}; {cells}. Highlighted: {headers}.{caption}"],
    "cells": ["{cell}; {cell}; {cell}", "{cell}; {cell}; {cell}; {cell}"],
    "cell": [f"{header}, {{{header}}}" for header in _MAIN],
    "headers": ["{header}, {header}", "{header}, {header}, {header}"],
    "header": tuple(COLUMNS),
}

LANGUAGE = Grammar({**_TABLES, **_CAPTIONS, **COLUMNS}, start="text")

CAPTIONS = skeletons(_CAPTIONS, "caption", {header: header for header in COLUMNS})
"""Headers -> the captions that state one cell of each of these columns."""
