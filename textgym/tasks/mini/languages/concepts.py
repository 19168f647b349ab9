"""Scenes of the concepts task: one or two sentences about somebody who does something somewhere.

Every part of a scene can be expressed by a concept word ("the baker", "threw", "a red ball", "in the park") or by words
without content ("somebody", "wanted", "something", ""), so that there is a scene for any choice of concepts.
"""

from __future__ import annotations

from collections.abc import Mapping

from textgym.tasks.grammar import Grammar, Rules
from textgym.tasks.mini.languages import words
from textgym.tasks.mini.languages.skeletons import skeletons
from textgym.tasks.mini.languages.words import article

# Verb -> its past and its participle.
VERBS = {
    "break": ("broke", "breaking"),
    "bring": ("brought", "bringing"),
    "carry": ("carried", "carrying"),
    "catch": ("caught", "catching"),
    "clean": ("cleaned", "cleaning"),
    "drop": ("dropped", "dropping"),
    "find": ("found", "finding"),
    "guard": ("guarded", "guarding"),
    "hide": ("hid", "hiding"),
    "hold": ("held", "holding"),
    "kick": ("kicked", "kicking"),
    "paint": ("painted", "painting"),
    "pull": ("pulled", "pulling"),
    "push": ("pushed", "pushing"),
    "steal": ("stole", "stealing"),
    "throw": ("threw", "throwing"),
    "touch": ("touched", "touching"),
    "watch": ("watched", "watching"),
}

KINDS: Mapping[str, tuple[str, ...]] = {
    "agent": (*words.ROLE, *words.ANIMAL),
    "verb": tuple(VERBS),
    "color": words.COLOR,
    "thing": words.THING,
    "place": words.ROOM,
}
"""Kind -> its concepts. No two kinds share a word."""

PREPOSITIONS = ("in", "near", "to")
NEUTRAL_VERBS = ("was", "saw", "wanted", "needed", "left")
"""Verbs that are no concepts, but complete a sentence."""

_SCENES: Rules = {
    "scene": [
        " {Who} {does} {what}{where}.",
        " {Who} was {acting} {what}{where}.",
        " {Who} {does} {what} and left it{there}.",
        " I saw {who} {acting} {what}{where}.",
        " In the {place}, {who} {does} {what}.",
        " Near the {place}, {who} was {acting} {what}.",
        " When we came to the {place}, {who} was {acting} {what}.",
        " On {day}, {who} {does} {what}{where}.",
        " There was {a what}{there}. {Who} {does} it.",
        " {Who} was{there}. I saw {what}.",
    ],
    "who": ["the {agent}", "a {agent}", "my {companion}", "somebody"],
    "Who": ["The {agent}", "A {agent}", "My {companion}", "Somebody"],
    "what": ["the {thing}", "{a thing}", "the {color} {thing}", "a {color} {thing}", "something"],
    "a what": ["{a thing}", "a {color} {thing}", "something"],
    "does": ["{did}", "wanted", "needed"],
    "acting": ["{doing}", "looking at", "waiting for"],
    "where": ["", "{there}"],
    "there": [" in the {place}", " near the {place}", " at home", " outside"],
}

_PROMPTS: Rules = {
    "text": ["Concepts: {concepts}.{scene}"],
    "concepts": ["{concept}, {concept}, {concept}", "{concept}, {concept}, {concept}, {concept}"],
    "concept": [word for kind in KINDS.values() for word in kind],
}

FREE: Mapping[str, tuple[str, ...]] = {"companion": words.COMPANION, "day": words.DAY}
"""Slots that express no concept -> their words."""

# The words of each kind as the scenes need them.
_FORMS: Rules = {
    "agent": KINDS["agent"],
    "did": [past for past, _ in VERBS.values()],
    "doing": [participle for _, participle in VERBS.values()],
    "color": KINDS["color"],
    "thing": KINDS["thing"],
    "a thing": [article(thing) for thing in KINDS["thing"]],
    "place": KINDS["place"],
}

LANGUAGE = Grammar({**_PROMPTS, **_SCENES, **_FORMS, **FREE}, start="text")

SCENES = skeletons(
    _SCENES,
    "scene",
    {**{kind: kind for kind in KINDS if kind != "verb"}, "did": "verb", "doing": "verb", "a thing": "thing"},
)
"""Kinds of concept -> the scenes with one slot for each."""


def forms(concepts: Mapping[str, str]) -> dict[str, str]:
    """Return the words for a scene's slots, given one concept for each of its kinds."""
    slots = {kind: word for kind, word in concepts.items() if kind != "verb"}
    if "verb" in concepts:
        slots["did"], slots["doing"] = VERBS[concepts["verb"]]
    if "thing" in concepts:
        slots["a thing"] = article(concepts["thing"])
    return slots
