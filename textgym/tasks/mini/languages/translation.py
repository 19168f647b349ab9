"""Invented language, the events that its sentences describe, and their translation into English.

The language is regular throughout. A sentence consists of the place, if given; the two participants, in either order;
the verb; and a particle for the tense. A participant is a noun, its adjective if it has one, and a particle that marks
whether it acts or is acted upon, and whether it is singular or plural.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from textgym.tasks.mini.languages.words import plural, third_person

SINGULAR, PLURAL = "singular", "plural"

NOUN: Mapping[str, str] = {
    "baker": "belu",
    "bird": "wimo",
    "cat": "tiska",
    "cow": "guram",
    "doctor": "hesto",
    "dog": "dorin",
    "farmer": "pelka",
    "goat": "yunet",
    "horse": "karu",
    "nurse": "lomira",
    "painter": "zavi",
    "pilot": "fendo",
    "rabbit": "mipu",
    "singer": "talun",
    "soldier": "brako",
    "teacher": "sefi",
}
ADJECTIVE: Mapping[str, str] = {
    "clever": "rilan",
    "funny": "hupe",
    "happy": "jola",
    "lazy": "sumbo",
    "old": "veka",
    "quiet": "nish",
    "strange": "oxi",
    "tired": "dumar",
}
VERB: Mapping[str, str] = {
    "amuse": "wolit",
    "annoy": "kezu",
    "bite": "grata",
    "call": "piro",
    "charm": "elam",
    "follow": "tovi",
    "greet": "shanu",
    "help": "baldi",
    "impress": "yarmo",
    "see": "luvi",
}
PLACE: Mapping[str, str] = {
    "barn": "horta",
    "garden": "floma",
    "hall": "vasto",
    "kitchen": "cubi",
    "library": "lesk",
    "office": "maku",
    "park": "erdo",
    "school": "didak",
    "shop": "zelto",
    "station": "runda",
}
TENSE: Mapping[str, str] = {"past": "ti", "present": "sa", "future": "lo"}
ACTS: Mapping[str, str] = {SINGULAR: "ka", PLURAL: "kara"}
IS_ACTED_UPON: Mapping[str, str] = {SINGULAR: "mu", PLURAL: "mura"}

_IRREGULAR_PAST = {"bite": "bit", "see": "saw"}


class Participant(NamedTuple):
    """Participant that acts or is acted upon; ``adjective`` may be empty."""

    noun: str
    adjective: str
    number: str


@dataclass(frozen=True)
class Event:
    """Content of a sentence, in English words; ``place`` may be empty."""

    subject: Participant
    object: Participant
    verb: str
    tense: str
    place: str


def foreign(event: Event, *, object_first: bool) -> str:
    """Return the event in the invented language, without punctuation.

    >>> cat, dogs = Participant("cat", "", SINGULAR), Participant("dog", "old", PLURAL)
    >>> foreign(Event(dogs, cat, "see", "past", "park"), object_first=False)
    'erdo dorin veka kara tiska mu luvi ti'
    """
    participants = [_foreign_participant(event.subject, ACTS), _foreign_participant(event.object, IS_ACTED_UPON)]
    if object_first:
        participants.reverse()
    return _spaced([PLACE.get(event.place, ""), *participants, VERB[event.verb], TENSE[event.tense]])


def english(event: Event) -> str:
    """Return the event in English, with a leading space.

    >>> cat, dogs = Participant("cat", "", SINGULAR), Participant("dog", "old", PLURAL)
    >>> english(Event(dogs, cat, "see", "past", "park"))
    ' The old dogs saw the cat in the park.'
    """
    return _sentence(event, event.subject, event.object)


def parse_sentence(text: str) -> Event | None:
    """Return the event of the English sentence ``text``; None if it is not exactly a sentence."""
    match = _SENTENCE.fullmatch(text)
    if match is None:
        return None
    actor_adjective, actor, verb, patient_adjective, patient, place = match.groups(default="")
    subject = Participant(_NOUN_FORMS[actor][0], actor_adjective, _NOUN_FORMS[actor][1])
    object_ = Participant(_NOUN_FORMS[patient][0], patient_adjective, _NOUN_FORMS[patient][1])
    event = Event(subject, object_, *_VERB_FORMS[verb], place)
    # Only agreement is left to check: the pattern allows "The dog see".
    return event if english(event) == text else None


def swapped(event: Event) -> str:
    """Return the event's English sentence with its participants exchanged, and no word changed.

    >>> cat, dogs = Participant("cat", "", SINGULAR), Participant("dog", "old", PLURAL)
    >>> swapped(Event(dogs, cat, "see", "past", "park"))
    ' The cat saw the old dogs in the park.'
    """
    return _sentence(event, event.object, event.subject)


def _sentence(event: Event, before_verb: Participant, behind_verb: Participant) -> str:
    """Return the English sentence; the verb agrees with the event's subject, even if that comes after it."""
    verb = _verb_form(event.verb, event.tense, event.subject.number)
    place = f" in the {event.place}" if event.place else ""
    return f" The {_english_participant(before_verb)} {verb} the {_english_participant(behind_verb)}{place}."


def _foreign_participant(participant: Participant, particle: Mapping[str, str]) -> str:
    adjective = ADJECTIVE.get(participant.adjective, "")
    return _spaced([NOUN[participant.noun], adjective, particle[participant.number]])


def _english_participant(participant: Participant) -> str:
    return _spaced([participant.adjective, _noun_form(participant.noun, participant.number)])


def _noun_form(noun: str, number: str) -> str:
    return plural(noun) if number == PLURAL else noun


def _verb_form(verb: str, tense: str, number: str) -> str:
    """Inflect ``verb`` for its tense and the number of its subject."""
    if tense == "future":
        return f"will {verb}"
    if tense == "past":
        return _IRREGULAR_PAST.get(verb) or (f"{verb}d" if verb.endswith("e") else f"{verb}ed")
    return verb if number == PLURAL else third_person(verb)


def _spaced(parts: Iterable[str]) -> str:
    return " ".join(part for part in parts if part)


_NUMBERS = (SINGULAR, PLURAL)
_NOUN_FORMS = {_noun_form(noun, number): (noun, number) for noun in NOUN for number in _NUMBERS}
_VERB_FORMS = {
    _verb_form(verb, tense, number): (verb, tense) for verb in VERB for tense in TENSE for number in _NUMBERS
}
_PARTICIPANT = rf"(?:({'|'.join(ADJECTIVE)}) )?({'|'.join(_NOUN_FORMS)})"
_SENTENCE = re.compile(
    rf" The {_PARTICIPANT} ({'|'.join(_VERB_FORMS)}) the {_PARTICIPANT}(?: in the ({'|'.join(PLACE)}))?\."
)
