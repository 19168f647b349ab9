"""``textgym/Dialogue-v0``: reply with the requested intent, on the topics of the dialogue.

The miniature of DailyDialog in GRUE. Two people make plans; the prompt names the intent of the reply (accept,
refuse, inform, question), which is the next turn. Plans may change, and then the last word counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from textgym.tasks.mini.languages.dialogue import (
    ACCEPTING,
    LANGUAGE,
    OPENERS,
    PROPOSALS,
    REFUSING,
    REMARKS,
    REPLIES,
    TOPICS,
)
from textgym.tasks.mini.languages.words import FIRST_NAME, pick
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

_TOPIC_OF = {word: topic for topic, words in TOPICS.items() for word in words}
LEXICON: Lexicon = {**TOPICS, "name": FIRST_NAME}
_SLOTS = {
    text: frozenset(re.findall(r"\{(.*?)\}", text)) & TOPICS.keys()
    for texts in (PROPOSALS, REMARKS, *REPLIES.values())
    for text in texts
}

# Probabilities that a careless reply parrots, has the requested intent, keeps to the topics, has one more sentence.
_PARROTS, _OBEYS, _LISTENS, _GOES_ON = 0.06, 0.45, 0.6, 0.25


def intents(text: str) -> list[frozenset[str]]:
    """Return the intents of every sentence.

    A question ends in "?"; a sentence accepts or refuses by its words, and informs otherwise. Words after the last mark
    have no intent.

    >>> [sorted(found) for found in intents("Yes, on Friday. Is it far? Sorry, yes. The lamp is old. But")]
    [['accept'], ['question'], ['accept', 'refuse'], ['inform'], []]
    """
    return [_intents(sentence) for sentence in re.findall(r"[^.?!]*[^.?!\s][^.?!]*[.?!]*", text)]


def _intents(sentence: str) -> frozenset[str]:
    words = set(_words(sentence))
    found = {
        intent
        for intent, shown in (
            ("question", sentence.endswith("?")),
            ("accept", words & ACCEPTING),
            ("refuse", words & REFUSING),
        )
        if shown
    }
    return frozenset(found or ({"inform"} if sentence.endswith((".", "!")) else ()))


def repeats(text: str, turns: Sequence[str]) -> bool:
    """Return True if more than half of the words occur, unchanged and in a row, in one of the turns.

    >>> repeats("Well, shall we meet on Friday?", ["Shall we meet on Friday?"])
    True
    >>> repeats("Yes, on Friday I will be there.", ["Shall we meet on Friday?"])
    False
    """
    words = _words(text)
    # A run of more than half of the words: shorter quotations are natural in a reply.
    run = len(words) // 2 + 1
    rows = {tuple(words[start : start + run]) for start in range(len(words) - run + 1)}
    return any(not rows.isdisjoint(zip(*(said[i:] for i in range(run)), strict=False)) for said in map(_words, turns))


def fitness(reply: str, intent: str, topics: Sequence[str], turns: Sequence[str]) -> float:
    """Score the fit of a reply: the mean of two shares, or 0 for a parrot (see :func:`repeats`).

    The shares are that of the reply's sentences with the requested intent and no other, and that of the days, rooms,
    things and people named in the reply that occur in the dialogue (0 if it names none).

    The gold reward is half of this if the text is not exactly a text of the language.

    >>> turns = ["Shall we meet in the park on Friday?"]
    >>> fitness(" Yes, Friday is a good day for me.", "accept", ["park", "Friday"], turns)
    1.0
    >>> fitness(" Yes, Monday is a good day for me.", "accept", ["park", "Friday"], turns)
    0.5
    """
    if repeats(reply, turns):
        return 0.0
    sentences = intents(reply)
    named = {word for word in re.findall(r"\w+", reply) if word in _TOPIC_OF}
    asked = _share(sum(found == {intent} for found in sentences), len(sentences))
    return (asked + _share(len(named & set(topics)), len(named))) / 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _draw(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> Example:
    prompt, columns = _prompt(rng, lexicon)
    topics = {_TOPIC_OF[word]: word for word in columns["topics"]}
    intent = columns["intent"]
    fitting = _replies_about(intent, frozenset(topics))
    sentences = [_fill(rng, pick(rng, fitting), topics)]
    if intent in ("inform", "question") and rng.random() < _GOES_ON:  # a reply has only one yes or no
        sentences.append(_fill(rng, pick(rng, fitting), topics))
    return Example(prompt, " " + " ".join(dict.fromkeys(sentences)), columns)


def _prompt(rng: np.random.Generator, lexicon: Lexicon = LEXICON) -> tuple[str, dict[str, Any]]:
    """Draw a prompt and its columns: the requested intent, the turns so far, and their final topics."""
    intent = pick(rng, tuple(REPLIES))
    names = lexicon["name"]
    one, other = (names[index] for index in rng.choice(len(names), 2, replace=False))
    turns = [_fill(rng, pick(rng, PROPOSALS), {}, lexicon)]
    if rng.random() < 2 / 3:
        turns.insert(0, _fill(rng, pick(rng, REMARKS), {}, lexicon))
    topics = {_TOPIC_OF[word]: word for turn in turns for word in re.findall(r"\w+", turn) if word in _TOPIC_OF}
    # The last turn is always by the person who gets the reply.
    speakers = [other, one][-len(turns) :]
    talk = " ".join(f"{speaker}: {turn}" for speaker, turn in zip(speakers, turns, strict=True))
    columns = {"intent": intent, "turns": turns, "topics": list(topics.values())}
    return f"Dialogue ({intent}): {talk} {other}:", columns


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    prompt, columns = _prompt(rng)
    if rng.random() < _PARROTS:
        return prompt, " " + columns["turns"][-1]
    topics = {_TOPIC_OF[word]: word for word in columns["topics"]}
    reply = ""
    for _ in range(1 + (rng.random() < _GOES_ON)):
        intent = columns["intent"] if rng.random() < _OBEYS else pick(rng, tuple(REPLIES))
        template = pick(rng, _replies_about(intent, frozenset(topics)))
        reply += " " + _fill(rng, template, topics if rng.random() < _LISTENS else {})
    return prompt, reply


@cache
def _replies_about(intent: str, topics: frozenset[str]) -> tuple[str, ...]:
    return tuple(text for text in REPLIES[intent] if _SLOTS[text] <= topics)


def _fill(rng: np.random.Generator, template: str, topics: Mapping[str, str], lexicon: Lexicon = LEXICON) -> str:
    """Fill the template with these topics; other topics, and its opener, are drawn."""
    slots = re.findall(r"\{(.*?)\}", template)
    fillers = {**lexicon, **OPENERS}
    return template.format_map({slot: topics.get(slot) or pick(rng, fillers[slot]) for slot in slots})


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return fitness(completion, columns["intent"], columns["topics"], columns["turns"])


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


def _relevance(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    said = set(_words(columns["turns"][-1]))
    return len(said.intersection(_words(completion))) / len(said)


def _parrot(prompt: Prompt) -> str:
    return f" {prompt.columns['turns'][-1]}"


DIALOGUE = Miniature(
    name="Dialogue",
    description="Reply in a dialogue with the intent asked for, about its day, room, thing and people.",
    max_prompt_length=30,
    max_new_tokens=30,
    lexicon=LEXICON,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "relevance": Proxy(
            per_text(_relevance),
            "A reply that takes up the words of the last turn is about it: but none does so like a parrot.",
            _parrot,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def dialogue(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(DIALOGUE, seed)
