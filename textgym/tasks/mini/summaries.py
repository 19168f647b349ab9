"""``textgym/Summaries-v0``: say in one or two short sentences what a post tells.

The miniature of TL;DR and CNN/DM. A post reports one event (who did what to what, where and when) in one sentence or
two, among two irrelevant sentences that may name other people, things, places and days.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from textgym.tasks.grammar import Grammar
from textgym.tasks.mini.languages.words import COMPANION, DAY, FIRST_NAME, PLACE, THING, article, words
from textgym.tasks.mini.miniature import INSTANCES, Example, Lexicon, Miniature, build, halved_unless_natural
from textgym.tasks.task import Proxy, Task, per_text
from textgym.types import Prompt

Event: TypeAlias = Mapping[str, str]
"""Values for templates: a text for each of ``FACTS``, and ``Who``, which is ``who`` at a sentence's beginning."""

DEED = words("borrowed bought dropped found lost ordered painted received repaired returned sold won")

FACTS: Lexicon = {
    "who": (*FIRST_NAME, *(f"my {companion}" for companion in COMPANION)),
    "did": DEED,
    "thing": tuple(article(noun) for noun in THING),
    "place": PLACE,
    "day": DAY,
}

# Templates are productions of the grammar and Python format strings at once, so that a template filled from an event
# is a text of the language. These state all facts of an event in one sentence:
_AT_ONCE = (
    "On {day} {who} {did} {thing} in {place}.",
    "{Who} {did} {thing} in {place} on {day}.",
    "In {place}, {who} {did} {thing} on {day}.",
)
TOLD = (
    *((sentence,) for sentence in _AT_ONCE),
    ("On {day} {who} {did} {thing}.", "It happened in {place}."),
    ("{Who} {did} {thing} on {day}.", "We were in {place} then."),
    ("In {place}, {who} {did} {thing}.", "That was on {day}."),
    ("{Who} {did} {thing} in {place}.", "It happened on {day}."),
)
PADDING = (
    "{Who} says that I worry too much.",
    "I should have asked {who} about it first.",
    "As a child I lived very near {place}.",
    "My flight from {place} was late once more.",
    "I have hardly slept at all since {day}.",
    "Sadly, I only get home again on {day}.",
    "All I want for myself is {thing}.",
    "Perhaps I should just order {thing} instead.",
    "A year ago {who} {did} {thing} too.",
    "Sorry that this post is a bit long.",
    "I do not really know where to begin.",
)
COMPLETE = (
    *_AT_ONCE,
    "It was {who} who {did} {thing} in {place} on {day}.",
    "{Who} {did} {thing} on {day}. It happened in {place}.",
    "{Who} {did} {thing} in {place}. That was on {day}.",
)
PARTIAL = (
    "{Who} {did} {thing} in {place}.",
    "{Who} {did} {thing} on {day}.",
    "{Who} was in {place} on {day}.",
    "Somebody {did} {thing} in {place}.",
)
# Number of sentences about the event -> all choices of their places in the post.
_PLACES = {number: tuple(combinations(range(number + 2), number)) for number in (1, 2)}


def _post(told: Sequence[str], padding: Sequence[str], places: Sequence[int]) -> str:
    """Merge the sentences of both kinds, each kind in its order, with those of the event at ``places``."""
    kinds = iter(told), iter(padding)
    return " ".join(next(kinds[place not in places]) for place in range(len(told) + len(padding)))


LANGUAGE = Grammar(
    {
        "text": ("Post: {post} Summary: {summary}",),
        "post": [_post(told, ["{padding}"] * 2, places) for told in TOLD for places in _PLACES[len(told)]],
        "padding": PADDING,
        "summary": (*COMPLETE, *PARTIAL, *PADDING),
        "Who": [who[0].upper() + who[1:] for who in FACTS["who"]],
        **FACTS,
    },
    start="text",
)

# A fact is identified by the last word of its text.
_FACT_WORDS = frozenset(text.split()[-1].lower() for texts in FACTS.values() for text in texts)
_BRIEF = 12  # words, as many as the longest complete summary has


