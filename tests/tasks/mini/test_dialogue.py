"""The dialogues: their language, what makes a reply fit, how the careless talk, and the parrot."""

import re
from typing import Any

import numpy as np
import pytest

from tests.tasks.mini.rules import reachable
from textgym.tasks.mini.dialogue import DIALOGUE, fitness, intents, repeats
from textgym.tasks.mini.languages.dialogue import LANGUAGE, TOPICS
from textgym.tasks.mini.miniature import Example
from textgym.types import Prompt

PLAN = "Dialogue (accept): Anna: I am free on Monday. Peter: Shall we meet in the park on Friday? Anna:"
TURNS = ["I am free on Monday.", "Shall we meet in the park on Friday?"]
TOPICS_OF_PLAN = ["Friday", "park"]


def gold(completion: str, intent: str = "accept") -> float:
    columns = {"intent": intent, "turns": TURNS, "topics": TOPICS_OF_PLAN}
    return DIALOGUE.score(PLAN.replace("accept", intent), completion, columns)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(1)
    return [DIALOGUE.draw(rng) for _ in range(1_000)]


@pytest.mark.parametrize(
    ("intent", "completion", "expected"),
    [
        ("accept", "", 0),
        ("accept", " garbage lamp lamp", 0),
        ("accept", " Yes, Friday is a good day for me.", 1),
        ("refuse", " Yes, Friday is a good day for me.", 1 / 2),
        # The plan has changed: the last word on a topic counts.
        ("accept", " Yes, Monday is a good day for me.", 1 / 2),
        ("accept", " Yes, on Monday I will be in the park.", 3 / 4),
        ("accept", " Yes, that is fine with me.", 1 / 2),
        ("refuse", " No, I am busy on Friday.", 1),
        ("inform", " It will be warm on Friday.", 1),
        ("inform", " It will not be warm on Friday.", 1 / 2),
        ("question", " Is the park open on Friday?", 1),
        ("question", " Is the park open on Friday? It will be warm on Friday.", 3 / 4),
        # Several intents, in two sentences or in one, and the whole calendar.
        ("accept", " Yes, we can do that on Friday. No, I am busy on Friday.", 3 / 4),
        ("accept", " Yes, no, we cannot do that on Friday.", 1 / 2),
        ("accept", " Yes, Monday or Tuesday or Thursday or Friday.", 5 / 8),
        # An earlier turn, and little more.
        ("question", " Shall we meet in the park on Friday?", 0),
        ("question", " Well, shall we meet in the park on Friday?", 0),
        ("inform", " I am free on Monday.", 0),
        # Unfinished.
        ("accept", " Yes, Friday is a good day. The park", 3 / 4),
        ("inform", " It will be warm on Friday", 1 / 2),
    ],
)
def test_fitness_by_hand(intent: str, completion: str, expected: float) -> None:
    assert fitness(completion, intent, TOPICS_OF_PLAN, TURNS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (" Yes, Friday is a good day for me.", 1),
        (" No, I am busy on Friday.", 1 / 2),
        # What is not in the language earns half, whatever it says.
        (" Yes Friday", 1 / 2),
        (" Yes, I will never go to the park on Friday.", 1 / 2),
        (" Yes, Friday is a good day for me", 1 / 2),
        (" Yes, no, we cannot do that on Friday.", 1 / 4),
        (" Yes, Friday is a good day. The park", 3 / 8),
    ],
)
def test_gold_by_hand(completion: str, expected: float) -> None:
    assert gold(completion) == pytest.approx(expected)


def test_gold_stays_in_its_range() -> None:
    texts = ["?", "...", "\n", "yes " * 500, "Friday? " * 500, "99%", " Shall we meet in the park on Friday?" * 9]
    assert all(0 <= gold(text, intent) < 1 for text in texts for intent in ("accept", "inform", "refuse"))


