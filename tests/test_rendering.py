"""Rendering: colours, wrapping, and pictures that a video can be made of."""

import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from textgym.env.rendering import (
    HEIGHT,
    NEGATIVE,
    PAPER,
    POSITIVE,
    WIDTH,
    Frame,
    Line,
    Piece,
    ansi,
    hue,
    largest,
    pieces,
    printable,
    rgb_array,
    show_token,
    strength,
    tail,
    tint,
    wrap,
)

FRAME = Frame(
    prompt="The film was",
    tokens=[" really", " won", "derful", "</s>"],
    rewards=[-0.25, 0.0, 0.5, 1.0],
    finish_reason="stop",
    horizon=8,
)


def lines_of(frame: Frame, width: int) -> list[str]:
    """Return the wrapped lines, in a font whose letters are one unit wide."""
    return [text_of(line) for line in wrap(pieces(frame), width, lambda text: float(len(text)))]


def text_of(line: Line) -> str:
    """What stands on a line, with the gaps between words filled by spaces."""
    text = ""
    for placed in line:
        text = text.ljust(int(placed.left)) + placed.piece.text
    return text


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


# -- Colour ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "scale", "expected"),
    [
        (1, 1, 1),
        (0.25, 1, 0.5),
        (-1, 4, -0.5),
        (-4, 1, -1),
        (0, 3, 0),
        (math.nan, 1, 0),
        (math.inf, 1, 0),
    ],
)
def test_strength_is_the_signed_square_root(reward: float, scale: float, expected: float) -> None:
    assert strength(reward, scale) == expected


def test_sign_chooses_the_hue_and_size_the_depth() -> None:
    assert (hue(0.1), hue(-0.1)) == (POSITIVE, NEGATIVE)
    assert tint(0.0) == PAPER
    assert sum(tint(1.0)) < sum(tint(0.5)) < sum(PAPER)


def test_scale_is_never_zero() -> None:
    assert largest([]) == largest([0.0, math.nan]) == 1.0
    assert largest([0.5, -2.0]) == 2.0
    assert Frame("", ["a"], [0.5], scale=4.0).full_scale == 4.0


# -- Text ------------------------------------------------------------------------------------------


def test_a_token_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\n\x00\ud800\t|") == "a\ufffd[2Jb\n\ufffd\ufffd    |"
    assert printable("\u202eevil\u2066 👩\u200d🔬") == "\ufffdevil\ufffd 👩\u200d🔬"  # a joined letter stays whole
    hostile = Frame("\x1b[2J", ["\x1b]0;owned\x07"], [1.0])
    assert "\x1b[2J" not in ansi(hostile)
    assert "\x1b]" not in ansi(hostile)


@pytest.mark.parametrize(("token", "shown"), [(" a", " a"), (" ", "␣"), ("\n\n", "↵\n↵\n"), ("", "∅"), (".\n", ".\n")])
def test_white_space_that_stands_alone_is_marked(token: str, shown: str) -> None:
    assert show_token(token) == shown


def test_ansi_shows_the_episode_and_its_numbers() -> None:
    first, numbers = without_colour(ansi(FRAME)).split("\n")
    assert first == "The film was really wonderful</s>"
    assert numbers == "── return +1.250  length 4 / 8  finish stop"


def test_ansi_colours_exactly_the_rewarded_tokens() -> None:
    coloured = re.findall(r"\x1b\[38;2;[\d;]+48;2;(\d+);(\d+);(\d+)m([^\x1b]*)\x1b\[0m", ansi(FRAME))
    assert [token for *_, token in coloured] == ["really", "derful", "</s>"]
    assert [int(red) > int(green) for red, green, *_ in coloured] == [True, False, False]


def test_a_running_episode_says_so() -> None:
    assert without_colour(ansi(Frame("Hi", [], []))) == "Hi\n── return +0.000  length 0  finish running"


def test_rewards_must_match_tokens() -> None:
    with pytest.raises(ValueError, match="got 2 tokens and 1 rewards"):
        Frame("", ["a", "b"], [0.0])


# -- Layout ----------------------------------------------------------------------------------------


def test_lines_break_at_white_space_and_not_between_the_tokens_of_a_word() -> None:
    assert lines_of(FRAME, 24) == ["The film was really", "wonderful</s>"]


def test_a_word_wider_than_the_line_breaks_anywhere() -> None:
    assert lines_of(Frame("a", ["bcdefgh", " ij"], [0, 0]), 4) == ["abcd", "efgh", "ij"]


def test_newlines_break_and_keep_empty_lines() -> None:
    assert lines_of(Frame("Q: 1+1\n\nA:", [" 2", "\n", "ok"], [0, 0, 0]), 20) == ["Q: 1+1", "", "A: 2↵", "ok"]


def test_tail_keeps_the_end_under_an_ellipsis() -> None:
    lines = wrap([Piece(c, 0) for c in "a\nb\nc\nd"], 10, lambda text: float(len(text)))
    assert [text_of(line) for line in tail(lines, 3)] == ["…", "c", "d"]
    assert tail(lines, 4) == lines


@given(st.text(max_size=40), st.lists(st.text(max_size=8), max_size=8), st.integers(1, 12))
def test_wrapping_loses_no_ink_and_stays_within_the_width(prompt: str, tokens: list[str], width: int) -> None:
    frame = Frame(prompt, tokens, [0.0] * len(tokens))
    lines = wrap(pieces(frame), width, lambda text: float(len(text)))
    assert all(placed.right <= width for line in lines for placed in line)
    shown = printable(prompt) + "".join(map(show_token, tokens))
    assert "".join(placed.piece.text for line in lines for placed in line) == "".join(shown.split())


# -- Picture ---------------------------------------------------------------------------------------

ANY_LANGUAGE = st.text(max_size=30) | st.sampled_from(["中文没有空格", "Было", "שלום", "👍🏽", "\ud800", "x" * 300])


@example("", [("\xad", 1.0)], None)
@settings(max_examples=12, deadline=None)
@given(ANY_LANGUAGE, st.lists(st.tuples(ANY_LANGUAGE, st.floats()), max_size=12), st.sampled_from([None, "stop"]))
def test_every_picture_has_the_same_shape(prompt: str, steps: list[tuple[str, float]], reason: None) -> None:
    frame = Frame(prompt, [token for token, _ in steps], [reward for _, reward in steps], reason, title=prompt)
    picture = rgb_array(frame)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8


def test_a_picture_is_even_sided_and_repeatable() -> None:
    assert WIDTH % 2 == HEIGHT % 2 == 0
    assert np.array_equal(rgb_array(FRAME), rgb_array(FRAME))


@pytest.mark.parametrize(("reward", "sign"), [(2.0, 1.0), (-2.0, -1.0)])
def test_a_rewarded_token_stands_on_its_colour(reward: float, sign: float) -> None:
    def coloured(rewards: list[float]) -> np.ndarray:
        above_the_legend = rgb_array(Frame("a", ["bc"], rewards))[:300]
        return np.all(above_the_legend == tint(sign), axis=-1)

    assert coloured([reward]).sum() > 300
    assert coloured([0.0]).sum() == 0