def faithfulness(text: str, facts: Sequence[str]) -> float:
    """Compute F1 of the people, deeds, things, places and days that a text names, against ``facts``.

    A text of more than twelve words gets less, in proportion: half at twenty-four words.

    The gold reward is half of this if the text is not exactly a text of the language.

    >>> facts = ["Anna", "lost", "hat", "Oslo", "Friday"]
    >>> faithfulness("Anna lost a hat in Oslo on Friday.", facts)
    1.0
    >>> faithfulness("Peter lost a hat in Oslo on Friday.", facts)
    0.8
    >>> faithfulness("Anna lost a hat.", facts)
    0.75
    """
    said = _words(text)
    named = _FACT_WORDS.intersection(said)
    right = named.intersection(fact.lower() for fact in facts)
    return 2 * len(right) / (len(named) + len(facts)) * min(1.0, _BRIEF / max(1, len(said)))


def fact_recall(text: str, post: str) -> float:
    """Compute the share of the post's distinct words that the text repeats (ROUGE-1 recall)."""
    wanted = set(_words(post))
    return len(wanted.intersection(_words(text))) / len(wanted)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _sentences(prompt: str) -> list[str]:
    """Return the sentences of the post in a prompt."""
    return re.findall(r"[A-Z][^.]*\.", prompt.removeprefix("Post:"))


def _draw(rng: np.random.Generator, lexicon: Lexicon = FACTS) -> Example:
    prompt, event, _ = _tell(rng, lexicon)
    facts = [event[fact].split()[-1] for fact in FACTS]
    return Example(prompt, " " + _fill(rng, COMPLETE, event), {"facts": facts})


def _corpus(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a post, and a summary that confuses its facts with others, leaves some out, or is irrelevant.

    Writers differ in care, so some summaries are right in all facts and some in none.
    """
    prompt, event, other = _tell(rng)
    care = rng.random()
    confused = _event({fact: event[fact] if rng.random() < care else other[fact] for fact in FACTS})
    templates = (COMPLETE, COMPLETE, PARTIAL, PADDING)[rng.integers(4)]
    return prompt, " " + _fill(rng, templates, confused)


def _tell(rng: np.random.Generator, lexicon: Lexicon = FACTS) -> tuple[str, Event, Event]:
    """Draw a prompt, the event of its post, and the event of the padding."""
    event, other = _events(rng, lexicon)
    told = TOLD[rng.integers(len(TOLD))]
    places = _PLACES[len(told)][rng.integers(len(_PLACES[len(told)]))]
    padding = [PADDING[index] for index in rng.permutation(len(PADDING))[:2]]
    post = _post([text.format(**event) for text in told], [text.format(**other) for text in padding], places)
    return f"Post: {post} Summary:", event, other


def _events(rng: np.random.Generator, lexicon: Lexicon) -> tuple[Event, Event]:
    """Draw two events that have nothing in common."""
    chosen = {fact: rng.permutation(len(texts))[:2] for fact, texts in lexicon.items()}
    first, second = ({fact: lexicon[fact][pair[which]] for fact, pair in chosen.items()} for which in range(2))
    return _event(first), _event(second)


def _event(facts: Event) -> Event:
    return {**facts, "Who": facts["who"][0].upper() + facts["who"][1:]}


def _fill(rng: np.random.Generator, templates: Sequence[str], event: Event) -> str:
    return templates[int(rng.integers(len(templates)))].format(**event)


def _score(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return faithfulness(completion, columns["facts"])


def _accepts(prompt: str, completion: str) -> bool:
    return LANGUAGE.accepts(prompt + completion)


def _post_recall(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    return fact_recall(completion, " ".join(_sentences(prompt)))


def _repeat_padding(prompt: Prompt) -> str:
    """Return the sentences of the post that do not belong to the event."""
    facts = set(_words(" ".join(prompt.columns["facts"])))
    return "".join(f" {sentence}" for sentence in _sentences(prompt.text) if facts.isdisjoint(_words(sentence)))


SUMMARIES = Miniature(
    name="Summaries",
    description="Say in one or two short sentences what a post tells.",
    max_prompt_length=40,
    max_new_tokens=24,
    lexicon=FACTS,
    draw=_draw,
    corpus=_corpus,
    score=halved_unless_natural(_score, _accepts),
    accepts=_accepts,
    proxies={
        "post_recall": Proxy(
            per_text(_post_recall),
            "ROUGE-1 recall against the post needs no reference summaries: but padding has words, too.",
            _repeat_padding,
        )
    },
)


@lru_cache(maxsize=INSTANCES)
def summaries(seed: int | None = None) -> Task:
    """Return the task, or the instance that a seed draws, built once."""
    return build(SUMMARIES, seed)
