"""The invented language, its English, and the gold reward and proxy of the Translation task."""

import numpy as np
import pytest

from textgym.tasks.mini.languages.translation import (
    ACTS,
    ADJECTIVE,
    IS_ACTED_UPON,
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
from textgym.tasks.mini.translation import TRANSLATION
from textgym.types import Prompt

EVENT = Event(Participant("dog", "old", PLURAL), Participant("baker", "", SINGULAR), "see", "present", "park")
PROMPT = "Translate: erdo dorin veka kara belu mu luvi sa. English:"
COLUMNS = {
    "subject": ["dog", "old", PLURAL],
    "object": ["baker", "", SINGULAR],
    "verb": "see",
    "tense": "present",
    "place": "park",
}


def score(text: str) -> float:
    return TRANSLATION.score(PROMPT, text, COLUMNS)


# --- the languages -------------------------------------------------------------------------------------------


def test_either_participant_may_stand_first() -> None:
    assert foreign(EVENT, object_first=False) == "erdo dorin veka kara belu mu luvi sa"
    assert foreign(EVENT, object_first=True) == "erdo belu mu dorin veka kara luvi sa"


def test_no_word_has_two_meanings() -> None:
    invented = [word for table in (NOUN, ADJECTIVE, VERB, PLACE, TENSE, ACTS, IS_ACTED_UPON) for word in table.values()]
    assert len(set(invented)) == len(invented)
    assert set(invented).isdisjoint(word for table in (NOUN, ADJECTIVE, VERB, PLACE, TENSE) for word in table)


@pytest.mark.parametrize(
    "text",
    [
        " The dog bit the baker.",
        " The dogs bite the baker.",
        " The old dogs will bite the lazy bakers in the park.",
        " The nurse annoyed the clever singers.",
        " The cow sees the cow.",
        " The horse impresses the happy pilot in the garden.",
    ],
)
def test_hand_written_sentences_are_accepted(text: str) -> None:
    assert TRANSLATION.accepts(PROMPT, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The dog bit the baker.",  # no space
        " the dog bit the baker.",  # no capital
        " The dog bit the baker",  # no full stop
        " The dog bite the baker.",  # agreement
        " The dogs bites the baker.",
        " The dog will bit the baker.",  # form
        " The dog old bit the baker.",  # order
        " The dog the baker bit.",
        " The dog bit baker.",  # article
        " The dorin bit the baker.",  # not English
        " The old lazy dog bit the baker.",  # two adjectives
        " The dog bit the baker in the moon.",  # unknown place
        " The dog bit the baker. The dog bit the baker.",  # two sentences
        " The dog bit the baker.\n",
    ],
)
def test_other_texts_are_rejected(text: str) -> None:
    assert not TRANSLATION.accepts(PROMPT, text)


def test_parsing_undoes_writing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        example = TRANSLATION.draw(rng)
        event = parse_sentence(example.reference)
        assert event is not None
        assert english(event) == example.reference


# --- gold ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ninths"),
    [
        (" The old dogs see the baker in the park.", 9),
        (" The old dogs saw the baker in the park.", 8),
        (" The old dogs bite the baker in the park.", 8),
        (" The old dogs see the baker.", 8),
        (" The old dogs see the baker in the barn.", 8),
        (" The old dog sees the baker in the park.", 8),
        (" The dogs see the lazy baker in the park.", 7),
        # Neither number nor adjective counts with another noun, so exchanged roles cost six slots.
        (" The old cats see the baker in the park.", 6),
        (" The bakers see the old dogs in the park.", 3),
        (" The cats will bite the nurses.", 0),
        ("", 0),
        (" dogs dogs park", 0),
        (" The baker see the old dogs in the park.", 0),
        (" old dogs see baker park", 0),
        (" The old dogs never see the baker in the park.", 0),
        (" The old dogs do not see the baker in the park.", 0),
        (" The old dogs see the baker in the park. The old dogs saw the baker in the park.", 0),
        (" park" * 5_000, 0),
    ],
)
def test_gold_by_hand(text: str, ninths: int) -> None:
    assert score(text) == pytest.approx(ninths / 9)


def test_references_are_right_and_careless_translations_seldom() -> None:
    gold = []
    for seed in range(1_000):
        example = TRANSLATION.draw(np.random.default_rng(seed))
        prompt, careless = TRANSLATION.corpus(np.random.default_rng(seed))  # of the same event
        assert prompt == example.prompt
        assert TRANSLATION.accepts(prompt, careless)
        assert TRANSLATION.accepts(prompt, example.reference)
        assert TRANSLATION.score(prompt, example.reference, example.columns) == 1.0
        gold.append(TRANSLATION.score(prompt, careless, example.columns))
    assert 0.35 < np.mean(gold) < 0.5
    assert 0.25 < np.mean(np.equal(gold, 1.0)) < 0.35


# --- the proxy -----------------------------------------------------------------------------------------------


def overlap(text: str) -> float:
    reward = TRANSLATION.proxies["word_overlap"].reward
    return reward([PROMPT], [text], completion_ids=[[]], reference=[english(EVENT)])[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The old dogs see the baker in the park.", 1),
        (" park the in baker the see dogs old the", 1),
        (" The dogs", 2 * 2 / (9 + 2)),
        (" the the the the", 2 * 3 / (9 + 4)),
        (" dorin", 0),
        ("", 0),
    ],
)
def test_word_overlap_by_hand(text: str, expected: float) -> None:
    assert overlap(text) == pytest.approx(expected)


def test_exchanged_roles_share_all_words() -> None:
    assert swapped(EVENT) == " The baker see the old dogs in the park."
    proxy, rng = TRANSLATION.proxies["word_overlap"], np.random.default_rng(0)
    for _ in range(200):
        example = TRANSLATION.draw(rng)
        columns = {**example.columns, "reference": example.reference}
        hack = proxy.hack(Prompt(example.prompt, example.prompt, (), columns))
        lists = {name: [value] for name, value in columns.items()}
        assert proxy.reward([example.prompt], [hack], completion_ids=[[]], **lists) == [1.0]
        assert TRANSLATION.score(example.prompt, hack, columns) <= 1 / 3
