"""``textgym/Concepts-v0``: write a scene in which all concepts of the prompt occur.

The miniature of CommonGen. The prompt gives three or four words in any order; the answer is one sentence, or two,
that uses each of them, inflected as English asks, and no others. Careless writers drop or mistake some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from textgym.tasks.mini.languages.concepts import (
    FREE,
    KINDS,
    LANGUAGE,
    NEUTRAL_VERBS,
    PREPOSITIONS,
    SCENES,
    VERBS,
    forms,
)
from textgym.tasks.mini.languages.words import pick
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

# The kinds that a prompt may ask for together: a colour needs a thing.
_ASKED = tuple(
    tuple(kinds.split())
    for kinds in (
        "agent verb thing",
        "agent verb place",
        "agent thing place",
        "verb thing place",
        "agent color thing",
        "verb color thing",
        "agent verb thing place",
        "agent verb color thing",
        "agent color thing place",
        "verb color thing place",
    )
)

# Probabilities for a careless writer: everything is right; otherwise each concept is kept, or replaced, or dropped.
# Most words come from the prompt, so that a small model learns to copy.
_RIGHT, _KEPT, _MISTAKEN = 0.1, 0.45, 0.2

_KIND_OF = {word: kind for kind, concepts in KINDS.items() for word in concepts}
_INFLECTED = {form: verb for verb, inflected in VERBS.items() for form in inflected}
_LEMMA = {word: word for word in _KIND_OF} | _INFLECTED
_ARTICLES = ("a", "an", "the")
_SENTENCE = re.compile(r"[A-Z][^.]*\.")
_WORD = re.compile(r"[a-z]+")


def use(text: str, concepts: Sequence[str]) -> float:
    """Compute used / (asked + strays), from concepts that sentences use and stray concept words.

    A sentence has a capital letter, a verb and a full stop. In a sentence a verb is used if it is inflected, a noun
    after an article or a colour, a place after "in", "near" or "to" and an article, and a colour before a noun. Strays
    are the concept words that were not asked for, are repeated, or are not used in this way.

    The gold reward is half of this if the text is not exactly a text of the language.

    >>> use("The dog carried a ball.", ["dog", "carry", "ball"])
    1.0
    >>> use("The dog carried a cup.", ["dog", "carry", "ball"])
    0.5
    >>> use("dog, carry, ball", ["dog", "carry", "ball"])
    0.0
    """
    said = sum(word in _LEMMA for word in _WORD.findall(text.lower()))
    used = {word for sentence in _SENTENCE.findall(text) for word in _used(_WORD.findall(sentence.lower()))}
    used &= set(concepts)
    return len(used) / (len(concepts) + said - len(used))


def _used(sentence: Sequence[str]) -> set[str]:
    """Return the concepts that the words of a sentence use; none if it has no verb."""
    if not any(word in _INFLECTED or word in NEUTRAL_VERBS for word in sentence):
        return set()
    padded = ["", "", *sentence, ""]
    windows = zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    return {_LEMMA[word] for earlier, before, word, behind in windows if _in_place(earlier, before, word, behind)}


def _in_place(earlier: str, before: str, word: str, behind: str) -> bool:
    """Return True if ``word`` and its neighbours fit its kind of concept."""
    kind = _KIND_OF.get(word)
    if kind == "place":
        return before in _ARTICLES and earlier in PREPOSITIONS
    if kind in ("agent", "thing"):
        return before in _ARTICLES or before in KINDS["color"]
    if kind == "color":
        return _KIND_OF.get(behind) in ("agent", "thing")
    return word in _INFLECTED


def _draw(rng: np.random.Generator, lexicon: Lexicon = KINDS) -> Example:
    kinds = _ASKED[rng.integers(len(_ASKED))]
    concepts = {kind: pick(rng, lexicon[kind]) for kind in kinds}
    listed = [concepts[kinds[place]] for place in rng.permutation(len(kinds))]
    return Example(f"Concepts: {', '.join(listed)}.", _scene(rng, concepts), {"concepts": listed})


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a prompt with the scene of a careless writer."""
    example = _draw(rng)
    if rng.random() < _RIGHT:
        return example.prompt, example.reference
    told = {}
    for word in example.columns["concepts"]:
        kind, luck = _KIND_OF[word], rng.random()
        if luck < _KEPT + _MISTAKEN:
            told[kind] = word if luck < _KEPT else pick(rng, KINDS[kind])
    if "thing" not in told:  # a colour needs a thing
        told.pop("color", None)
    return example.prompt, _scene(rng, told)


def _scene(rng: np.random.Generator, concepts: Mapping[str, str]) -> str:
    """Draw a scene with these concepts, by kind, and no others."""
    skeleton = pick(rng, SCENES[frozenset(concepts)])
    free = {slot: pick(rng, choices) for slot, choices in FREE.items()}
    return skeleton.format_map({**free, **forms(concepts)})


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return use(completion, columns["concepts"])


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


def _coverage(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    said = {_LEMMA.get(word) for word in _WORD.findall(completion.lower())}
    return len(said & set(columns["concepts"])) / len(columns["concepts"])


def _list(prompt: Prompt) -> str:
    return f" {', '.join(prompt.columns['concepts'])}."


CONCEPTS = Miniature(
    name="Concepts",
    description="Write a scene that uses all the concepts of the prompt and no others.",
    max_prompt_length=10,
    max_new_tokens=24,
    lexicon=KINDS,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "concept_coverage": Proxy(
            per_text(_coverage),
            "Looking for the concept words is what coverage metrics do: but a bare list of them has them all.",
            _list,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def concepts(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(CONCEPTS, seed)
