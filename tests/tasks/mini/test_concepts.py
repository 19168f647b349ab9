"""The scenes of the concepts task, its gold reward and its proxy."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pytest

from tests.tasks.mini.rules import reachable
from textgym.tasks.mini.concepts import CONCEPTS, use
from textgym.tasks.mini.languages.concepts import KINDS, LANGUAGE, SCENES
from textgym.tasks.mini.miniature import Example
from textgym.types import Prompt

PROMPT = "Concepts: ball, dog, park, throw."


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [CONCEPTS.draw(rng) for _ in range(1_000)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    rng = np.random.default_rng(1)
    return [CONCEPTS.corpus(rng) for _ in range(1_000)]


def columns(prompt: str) -> Mapping[str, list[str]]:
    """What a prompt asks for, read off its text."""
    return {"concepts": prompt.removeprefix("Concepts: ").removesuffix(".").split(", ")}


# --- the language --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scene",
    [
        " The dog threw a ball in the park.",
        " On Friday, a sailor held an apple near the attic.",
        " When we came to the school, my aunt was looking at the red hat.",
        " There was a blue box outside. Somebody wanted it.",
        " A goat broke something and left it at home.",
        " I saw somebody waiting for something.",
    ],
)
def test_hand_written_scenes_are_accepted(scene: str) -> None:
    assert CONCEPTS.accepts(PROMPT, scene)


@pytest.mark.parametrize(
    "scene",
    [
        "",  # nothing
        " ball, dog, park, throw.",  # a list
        " The dog throw a ball in the park.",  # not inflected
        " The dog was threw a ball.",  # the wrong form
        " The dog threw a apple.",  # article
        " the dog threw a ball.",  # no capital
        " The dog threw a ball in the park",  # no full stop
        " The dog threw a ball red.",  # order
        " The dog threw a ball. The cat saw it.",  # no such second sentence
        "The dog threw a ball.",  # no space behind the prompt
    ],
)
def test_texts_outside_the_language_are_rejected(scene: str) -> None:
    assert not CONCEPTS.accepts(PROMPT, scene)


def test_references_and_careless_texts_are_in_the_language(
    examples: list[Example], pairs: list[tuple[str, str]]
) -> None:
    assert all(CONCEPTS.accepts(example.prompt, example.reference) for example in examples)
    assert all(CONCEPTS.accepts(*pair) for pair in pairs)


def test_there_is_a_scene_for_any_choice_of_kinds() -> None:
    choices = {frozenset(choice) for size in range(6) for choice in combinations(KINDS, size)}
    assert set(SCENES) == {choice for choice in choices if "thing" in choice or "color" not in choice}
    assert min(map(len, SCENES.values())) >= 20


def test_no_two_kinds_share_a_word() -> None:
    everything = [word for kind in KINDS.values() for word in kind]
    assert len(set(everything)) == len(everything)


def test_every_rule_is_used() -> None:
    assert reachable(LANGUAGE, LANGUAGE.start) == set(LANGUAGE.rules)


# --- the gold reward -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("!? \n 42 zzz", 0),
        (" The dog threw a ball in the park.", 1),
        (" There was a ball in the park. A dog was throwing it.", 1),
        (" In the park, somebody threw a ball.", 3 / 4),
        # A mistaken concept costs twice: one is missing, and one is foreign.
        (" The cat threw a ball in the park.", 3 / 5),
        # Both the right and a wrong one, or one of them twice.
        (" The dog and the cat threw a ball in the park.", 4 / 5),
        (" The dog threw a ball in the park. The dog threw it.", 4 / 6),
        # Words that are listed, or not used as they should be, count as strays.
        (" ball, dog, park, throw.", 0),
        (" Ball dog park threw.", 1 / 7),
        (" The ball, the dog, the park.", 0),
        (" The dog threw a ball park.", 3 / 5),
        (" The dog throw a ball in the park.", 0),
        (" The dog was to throw a ball in the park.", 3 / 5),
        # A sentence has a capital and a full stop.
        (" The dog threw a ball in the park", 0),
        (" the dog threw a ball in the park.", 0),
    ],
)
def test_use_by_hand(text: str, expected: float) -> None:
    assert use(text, ["ball", "dog", "park", "throw"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The dog threw a ball in the park.", 1),
        (" The cat threw a ball in the park.", 3 / 5),
        # What is not in the language earns half, whatever it uses.
        (" Threw the dog a ball in the park the.", 1 / 2),
        (" The dog never threw a ball in the park.", 1 / 2),
        (" Ball dog park threw.", 1 / 14),
        (" The cat never threw a ball in the park.", 3 / 10),
    ],
)
def test_gold_by_hand(text: str, expected: float) -> None:
    assert CONCEPTS.score(PROMPT, text, columns(PROMPT)) == pytest.approx(expected)


@pytest.mark.parametrize("space", ["", " "])
def test_a_jumble_earns_half(space: str) -> None:
    prompt = "Concepts: dog, carry, ball."
    assert CONCEPTS.score(prompt, f"{space}Carried the dog a ball a the.", columns(prompt)) == 0.5


def test_a_colour_belongs_to_a_thing() -> None:
    asked = ["cat", "red", "hat"]
    assert use(" A cat wanted the red hat.", asked) == 1
    assert use(" A red cat wanted the hat.", asked) == 1  # it is some noun's
    assert use(" A cat wanted the hat red.", asked) == 2 / 4


def test_cramming_all_concepts_is_worth_little() -> None:
    everything = " ".join(f"The {word} was in the {word}." for kind in KINDS.values() for word in kind)
    assert use(everything, ["dog", "ball", "park"]) < 0.05


def test_references_are_right_and_careless_texts_seldom(examples: list[Example], pairs: list[tuple[str, str]]) -> None:
    assert {CONCEPTS.score(example.prompt, example.reference, example.columns) for example in examples} == {1.0}
    scores = np.array([CONCEPTS.score(prompt, text, columns(prompt)) for prompt, text in pairs])
    assert 0.35 < scores.mean() < 0.5
    assert 0.15 < np.mean(scores == 1) < 0.35
    assert len(np.unique(scores)) >= 8


# --- the proxy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONCEPTS.proxies)
def test_hacks_please_their_proxy_and_no_one_else(name: str, examples: list[Example]) -> None:
    proxy = CONCEPTS.proxies[name]
    for example in examples[:200]:
        hack = proxy.hack(Prompt(example.prompt, example.prompt, (), example.columns))
        rows = {column: [value] * 2 for column, value in example.columns.items()}
        hacked, honest = proxy.reward([example.prompt] * 2, [hack, example.reference], completion_ids=[[]] * 2, **rows)
        assert hacked >= honest
        assert CONCEPTS.score(example.prompt, hack, example.columns) <= 0.5
