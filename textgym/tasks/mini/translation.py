"""``textgym/Translation-v0``: translate a sentence of an invented language into English.

The miniature of machine translation (IWSLT in GRUE). The word order of the invented language differs from the
English one and is partly free, so a translation has to use the particles that mark who acts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from textgym.tasks.mini.languages.translation import (
    ADJECTIVE,
    NOUN,
    PLACE,
    PLURAL,
    SINGULAR,
    TENSE,
    VERB,
    Event,
    Participant,
    english,
    foreign,
    parse_sentence,
    swapped,
)
from textgym.tasks.mini.languages.words import pick
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

_NOUNS, _ADJECTIVES, _VERBS, _PLACES, _TENSES = (tuple(table) for table in (NOUN, ADJECTIVE, VERB, PLACE, TENSE))
_NUMBERS = (SINGULAR, PLURAL)
LEXICON: Lexicon = {"noun": _NOUNS, "adjective": _ADJECTIVES, "verb": _VERBS, "place": _PLACES}
_SLOTS = 9


def adequacy(completion: str, meant: Event) -> float:
    """Compute the share of nine slots that the English sentence translates correctly.

    The slots are noun, adjective and number of the subject and of the object; verb; tense; place. Adjective and number
    count only with the right noun in its role; an empty slot has to stay empty. A text that is not exactly one English
    sentence scores 0.

    >>> meant = Event(Participant("dog", "", "singular"), Participant("baker", "", "singular"), "bite", "past", "")
    >>> [adequacy(text, meant) for text in (" The dog bit the baker.", " The baker bit the dog.", " The dog.")]
    [1.0, 0.3333333333333333, 0.0]
    """
    said = parse_sentence(completion)
    if said is None:
        return 0.0
    right = (
        _agreement(said.subject, meant.subject)
        + _agreement(said.object, meant.object)
        + (said.verb == meant.verb)
        + (said.tense == meant.tense)
        + (said.place == meant.place)
    )
    return right / _SLOTS


def _agreement(said: Participant, meant: Participant) -> int:
    if said.noun != meant.noun:
        return 0
    return sum(ours == theirs for ours, theirs in zip(said, meant, strict=True))


def _draw(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Example:
    event = _event(rng, lexicon)
    return Example(_prompt(rng, event), english(event), _columns(event))


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    event = _event(rng)
    return _prompt(rng, event), english(event if rng.random() < 0.3 else _misread(rng, event))


def _event(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Event:
    nouns, adjectives = lexicon["noun"], lexicon["adjective"]
    subject, object_ = rng.permutation(len(nouns))[:2]
    return Event(
        subject=Participant(nouns[subject], _maybe(rng, adjectives), pick(rng, _NUMBERS)),
        object=Participant(nouns[object_], _maybe(rng, adjectives), pick(rng, _NUMBERS)),
        verb=pick(rng, lexicon["verb"]),
        tense=pick(rng, _TENSES),
        place=_maybe(rng, lexicon["place"]),
    )


def _maybe(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Draw one of the options, or with probability ½ the empty string."""
    return pick(rng, options) if rng.random() < 0.5 else ""


def _prompt(rng: np.random.Generator, event: Event) -> str:
    return f"Translate: {foreign(event, object_first=rng.random() < 1 / 3)}. English:"


def _misread(rng: np.random.Generator, event: Event) -> Event:
    """Return the event as a poor reader understands it: words are guessed, and sometimes the roles are exchanged."""

    def guess(word: str, options: tuple[str, ...]) -> str:
        return pick(rng, options) if rng.random() < 0.7 else word

    def misread(participant: Participant) -> Participant:
        return Participant(
            noun=guess(participant.noun, _NOUNS),
            adjective=guess(participant.adjective, ("", *_ADJECTIVES)),
            number=guess(participant.number, _NUMBERS),
        )

    subject, object_ = misread(event.subject), misread(event.object)
    # Exchanged roles in the corpus leave the policy something to learn from the particles.
    if rng.random() < 0.25:
        subject, object_ = object_, subject
    return Event(
        subject=subject,
        object=object_,
        verb=guess(event.verb, _VERBS),
        tense=guess(event.tense, _TENSES),
        place=guess(event.place, ("", *_PLACES)),
    )


def _columns(event: Event) -> dict[str, Any]:
    """Return the event as JSON values."""
    return {**vars(event), "subject": list(event.subject), "object": list(event.object)}


def _meant(columns: Mapping[str, Any]) -> Event:
    """Return the event described by the columns of a prompt."""
    return Event(
        subject=Participant(*columns["subject"]),
        object=Participant(*columns["object"]),
        verb=columns["verb"],
        tense=columns["tense"],
        place=columns["place"],
    )


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return adequacy(completion, _meant(columns))


def _accepts(prompt: str, completion: str) -> bool:
    return parse_sentence(completion) is not None


def _word_overlap(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    """Compute F1 of the words, counted with repetition, that completion and reference share."""
    ours, theirs = (Counter(text.lower().rstrip(".").split()) for text in (completion, columns["reference"]))
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _swap_roles(prompt: Prompt) -> str:
    return swapped(_meant(prompt.columns))


TRANSLATION = Miniature(
    name="Translation",
    description="Translate a sentence of an invented language into English.",
    max_prompt_length=14,
    max_new_tokens=13,
    lexicon=LEXICON,
    draw=_draw,
    corpus=_corpus,
    score=_score,
    accepts=_accepts,
    proxies={
        "word_overlap": Proxy(
            per_text(_word_overlap),
            "Words shared with a reference are what BLEU-1 counts: but it is blind to who does what to whom.",
            _swap_roles,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def translation(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(TRANSLATION, seed)
