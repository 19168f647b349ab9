"""Utterances of the dialogues: one table of templates generates them, and a grammar of the same table recognises them.

Braces stand for a word of a topic (``TOPICS``), or for an opener (``OPENERS``).
"""

from __future__ import annotations

from collections.abc import Mapping

from textgym.tasks.grammar import Grammar
from textgym.tasks.mini.languages.words import COMPANION, DAY, FIRST_NAME, ROOM, THING

TOPICS: Mapping[str, tuple[str, ...]] = {"day": DAY, "room": ROOM, "thing": THING, "companion": COMPANION}
"""Topics of dialogues, and their words."""

OPENERS: Mapping[str, tuple[str, ...]] = {
    "yes": ("Gladly", "Of course", "Sure", "Yes"),
    "no": ("I am sorry", "No", "Sorry"),
}

ACCEPTING = frozenset({"course", "gladly", "sure", "yes"})
REFUSING = frozenset({"cannot", "no", "not", "sorry"})
"""Words that mark any sentence as accepting or refusing."""

# Last turn of the person who gets the reply.
PROPOSALS = (
    "Shall we meet in the {room} on {day}?",
    "Shall we meet my {companion} in the {room}?",
    "Shall we show the {thing} to my {companion} on {day}?",
    "Can you bring the {thing} to the {room}?",
    "Can you bring the {thing} to my {companion} on {day}?",
    "Would you help my {companion} in the {room} on {day}?",
    "Would you lend the {thing} to my {companion}?",
    "Will you look for the {thing} in the {room}?",
    "Will you wait for my {companion} in the {room} on {day}?",
    "Please bring the {thing} to the {room} on {day}.",
    "Please show my {companion} the {room} on {day}.",
    "Let us meet in the {room} on {day}.",
    "Let us give the {thing} to my {companion}.",
)

# Possible earlier turn of the person who replies.
REMARKS = (
    "I am free on {day}.",
    "I am in the {room}.",
    "I like the {room}.",
    "I found the {thing}.",
    "I have the {thing}.",
    "The {thing} is in the {room}.",
    "It was cold on {day}.",
)

REPLIES: Mapping[str, tuple[str, ...]] = {
    "accept": (
        "{yes}, on {day} I will be in the {room}.",
        "{yes}, {day} is a good day for me.",
        "{yes}, we can do that on {day}.",
        "{yes}, the {room} is fine with me.",
        "{yes}, I know the {room} well.",
        "{yes}, I will take care of the {thing}.",
        "{yes}, the {thing} will be in the {room} soon.",
        "{yes}, your {companion} may have the {thing}.",
        "{yes}, I am happy to see your {companion}.",
        "{yes}, I would love to see your {companion} on {day}.",
    ),
    "refuse": (
        "{no}, I am busy on {day}.",
        "{no}, I must work on {day}.",
        "{no}, I cannot come to the {room}.",
        "{no}, the {room} is closed on {day}.",
        "{no}, the {room} is too cold for me.",
        "{no}, I need the {thing} myself.",
        "{no}, the {thing} is too old for that.",
        "{no}, I do not trust your {companion} with the {thing}.",
        "{no}, I cannot see your {companion} on {day}.",
        "{no}, your {companion} is too late for that.",
    ),
    "inform": (
        "The {room} opens early on {day}.",
        "The {thing} is on the table in the {room}.",
        "The {thing} is old but it still works.",
        "There is a concert on {day} in the {room}.",
        "My train comes late on {day}.",
        "It will be warm on {day}.",
        "Your {companion} was in the {room} yesterday.",
        "Your {companion} is fond of the {thing}.",
        "Your {companion} will be away on {day}.",
        "I cleaned the {room} with your {companion}.",
    ),
    "question": (
        "Is the {room} open on {day}?",
        "How do I get to the {room}?",
        "Who else will be in the {room}?",
        "At what time on {day}?",
        "What shall I bring on {day}?",
        "How old is the {thing}?",
        "What is the {thing} good for?",
        "What does your {companion} want with the {thing}?",
        "Does your {companion} know the {room}?",
        "How long will your {companion} stay?",
    ),
}
"""Intent -> its sentences."""

LANGUAGE = Grammar(
    {
        "dialogue": ["Dialogue ({intent}): {name}: {talk} {name}: {reply}"],
        "intent": tuple(REPLIES),
        "talk": ["{proposal}", "{remark} {name}: {proposal}"],
        "reply": ["{sentence}", "{sentence} {sentence}"],
        "sentence": [*(text for texts in REPLIES.values() for text in texts), "{remark}", "{proposal}"],
        "remark": REMARKS,
        "proposal": PROPOSALS,
        "name": FIRST_NAME,
        **TOPICS,
        **OPENERS,
    },
    start="dialogue",
)
"""Whole dialogues. A reply is one sentence or two, of any intent and topic."""
