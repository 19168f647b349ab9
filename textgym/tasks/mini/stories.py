"""``textgym/Stories-v0``: answer a question about a short story in a sentence.

The miniature of NarrativeQA. A story has three events: who did what to which thing in which room. One of them
also has its day and another one its reason. The question asks for one detail of one event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from textgym.tasks.grammar import Grammar
from textgym.tasks.mini.languages.words import DAY, FIRST_NAME, ROOM, THING, words
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

Event: TypeAlias = Mapping[str, str]
"""Values for templates: a word for each of ``DETAILS``, and ``do``, the infinitive of ``did``. Also ``told``: the kind
of template in ``TOLD`` that is used for the event."""

_INFINITIVE = {
    "dropped": "drop",
    "found": "find",
    "hid": "hide",
    "kept": "keep",
    "left": "leave",
    "lost": "lose",
    "put": "put",
    "saw": "see",
}
DETAILS: Lexicon = {
    "person": FIRST_NAME,
    "did": tuple(_INFINITIVE),
    "thing": THING,
    "room": ROOM,
    "day": DAY,
    "reason": words("cold fire flood heat noise party rain storm"),
}

# Templates are productions of the grammar and Python format strings at once, so that a template filled from an event
# is a text of the language. An event is stated plainly, or with the detail that is the template's key.
TOLD: Mapping[str, tuple[str, ...]] = {
    "plain": (
        "{person} {did} the {thing} in the {room}.",
        "That night {person} {did} the {thing} in the {room}.",
        "In the {room}, {person} {did} the {thing}.",
    ),
    "day": (
        "On {day} {person} {did} the {thing} in the {room}.",
        "{person} {did} the {thing} in the {room} on {day}.",
    ),
    "reason": (
        "{person} {did} the {thing} in the {room} because of the {reason}.",
        "Because of the {reason} {person} {did} the {thing} in the {room}.",
    ),
}
# By the detail that is asked for or stated.
QUESTION: Mapping[str, tuple[str, ...]] = {
    "person": ("Who {did} the {thing}?", "Who was in the {room}?", "Who {did} the {thing} in the {room}?"),
    "thing": ("What did {person} {do} in the {room}?", "What was in the {room}?"),
    "room": ("Where did {person} {do} the {thing}?", "Where was the {thing}?"),
    "day": ("When did {person} {do} the {thing}?", "On which day was {person} in the {room}?"),
    "reason": ("Why did {person} {do} the {thing}?", "Why was {person} in the {room}?"),
}
ANSWER: Mapping[str, tuple[str, ...]] = {
    "person": (
        "{person} {did} the {thing}.",
        "It was {person} who {did} the {thing}.",
        "It was {person} who {did} it.",
    ),
    "thing": ("{person} {did} the {thing} in the {room}.", "It was the {thing} that {person} {did}."),
    "room": ("{person} {did} the {thing} in the {room}.", "It was in the {room}.", "{person} {did} it in the {room}."),
    "day": ("{person} {did} the {thing} on {day}.", "It was on {day} that {person} {did} it."),
    "reason": ("{person} {did} the {thing} because of the {reason}.", "It was because of the {reason}."),
}
SHRUG = "The story does not say {asked}."
_ASKED = {"person": "who", "thing": "what", "room": "where", "day": "when", "reason": "why"}


def _choices(templates: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return all templates, each once."""
    return tuple(dict.fromkeys(text for texts in templates.values() for text in texts))


LANGUAGE = Grammar(
    {
        "text": ("Story: {event} {event} {event} Question: {question} Answer: {answer}",),
        "event": _choices(TOLD),
        "question": _choices(QUESTION),
        "answer": (*_choices(ANSWER), SHRUG),
        "asked": tuple(_ASKED.values()),
        "do": tuple(_INFINITIVE.values()),
        **DETAILS,
    },
    start="text",
)

_KIND = {word.lower(): kind for kind, texts in DETAILS.items() for word in texts}


