"""Critics: the aspect at the end of the prompt decides what is wanted; checked by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from textgym.tasks.mini.critics import CRITICS, one_sidedness
from textgym.tasks.mini.languages import reviews_lexicon as lexicon
from textgym.types import Prompt

OPENING = 'I watched "The Silent Harbor" on Friday with my sister.'


@pytest.mark.parametrize(
    ("text", "liked", "disliked"),
    [
        ("", 0, 0),
        (" It runs for two hours.", 0, 0),
        (" is superb.", 1, 0),
        (" is never superb.", 0, 1),
        (" is far from dull. It is a gem.", 1, 0),
        (" is superb and never witty.", 1 / 2, 1 / 2),
        (" is elegant and not dull. The plot is weak.", 2 / 3, 1 / 3),
    ],
)
def test_gold_by_hand(text: str, liked: float, disliked: float) -> None:
    assert one_sidedness(text, favourable=True) == pytest.approx(liked)
    assert one_sidedness(text, favourable=False) == pytest.approx(disliked)


@pytest.mark.parametrize(
    ("subject", "text", "favourable", "expected"),
    [
        (" The plot", " is superb.", True, 1.0),
        (" The plot", " is dull.", True, 0.0),
        (" The music", " is dull.", False, 1.0),
        (" The songs", " are dull.", False, 1.0),
        (" The songs", " is dull.", False, 0.5),  # number
        (" The plot", " superb superb.", True, 0.5),  # no sentence
        (" The plot", "", True, 0.0),
    ],
)
def test_unnatural_texts_earn_half(subject: str, text: str, favourable: bool, expected: float) -> None:
    assert CRITICS.score(OPENING + subject, text, {"favourable": favourable}) == expected


def test_the_last_word_of_a_prompt_decides() -> None:
    rng = np.random.default_rng(0)
    tale, craft = {*lexicon.TALE, *lexicon.TALES}, {*lexicon.CRAFT, *lexicon.CRAFTS}
    examples = [CRITICS.draw(rng) for _ in range(2_000)]
    last = [re.findall(r"[a-z]+", example.prompt)[-1] for example in examples]
    assert [word in tale for word in last] == [example.columns["favourable"] for example in examples]
    assert set(last) == tale | craft
    assert 0.45 < np.mean([word in tale for word in last]) < 0.55


@pytest.mark.parametrize(("subject", "number"), [(" The plot", "thing"), (" The songs", "things")])
@pytest.mark.parametrize("favourable", [True, False])
def test_counting_words_without_grammar_is_hacked_by_a_negation(subject: str, number: str, favourable: bool) -> None:
    columns = {"favourable": favourable, "number": number}
    text = OPENING + subject
    proxy = CRITICS.proxies["right_words"]
    hack = proxy.hack(Prompt(text, text, (), columns))
    assert CRITICS.accepts(text, hack)
    lists = {name: [value] for name, value in columns.items()}
    assert proxy.reward([text], [hack], completion_ids=[[]], **lists) == [1.0]
    assert CRITICS.score(text, hack, columns) == 0.0
