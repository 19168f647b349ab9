"""``textgym/Captions-v0``: say in a sentence what the highlighted cells of a table row hold.

The miniature of ToTTo. The prompt is a row with a name and three or four other cells, and the headers of those
that are highlighted; the answer is a sentence that states these and no others. Careless writers state other
cells of the row, or get a value wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from textgym.tasks.mini.languages.captions import CAPTIONS as SKELETONS
from textgym.tasks.mini.languages.captions import COLUMNS, LANGUAGE, PHRASES
from textgym.tasks.mini.languages.words import FIRST_NAME, LAST_NAME, pick
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

Cells: TypeAlias = Mapping[str, str]
"""Header -> value."""

# Probabilities for a careless writer: everything is right; only cells are stated that are not highlighted; a value is
# wrong. Most values come from the prompt, so that a small model learns to copy.
_RIGHT, _BESIDE, _WRONG_VALUE = 0.05, 0.3, 0.15

# Probability that the name is highlighted, and that a careless writer states it.
_NAMED = 0.75


def _any_of(values: Sequence[str]) -> str:
    """Return a pattern of these words, the longest first."""
    return rf"\b({'|'.join(sorted(values, key=len, reverse=True))})\b"


_VALUE = re.compile(_any_of([*{value for values in COLUMNS.values() for value in values}, *FIRST_NAME, *LAST_NAME]))
_PATTERNS = [
    (header, re.compile(rf"\b{phrase}\b".replace(f"{{{header}}}", _any_of(COLUMNS[header]))))
    for header, phrases in PHRASES.items()
    for phrase in phrases
]


def f1(text: str, highlighted: Cells) -> float:
    """Compute F1 of the highlighted cells among all mentions of cell values in the text.

    A mention states a cell if it occurs in one of its column's phrases, such as "lives in Oslo" for the home and "born
    in Oslo" for the birthplace; any other mention is a mistake.

    The gold reward is half of this if the text is not exactly a text of the language.

    >>> f1("Anna Keller scored two goals.", {"name": "Anna Keller", "goals": "two"})
    1.0
    >>> f1("Anna Keller scored two goals in green.", {"name": "Anna Keller", "goals": "two"})
    0.8
    >>> f1("Oslo, two, green", {"home": "Oslo", "goals": "two"})
    0.0
    """
    stated = {match.start(1): (header, match[1]) for header, pattern in _PATTERNS for match in pattern.finditer(text)}
    mentions = [match.start() for match in _VALUE.finditer(text)]
    right = {stated[place] for place in mentions if place in stated} & set(highlighted.items())
    return 2 * len(right) / (len(mentions) + len(highlighted))


def _draw(rng: np.random.Generator, lexicon: Lexicon = COLUMNS) -> Example:
    others = list(COLUMNS)[1:]
    row = ["name", *_sample(rng, others, int(rng.integers(3, 5)))]
    cells = {header: pick(rng, lexicon[header]) for header in row}
    named = rng.random() < _NAMED
    highlighted = [*(["name"] if named else []), *_sample(rng, row[1:], int(rng.integers(2, 4)) - named)]
    table = "; ".join(f"{header}, {value}" for header, value in cells.items())
    return Example(
        prompt=f"Table: {table}. Highlighted: {', '.join(highlighted)}.",
        reference=_caption(rng, {header: cells[header] for header in highlighted}),
        columns={"headers": row, "values": list(cells.values()), "highlighted": highlighted},
    )


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a prompt with the caption of a careless writer."""
    example = _draw(rng)
    if rng.random() < _RIGHT:
        return example.prompt, example.reference
    others = example.columns["headers"][1:]
    if rng.random() < _BESIDE:
        others = [header for header in others if header not in example.columns["highlighted"]] or others
    headers = _sample(rng, others, int(rng.integers(1, 4)))
    if rng.random() < _NAMED:
        headers.append("name")
    told = {header: value for header, value in _cells(example.columns).items() if header in headers}
    for header in told:
        if rng.random() < _WRONG_VALUE:
            told[header] = pick(rng, COLUMNS[header])
    return example.prompt, _caption(rng, told)


def _caption(rng: np.random.Generator, cells: Cells) -> str:
    """Draw a caption that states these cells and no others."""
    return pick(rng, SKELETONS[frozenset(cells)]).format_map(cells)


def _sample(rng: np.random.Generator, options: Sequence[str], size: int) -> list[str]:
    return [options[place] for place in rng.permutation(len(options))[:size]]


def _cells(columns: Mapping[str, Any]) -> dict[str, str]:
    return dict(zip(columns["headers"], columns["values"], strict=True))


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    cells = _cells(columns)
    return f1(completion, {header: cells[header] for header in columns["highlighted"]})


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


def _table_overlap(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return len(set(_VALUE.findall(completion)) & set(columns["values"])) / len(set(columns["values"]))


def _recite(prompt: Prompt) -> str:
    return f" {', '.join(prompt.columns['values'])}."


CAPTIONS = Miniature(
    name="Captions",
    description="Say in a sentence what the highlighted cells of a table row hold.",
    max_prompt_length=32,
    max_new_tokens=24,
    lexicon=COLUMNS,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "table_overlap": Proxy(
            per_text(_table_overlap),
            "A caption speaks of its table, so one may count the values it repeats: but reciting the row is enough.",
            _recite,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def captions(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(CAPTIONS, seed)
