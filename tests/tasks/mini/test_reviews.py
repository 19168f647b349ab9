"""The language of film reviews, its gold reward and its proxy."""

import re

import numpy as np
import pytest

from tests.tasks.mini.rules import reachable
from textgym.tasks.mini.languages import reviews_lexicon as lexicon
from textgym.tasks.mini.languages.reviews import CUT, LANGUAGE
from textgym.tasks.mini.reviews import REVIEWS, sentiment
from textgym.types import Prompt

OPENING = 'I watched "The Silent Harbor" on Friday with my sister.'


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    rng = np.random.default_rng(5)
    return [REVIEWS.corpus(rng) for _ in range(10_000)]


# --- the language --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "continuation",
    [
        " The acting is superb.",
        " The plot is not dull. The songs never drag.",
        " Although the plot is thin, the acting is superb. It is a gem.",
        " The music is better than I expected. I recommend it to friends of westerns.",
        " It runs for two hours. It is far from a mess.",
        " My brother hated it. Still, the sets are elegant and rather witty.",
    ],
)
def test_hand_written_reviews_are_accepted(continuation: str) -> None:
    assert REVIEWS.accepts(OPENING, continuation)


@pytest.mark.parametrize(
    "continuation",
    [
        "",  # an opening alone
        "The acting is superb.",  # no space between the sentences
        " the acting is superb.",  # no capital
        " The acting is superb",  # no full stop
        " The acting are superb.",  # number
        " The songs is superb.",
        " The acting superb is.",  # order
        " The plot never drag.",
        " It is a elegant film.",  # article
        " Although the plot is thin, the plot is superb.",  # a contrast of a thing with itself
        " It is superb. It is superb. It is superb. It is superb.",  # no end
        " Superb superb superb superb.",
        " The acting is superb.\n",
        " The acting is superb. <eos>",
        CUT + " The acting is superb.",
    ],
)
def test_texts_outside_the_language_are_rejected(continuation: str) -> None:
    assert not REVIEWS.accepts(OPENING, continuation)


def test_a_cut_prompt_decides_how_to_go_on() -> None:
    """Agreement reaches across the prompt's end: the metric sees prompt and completion together."""
    continuations = [" is superb.", " are superb.", " plays the widow badly.", " loved it."]
    subjects = [" The acting", " The songs", " Anna Keller", " My aunt"]
    accepted = [[REVIEWS.accepts(OPENING + subject, rest) for rest in continuations] for subject in subjects]
    np.testing.assert_array_equal(accepted, np.eye(4))


def test_the_language_is_varied(pairs: list[tuple[str, str]]) -> None:
    assert len(set(pairs)) >= 9_500
    assert len({continuation for _, continuation in pairs}) >= 9_000
    words = {word.lower() for pair in pairs for word in re.findall(r"[A-Za-z]+", "".join(pair))}
    assert len(words) >= 500


def test_every_rule_is_used() -> None:
    critics = [f"{group} {cut} aspect" for group in ("tale", "craft") for cut in ("thing", "things")]
    judged = [f"{sign}{cut} judged" for sign in "+-" for cut in ("thing", "things")]
    assert reachable(LANGUAGE, "review", "cut review", "praise", *critics, *judged) == set(LANGUAGE.rules)


# --- the gold reward -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.5),
        (" It runs for two hours.", 0.5),
        (" The acting is superb.", 1),
        (" The acting is dull.", 0),
        (" The plot was not dull.", 1),
        (" It never drags. It is hardly a masterpiece.", 1 / 2),
        (" The songs are far from wonderful.", 0),
        (" The far hills are wonderful.", 1),
        (" There is no dull scene in it.", 1),
        (" The cast is less gripping than the book.", 0),
        (" I cannot recommend it to you.", 0),
        (" Do not miss it.", 1),
        (" Although the plot is thin, the acting is superb.", 1 / 2),
        (" The sets are elegant and not dull. The plot is weak.", 2 / 3),
        # A negator turns one word only, and reaches no further than the clause.
        (" The plot is not dull and dreary.", 1 / 2),
        (" Not now, it is superb.", 1),
        (" It never. Superb.", 1),
        # Whole words, whatever their case; word forms count as their word.
        (" SUPERB! The fundullest.", 1),
        (" It amuses us. It bores me. It delights you. Dullness.", 2 / 3),
    ],
)
def test_gold_by_hand(text: str, expected: float) -> None:
    assert REVIEWS.score("ignored: dull", text, {}) == pytest.approx(expected)


def test_sentiment_is_symmetric_and_broad(pairs: list[tuple[str, str]]) -> None:
    scores = np.array([sentiment(continuation) for _, continuation in pairs])
    assert 0.47 < scores.mean() < 0.53
    assert scores.std() > 0.3
    assert all(np.mean(np.isclose(scores, value)) > 0.02 for value in (0, 1 / 3, 1 / 2, 2 / 3, 1))


def test_sentiment_words_have_one_polarity() -> None:
    good, bad = ({word for words in table.values() for word in words} for table in (lexicon.GOOD, lexicon.BAD))
    assert good.isdisjoint(bad)
    assert good.isdisjoint(lexicon.NEGATORS)
    assert bad.isdisjoint(lexicon.NEGATORS)
    assert len(good) > 100
    assert len(bad) > 100


def test_praise_and_blame_mirror_each_other() -> None:
    rng = np.random.default_rng(0)
    praise, blame = ([sentiment(LANGUAGE.sample(rng, f"{sign}sentence")) for _ in range(1_000)] for sign in "+-")
    assert np.mean(praise) > 0.95
    assert np.mean(blame) < 0.05


def test_prompts_express_no_sentiment_and_may_break_off() -> None:
    rng = np.random.default_rng(0)
    prompts = [REVIEWS.draw(rng).prompt for _ in range(1_000)]
    assert {sentiment(prompt) for prompt in prompts} == {0.5}
    assert 0.3 < np.mean([not prompt.endswith(".") for prompt in prompts]) < 0.7


@pytest.mark.parametrize("prompt", [OPENING, f"{OPENING} The acting"])
def test_counting_words_without_grammar_is_hacked_by_a_negation(prompt: str) -> None:
    proxy = REVIEWS.proxies["good_words"]
    hack = proxy.hack(Prompt(prompt, prompt, ()))
    assert REVIEWS.accepts(prompt, hack)
    assert proxy.reward([prompt], [hack], completion_ids=[[]]) == [1.0]
    assert REVIEWS.score(prompt, hack, {}) == 0.0
