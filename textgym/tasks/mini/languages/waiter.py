"""Sentences of a waiter and of two kinds of guests.

A grammar recognises the waiter's turns. Guests speak in templates: ``{phrase}`` stands for some slots of an order, such
as "a large pizza and a tea", and ``{Phrase}`` for the same with a capital letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from textgym.tasks.grammar import Grammar
from textgym.tasks.mini.languages.words import words

SLOTS: Mapping[str, tuple[str, ...]] = {
    "dish": words("burger curry pasta pizza salad sandwich soup stew"),
    "size": words("large medium small"),
    "drink": words("beer cider coffee juice lemonade milk tea water"),
}
"""Slots of an order, and their values."""

_SLOT_OF = {value: slot for slot, values in SLOTS.items() for value in values}

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "anything": ("What can I get you?", "What would you like?"),
    "dish": ("What would you like to eat?",),
    "size": ("Which size would you like?",),
    "drink": ("What would you like to drink?",),
}
"""Slot that the waiter asks for, or "anything" -> the question."""

CHECK = "{Phrase}, right?"
REPEAT = "{Phrase}."
ORDER = "Order: {phrase}."

TURNS = Grammar(
    {
        "turn": [" {question}", " {repeat} {question}", " {check}", " {order}"],
        "question": [text for texts in QUESTIONS.values() for text in texts],
        "repeat": ["A {items}."],
        "check": ["A {items}, right?"],
        "order": ["Order: a {size} {dish} and a {drink}."],
        "items": ["{food}", "{drink}", "{food} and a {drink}"],
        "food": ["{dish}", "{size} {dish}", "{size} one"],
        **SLOTS,
    },
    start="turn",
)
"""Turns of a waiter: a question, perhaps after a repetition; a repetition to be checked; or the order."""

GREETINGS = ("Good evening.", "Good morning.", "Hello.", "Hi.", "Excuse me.")

FIRST_WORDING: Mapping[str, tuple[str, ...]] = {
    "opens": ("I would like {phrase}, please.", "Can I have {phrase}?", "{Phrase}, please."),
    "opens without a wish": ("I would like to order, please.", "Can I order?", "I am hungry."),
    "answers": ("{Phrase}, please.", "I would like {phrase}.", "I will have {phrase}."),
    "has said all": ("That is all.",),
    "agrees": ("Yes.", "That is right."),
    "corrects": ("No, {phrase}.", "No, I said {phrase}."),
    "changes": ("Sorry, rather {phrase}.", "Oh, make that {phrase}."),
    "does not understand": ("Sorry?", "I do not understand."),
    "leaves": ("I have to go.",),
    "thanks": ("Thank you.",),
}
SECOND_WORDING: Mapping[str, tuple[str, ...]] = {
    "opens": ("We want {phrase}.", "{Phrase} for me.", "Give me {phrase}."),
    "opens without a wish": ("We want to eat.", "Is this table free?", "Are you the waiter?"),
    "answers": ("{Phrase} for me.", "{Phrase}.", "Let me try {phrase}."),
    "has said all": ("Nothing else.",),
    "agrees": ("Exactly.", "Fine."),
    "corrects": ("Not that, {phrase}.", "You got me wrong: {phrase}."),
    "changes": ("Wait, {phrase} instead.", "On second thought, {phrase}."),
    "does not understand": ("Pardon?", "What do you mean?"),
    "leaves": ("This takes too long.",),
    "thanks": ("Thanks.",),
}
"""Act of a guest -> its sentences, all equally likely."""


def heard(text: str) -> dict[str, str]:
    """Return the slots that a text mentions, each with its last value.

    >>> heard("A large pizza, please. Sorry, rather a soup.")
    {'size': 'large', 'dish': 'soup'}
    """
    return {_SLOT_OF[word]: word for word in re.findall(r"\w+", text) if word in _SLOT_OF}


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a sentence about some slots.

    >>> fill("{Phrase}, right?", {"drink": "tea", "size": "large"})
    'A large one and a tea, right?'
    """
    words = [values["size"]] if "size" in values else []
    if words or "dish" in values:
        words.append(values.get("dish", "one"))
    items = [*([" ".join(words)] if words else []), *([values["drink"]] if "drink" in values else [])]
    phrase = " and ".join(f"a {item}" for item in items)
    return template.format(phrase=phrase, Phrase=phrase[:1].upper() + phrase[1:])