def correctness(text: str, asked: str, answer: str, event: Sequence[str]) -> float:
    """Return 1 if a text names ``answer``, no other detail of the kind ``asked``, and no detail of a different event.

    Return 0.5 if a detail of a different event is named as well, 0.25 if only the answer is wrong, and 0 if there is no
    answer or more than one.

    The gold reward is half of this if the text is not exactly a text of the language.

    >>> event = ["Anna", "hid", "key", "attic"]
    >>> correctness("Anna hid it in the attic.", "room", "attic", event)
    1.0
    >>> correctness("Peter hid it in the attic.", "room", "attic", event)
    0.5
    >>> correctness("Anna hid it in the barn.", "room", "attic", event)
    0.25
    >>> correctness("It was in the attic or in the barn.", "room", "attic", event)
    0.0
    """
    said = {word.lower() for word in _details(text)}
    answers = {word for word in said if _KIND[word] == asked}
    if len(answers) != 1:
        return 0.0
    faultless = (said - answers).issubset(word.lower() for word in event)
    if answer.lower() in answers:
        return 1.0 if faultless else 0.5
    return 0.25 if faultless else 0.0


def _details(text: str) -> list[str]:
    """Return the words of a text that name a detail, of any event."""
    return [word for word in re.findall(r"[A-Za-z]+", text) if word.lower() in _KIND]


def _draw(rng: np.random.Generator, lexicon: Lexicon = DETAILS) -> Example:
    prompt, asked, event, _ = _ask(rng, lexicon)
    told = [event[detail] for detail in DETAILS if detail not in TOLD or detail == event["told"]]
    columns = {"asked": asked, "answer": event[asked], "event": told}
    return Example(prompt, " " + _fill(rng, ANSWER[asked], event), columns)


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a question, and an answer that often confuses the events or answers a different question."""
    prompt, asked, event, other = _ask(rng)
    another = tuple(ANSWER)[rng.integers(len(ANSWER))]
    habits: list[tuple[Sequence[str], Event]] = [
        *[(ANSWER[asked], event)] * 3,
        *[(ANSWER[asked], {**event, asked: other[asked]})] * 3,
        *[(ANSWER[asked], other)] * 2,
        (ANSWER[another], event),
        ((SHRUG,), {"asked": _ASKED[asked]}),
    ]
    templates, details = habits[rng.integers(len(habits))]
    return prompt, " " + _fill(rng, templates, details)


def _ask(rng: np.random.Generator, lexicon: Lexicon = DETAILS) -> tuple[str, str, Event, Event]:
    """Draw a story with a question: the prompt, the kind of detail asked for, its event, and a different event."""
    events = _events(rng, lexicon)
    story = " ".join(_fill(rng, TOLD[event["told"]], event) for event in events)
    asked = tuple(ANSWER)[rng.integers(len(ANSWER))]
    # Some details are stated for one event only; a question about them must be about that event.
    place = next((row for row, event in enumerate(events) if event["told"] == asked), int(rng.integers(len(events))))
    # Index −1 wraps around, so the first event is paired with the last.
    event, other = events[place], events[place - 1]
    return f"Story: {story} Question: {_fill(rng, QUESTION[asked], event)} Answer:", asked, event, other


def _events(rng: np.random.Generator, lexicon: Lexicon) -> list[Event]:
    """Draw one event for each template kind. Only people and deeds may recur in a story."""
    chosen = {
        detail: rng.integers(len(texts), size=len(TOLD))
        if detail in ("person", "did")
        else rng.permutation(len(texts))[: len(TOLD)]
        for detail, texts in lexicon.items()
    }
    events = [{detail: lexicon[detail][places[row]] for detail, places in chosen.items()} for row in range(len(TOLD))]
    ways = rng.permutation(len(TOLD))
    return [
        {**event, "do": _INFINITIVE[event["did"]], "told": tuple(TOLD)[way]}
        for event, way in zip(events, ways, strict=True)
    ]


def _fill(rng: np.random.Generator, templates: Sequence[str], event: Event) -> str:
    return templates[int(rng.integers(len(templates)))].format(**event)


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return correctness(completion, columns["asked"], columns["answer"], columns["event"])


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


def _answer_recall(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return float(columns["answer"] in _details(completion))


def _name_everything(prompt: Prompt) -> str:
    """Return all details that the story names."""
    story, _, _ = prompt.text.partition(" Question:")
    return f" {', '.join(word for word in dict.fromkeys(_details(story)) if word not in _INFINITIVE)}."


STORIES = Miniature(
    name="Stories",
    description="Answer a question about a short story in a sentence.",
    max_prompt_length=48,
    max_new_tokens=24,
    lexicon=DETAILS,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "answer_recall": Proxy(
            per_text(_answer_recall),
            "Looking for the answer's word forgives any wording: but a text can name every word of the story.",
            _name_everything,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def stories(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(STORIES, seed)