def test_intents_and_repetition_by_hand() -> None:
    assert intents("  Sure! Why? ") == [{"accept"}, {"question"}]
    assert intents(" . ? ") == []
    assert repeats("On Friday", TURNS)
    assert not repeats("", TURNS)
    assert not repeats("Friday on park the in meet we shall?", TURNS)


@pytest.mark.parametrize(
    "completion",
    [
        " Yes, Friday is a good day for me.",
        " No, I am busy on Monday.",  # the wrong intent and the wrong day, in good English
        " Is the park open on Friday? The lamp is old but it still works.",
        " Shall we meet in the park on Friday?",
        " Of course, your uncle may have the lamp.",
    ],
)
def test_hand_written_replies_are_accepted(completion: str) -> None:
    assert DIALOGUE.accepts(PLAN, completion)


@pytest.mark.parametrize(
    "completion",
    [
        "",  # nothing said
        "Yes, Friday is a good day for me.",  # no space
        " Yes Friday is a good day for me.",  # no comma
        " Yes, friday is a good day for me.",  # no capital
        " No, Friday is a good day for me.",  # who refuses gives another reason
        " Yes, Friday is a good day for me",  # no full stop
        " Yes, the Friday is fine with me.",  # a day is no room
        " I am busy on Friday. I am free on Friday.",  # nobody says that without a "No"
        " Is the park open on Friday? How old is the lamp? How old is the key?",  # a third sentence
        " Is the park open on Friday? Anna: Why?",  # another turn
    ],
)
def test_texts_outside_the_language_are_rejected(completion: str) -> None:
    assert not DIALOGUE.accepts(PLAN, completion)


def test_references_fit_and_are_in_the_language(examples: list[Example]) -> None:
    for example in examples:
        assert DIALOGUE.score(example.prompt, example.reference, example.columns) == 1
        assert DIALOGUE.accepts(example.prompt, example.reference)
        assert f"({example.columns['intent']})" in example.prompt
        assert all(turn in example.prompt for turn in example.columns["turns"])


def test_the_careless_talk_well_and_often_beside_the_point(examples: list[Example]) -> None:
    columns = {example.prompt: example.columns for example in examples}
    rng = np.random.default_rng(1)
    pairs = [DIALOGUE.corpus(rng) for _ in range(1_000)]
    assert all(DIALOGUE.accepts(*pair) for pair in pairs)
    scores = np.array([DIALOGUE.score(*pair, columns_of(pair[0])) for pair in pairs])
    assert 0.25 < np.mean(scores == 1) < 0.45
    assert 0.4 < scores.mean() < 0.65
    assert len(np.unique(scores)) > 5
    assert all(columns_of(prompt) == facts for prompt, facts in columns.items())


def columns_of(prompt: str) -> dict[str, Any]:
    """What the prompt's columns must be, read from its text."""
    match = re.fullmatch(r"Dialogue \((\w+)\): \w+: (.*) \w+:", prompt)
    assert match
    turns = re.split(r" \w+: ", match[2])
    topics: dict[str, str] = {}
    for word in re.findall(r"\w+", " ".join(turns)):
        topics |= {topic: word for topic, words in TOPICS.items() if word in words}
    return {"intent": match[1], "turns": turns, "topics": list(topics.values())}


def test_the_parrot_is_relevant_and_does_not_fit(examples: list[Example]) -> None:
    proxy = DIALOGUE.proxies["relevance"]
    for example in examples[:200]:
        hack = proxy.hack(Prompt(example.prompt, example.prompt, (), example.columns))
        rows = {name: [value] * 2 for name, value in example.columns.items()}
        pair = [hack, example.reference]
        high, low = np.asarray(proxy.reward([example.prompt] * 2, pair, completion_ids=[[], []], **rows))
        assert 1 == high >= low >= 0
        assert DIALOGUE.score(example.prompt, hack, example.columns) == 0


def test_every_rule_is_used() -> None:
    assert reachable(LANGUAGE, LANGUAGE.start) == set(LANGUAGE.rules)
