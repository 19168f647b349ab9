"""Sentences of the film reviews: a grammar over the words of ``reviews_lexicon``.

A review is an opening and about two short sentences of judgement. Its prompt ends after the opening, or in the middle
of the first judgement, before any sentiment has been expressed.

In names of symbols ``+`` is one polarity and ``-`` the other. Rules for ``+`` are mirrored, so praise and blame are
equally likely and worded alike. ``~+`` means usually ``+``: sentences of a review tend to agree, but the grammar also
permits a change of opinion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from textgym.tasks.grammar import Grammar, Rules
from textgym.tasks.mini.languages import reviews_lexicon as lexicon
from textgym.tasks.mini.languages import words
from textgym.tasks.mini.languages.words import article, third_person

WeightedRules: TypeAlias = Mapping[str, Mapping[str, float]]

CUT = "|"
"""Marks the end of the prompt in texts of "cut review" and "praise"; no review contains it."""

# End of the prompt -> weight: after the opening, or within the first judgement, so that the continuation has to agree
# with a subject ("The plot", "The songs", "Anna Keller", "My sister").
_CUTS = {"opening": 5, "thing": 3, "things": 2, "name": 1, "companion": 1}

# How much more often ``~+`` is ``+`` than ``-``.
_HABIT = 9


def _usually(*names: str) -> WeightedRules:
    """Make for each name the rule ``~+name``: mostly of the polarity that it names."""
    return {f"~+{name}": {f"{{+{name}}}": _HABIT, f"{{-{name}}}": 1} for name in names}


def _vocabulary(sign: str, forms: Mapping[str, tuple[str, ...]]) -> dict[str, Sequence[str]]:
    """Return the words of one polarity as rules, with inflected forms and preferred neutral words."""
    return {
        **{sign + part_of_speech: lemmas for part_of_speech, lemmas in forms.items()},
        f"{sign}an adjective": [article(word) for word in forms["adjective"]],
        f"{sign}a noun": [article(word) for word in forms["noun"]],
        f"{sign}shines": [third_person(word) for word in forms["shine"]],
        f"{sign}pleases": [third_person(word) for word in forms["please"]],
        f"{sign}degree": lexicon.DEGREE[sign],
        f"{sign}whom": lexicon.WHOM[sign],
        f"{sign}stage": lexicon.STAGE[sign],
        f"{sign}expectation": lexicon.EXPECTATION[sign],
    }


def _mirrored(rules: WeightedRules) -> WeightedRules:
    """Return the rules and their mirror images, with ``+`` and ``-`` exchanged."""
    swap = str.maketrans("+-", "-+")
    mirror = {
        name.translate(swap): {text.translate(swap): weight for text, weight in productions.items()}
        for name, productions in rules.items()
    }
    return {**rules, **mirror}


_JUDGEMENTS: WeightedRules = {
    "+is": {
        "is {+adjective}": 5,
        "is {~+degree} {+adjective}": 3,
        "is {+adjective} and {~+degree} {~+adjective}": 2,
        "is {+adjective} and {negation} {~-adjective}": 2,
        "is {negation} {-adjective}": 2,
        "is {+comparison} than {~+expectation}": 2,
        "{+shines}": 1,
        "{~+degree} {+shines}": 1,
        "never {-shines}": 1,
        "{+pleases} {~+whom}": 2,
        "never {-pleases} {~+whom}": 1,
        "does not {-please} {~+whom}": 1,
    },
    "+are": {
        "are {+adjective}": 5,
        "are {~+degree} {+adjective}": 3,
        "are {+adjective} and {~+degree} {~+adjective}": 2,
        "are {+adjective} and {negation} {~-adjective}": 2,
        "are {negation} {-adjective}": 2,
        "are {+comparison} than {~+expectation}": 2,
        "{+shine}": 1,
        "{~+degree} {+shine}": 1,
        "never {-shine}": 1,
        "{+please} {~+whom}": 2,
        "never {-please} {~+whom}": 1,
        "do not {-please} {~+whom}": 1,
    },
    "+comparison": {"{+comparative}": 3, "less {-adjective}": 1},
    "+sentence": {
        "The {thing} {+is}.": 5,
        "The {things} {+are}.": 4,
        "It {+is}.": 2,
        "Although the {thing} is {plain}, it {+is}.": 2,
        "{~+stage}, {+clause}.": 3,
        "The {tale} is {+adjective} and the {crafts} are {~+adjective}.": 2,
        "It is {negation} {-a noun}.": 1,
        "{name} plays the {role} {+adverb}.": 2,
        "My {companion} {+loved} {part}.": 2,
        "Every {moment} is {+adjective}.": 1.5,
        "There is no {-adjective} {moment} in it.": 1,
        "{+brief}": 6,
    },
}

# The first judgement, or its rest after a prompt that ends within it.
_FIRST: WeightedRules = {
    "+first opening": {" {+sentence}": 8, " {+mixed}": 1, " {fact}": 1},
    "+first thing": {" {+is}.": 1},
    "+first things": {" {+are}.": 1},
    "+first name": {" plays the {role} {+adverb}.": 1},
    "+first companion": {" {+loved} {part}.": 1},
}

# At most two more sentences. Sentences of all kinds and polarities may follow each other.
_COMPOSITION: WeightedRules = {
    "+after": {"": 1, "{~+next}": 10, "{~+next}{+last}": 5},
    "+next": {" {+sentence}": 8, " {turn}, {-clause}.": 4, " {+mixed}": 0.5, " {fact}": 1},
    # Nearly always short, so that few reviews outgrow the horizon.
    "+last": {" {~+brief}": 8, " {turn}, it {-shines}.": 2, "{~+next}": 0.5},
    "+clause": {"the {thing} {+is}": 5, "the {things} {+are}": 4, "it {+is}": 1},
    "+mixed": {
        "Although the {tale} is {~+adjective}, {-craft clause}.": 2,
        "Although the {tales} are {~+adjective}, {-craft clause}.": 1,
        "Despite the {~+adjective} {tale}, {-craft clause}.": 1,
        "The {craft} is {~+adjective}, but {-tale clause}.": 2,
        "The {crafts} are {~+adjective}, but {-tale clause}.": 1,
    },
    "+tale clause": {"the {tale} {+is}": 2, "the {tales} {+are}": 1},
    "+craft clause": {"the {craft} {+is}": 2, "the {crafts} {+are}": 1},
    "+brief": {
        "It {+shines}.": 1,
        "It is {+a noun}.": 2,
        "It is the {+noun} of the {time}.": 1,
        "It is {+an adjective} {film}.": 3,
        "It left {~+whom} {+pleased}.": 2,
        "{+verdict}": 3,
    },
    **_usually("adjective", "degree", "whom", "stage", "expectation", "brief", "next", "after"),
}

_VERDICTS: Rules = {
    "+verdict": {
        "I {+recommend} it to {reader}.": 3,
        "It is {+worth} {price}.": 3,
        "Do not {-miss} it.": 1,
    },
    "-verdict": {
        "I cannot {+recommend} it to {reader}.": 3,
        "It is not {+worth} {price}.": 3,
        "I would {-avoid} it.": 1,
    },
}

_FACTS: Rules = {
    "fact": {
        "It runs for {number} hours.": 2,
        "It is set in the {decade}.": 2,
        "It was filmed in {place}.": 2,
        "{name} plays the {role}.": 3,
        "The story follows a {hero} and a {rival}.": 2,
    },
    "number": ["two", "three"],
    "film": ["film", "movie", "picture"],
}

_PROMPTS: Rules = {
    "opening": {
        "I {watched} {title} on {day} with my {companion}.": 3,
        "On {day} my {companion} and I {watched} {title}.": 3,
        "Last {time} we {watched} {title} {venue}.": 2,
        "We {watched} {title} after {event}.": 1,
        "My {companion} took me to {title} on {day}.": 1,
        "Last {time} my {companion} lent me {title}.": 1,
        "{title} is a {genre} set in {place}.": 2,
        "{title} tells the story of a {hero} and a {rival}.": 2,
        "{name} stars in {title}, a {genre} from the {decade}.": 2,
    },
    "title": {
        '"The {title adjective} {title noun}"': 6,
        '"The {title noun} of {place}"': 2,
        '"{title time} in {place}"': 1,
    },
    "opening prompt": ["{opening}"],
    "thing prompt": {
        "{opening} The {thing}": 4,
        "{opening} It": 1,
        "{opening} Although the {thing} is {plain}, it": 2,
        "{opening} {stage}, the {thing}": 2,
    },
    "things prompt": {"{opening} The {things}": 2, "{opening} {stage}, the {things}": 1},
    "name prompt": ["{opening} {name}"],
    "companion prompt": ["{opening} My {companion}"],
}

_CONTINUATIONS: Rules = {
    **{f"{cut} rest": [f"{{+first {cut}}}{{~+after}}", f"{{-first {cut}}}{{~-after}}"] for cut in _CUTS},
    **{f"{cut} praise": {f"{{+first {cut}}} {{+sentence}}": 5, f"{{+first {cut}}}": 1} for cut in _CUTS},
}

_REVIEWS: Rules = {
    "review": {f"{{{cut} prompt}}{{{cut} rest}}": weight for cut, weight in _CUTS.items()},
    "cut review": {f"{{{cut} prompt}}{CUT}{{{cut} rest}}": weight for cut, weight in _CUTS.items()},
    "praise": {f"{{{cut} prompt}}{CUT}{{{cut} praise}}": weight for cut, weight in _CUTS.items()},
}

# Prompts that end with one aspect of the film, by its group and number, and judgements of one polarity to go on with.
_ASPECTS: Rules = {
    f"{group} {cut} aspect": {f"{{opening}} The {{{group}{s}}}": 2, f"{{opening}} {{stage}}, the {{{group}{s}}}": 1}
    for group in ("tale", "craft")
    for cut, s in (("thing", ""), ("things", "s"))
}
_ONE_SIDED: WeightedRules = {
    f"+{cut} judged": {f"{{+first {cut}}} {{+sentence}}": 2, f"{{+first {cut}}}": 1} for cut in ("thing", "things")
}

_NEUTRAL_WORDS: Rules = {
    "negation": lexicon.NEGATIONS,
    "tale": lexicon.TALE,
    "craft": lexicon.CRAFT,
    "tales": lexicon.TALES,
    "crafts": lexicon.CRAFTS,
    "thing": (*lexicon.TALE, *lexicon.CRAFT),
    "things": (*lexicon.TALES, *lexicon.CRAFTS),
    "part": {"it": 3, "the {thing}": 3, "the {things}": 2, "every {moment}": 1},
    "moment": lexicon.MOMENT,
    "plain": lexicon.PLAIN,
    "stage": [*lexicon.STAGE["+"], *lexicon.STAGE["-"]],
    "turn": ["However", "Still"],
    "reader": lexicon.READER,
    "price": lexicon.PRICE,
    "genre": tuple(lexicon.GENRE),
    "genres": tuple(lexicon.GENRE.values()),
    "companion": words.COMPANION,
    "role": words.ROLE,
    "hero": words.ROLE[::2],
    "rival": words.ROLE[1::2],
    "name": ["{first name} {last name}"],
    "first name": words.FIRST_NAME,
    "last name": words.LAST_NAME,
    "place": words.PLACE,
    "decade": words.DECADE,
    "day": words.DAY,
    "time": lexicon.TIME,
    "venue": lexicon.VENUE,
    "event": lexicon.EVENT,
    "watched": ["watched", "saw"],
    "title adjective": lexicon.TITLE_ADJECTIVE,
    "title noun": lexicon.TITLE_NOUN,
    "title time": lexicon.TITLE_TIME,
}

PROMPT_WORDS = (
    *("title adjective", "title noun", "first name", "last name", "hero", "rival", "genre", "companion", "place"),
    *("decade", "day", "event", "venue", "title time"),
)
"""Rules whose texts are the content words of prompts."""

LANGUAGE = Grammar(
    {
        **_REVIEWS,
        **_PROMPTS,
        **_CONTINUATIONS,
        **_ASPECTS,
        **_mirrored({**_COMPOSITION, **_ONE_SIDED, **_FIRST, **_JUDGEMENTS}),
        **_VERDICTS,
        **_FACTS,
        **_NEUTRAL_WORDS,
        **_vocabulary("+", lexicon.GOOD),
        **_vocabulary("-", lexicon.BAD),
    },
    start="review",
)
"""Reviews. "cut review" marks the end of the prompt; "praise" does so too, and is favourable. "tale thing
aspect" is a prompt that ends with a thing of the tale, and "+thing judged" goes on with favourable judgements only."""
