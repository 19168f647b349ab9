"""Words of the film reviews, by part of speech. This module is data only: ``reviews_language`` has the sentences.

``GOOD`` and ``BAD`` hold the words that carry sentiment, under the same parts of speech (except for the verbs of
advice); all others are neutral. A good word is good, and a bad word bad, in every sentence, so that a score can be
checked by eye.
"""

from __future__ import annotations

from collections.abc import Mapping

from textgym.tasks.mini.languages.words import words

GOOD: Mapping[str, tuple[str, ...]] = {
    "adjective": words(
        """beautiful brilliant charming clever dazzling delightful elegant excellent fresh funny
        graceful gripping inspired lively lovely magical memorable moving perfect sharp stunning superb
        tender thrilling touching vivid warm witty wonderful"""
    ),
    "comparative": words("better cleverer fresher funnier lovelier richer sharper smarter warmer wittier"),
    "adverb": words(
        """beautifully brilliantly cleverly deftly elegantly flawlessly gracefully perfectly superbly
        vividly wonderfully"""
    ),
    "noun": words("delight gem joy marvel masterpiece pleasure success treasure treat triumph wonder"),
    "shine": words("dazzle delight excel glow shine sing soar sparkle succeed triumph"),
    "please": words("amuse captivate charm delight enchant excite grip impress inspire please thrill touch"),
    "pleased": words("amused captivated charmed delighted enchanted excited happy impressed inspired moved thrilled"),
    "loved": words("admired adored applauded cherished enjoyed liked loved praised treasured"),
    "recommend": ("recommend",),
    "worth": ("worth",),
}

BAD: Mapping[str, tuple[str, ...]] = {
    "adjective": words(
        """awful awkward bland boring cheap clumsy confusing dreadful dreary dull flat forgettable lazy
        lifeless messy muddled painful pointless predictable shallow silly sloppy tasteless tedious
        terrible thin tiresome ugly weak"""
    ),
    "comparative": words("clumsier duller flatter lazier messier sillier sloppier thinner weaker worse"),
    "adverb": words("awkwardly badly clumsily dreadfully lazily painfully poorly sloppily stiffly terribly weakly"),
    "noun": words("blunder bore chore disaster dud failure flop mess mistake nuisance ordeal"),
    "shine": words("collapse crumble drag fail falter flounder sag struggle stumble suffer"),
    "please": words("annoy bore confuse depress disappoint disgust exhaust frustrate insult irritate offend tire"),
    "pleased": words(
        """annoyed bored confused depressed disappointed exhausted frustrated irritated tired unhappy
        weary"""
    ),
    "loved": words("despised detested disliked endured hated loathed mocked regretted resented"),
    "avoid": ("avoid", "skip"),
    "miss": ("miss", "skip"),
}

NEGATIONS = ("not", "never", "hardly", "far from")
NEGATORS = (*NEGATIONS, "no", "less", "cannot")
"""All words that invert the next sentiment word; ``NEGATIONS`` also fit after "is"."""

# Aspects that a review judges, in two groups, so that a contrast never compares an aspect with itself.
TALE = words("climax dialogue ending finale mystery opening pacing plot premise romance script story")
CRAFT = words("acting cast direction editing lighting music photography sound soundtrack staging")
TALES = words("characters flashbacks heroes quarrels scenes speeches twists villains")
CRAFTS = words("chases colors costumes dances landscapes performances sets songs stunts visuals")
MOMENT = words("chapter frame gesture line minute moment scene shot song")

PLAIN = words("familiar modern modest odd old plain quiet serious simple sober strange traditional unusual")

# Neutral words that are more frequent in praise ("+") or blame ("-"), as in English: "simply superb", "rather dull".
DEGREE = {"+": words("always really simply truly"), "-": words("mostly often rather soon")}
WHOM = {
    "+": ("everyone", "the audience", "the children", "the whole family"),
    "-": ("both of us", "me", "the critics", "us"),
}
STAGE = {
    "+": ("From start to finish", "In the first half", "Toward the end", "With every minute"),
    "-": ("After the first hour", "Before the final act", "For long stretches", "In the second half"),
}
EXPECTATION = {
    "+": ("I expected", "most {genres}", "the poster suggests", "the trailer", "we expected"),
    "-": ("I remembered", "other {genres}", "the book", "the first part", "the original"),
}

READER = (
    "all of you",
    "anyone who follows {genres}",
    "families",
    "friends of {genres}",
    "my {companion}",
    "you",
)
PRICE = (
    "a second look",
    "an evening",
    "the journey",
    "the money",
    "the ticket",
    "the wait",
    "two hours",
    "your time",
)

GENRE: Mapping[str, str] = {
    "comedy": "comedies",
    "crime story": "crime stories",
    "documentary": "documentaries",
    "drama": "dramas",
    "fairy tale": "fairy tales",
    "family film": "family films",
    "ghost story": "ghost stories",
    "heist film": "heist films",
    "horror film": "horror films",
    "love story": "love stories",
    "musical": "musicals",
    "road movie": "road movies",
    "spy film": "spy films",
    "thriller": "thrillers",
    "war film": "war films",
    "western": "westerns",
}

TIME = words("night week weekend month spring summer autumn winter")
VENUE = (
    "at a festival",
    "at home",
    "at school",
    "at the cinema",
    "in the park",
    "on a plane",
    "on the train",
)
EVENT = ("a long walk", "dinner", "lunch", "school", "the concert", "work")

TITLE_ADJECTIVE = words(
    """Ancient Blue Burning Copper Crimson Distant Forgotten Frozen Golden Green Hidden Iron Last
    Midnight Northern Painted Paper Scarlet Second Secret Seventh Silent Silver Wandering"""
)
TITLE_NOUN = words(
    """Bridge Captain Clock Crown Door Forest Garden Harbor Harvest Island Kingdom Letter Lighthouse Map
    Mirror Mountain Orchard Piano River Road Shadow Station Tower Train Valley Voyage Window"""
)
TITLE_TIME = words("Autumn Midnight Spring Summer Sunday Winter")
