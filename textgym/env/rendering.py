"""Pictures of one episode: the prompt, the response, and the reward of every token.

Two pure functions of a :class:`Frame`: :func:`ansi` for a terminal and :func:`rgb_array` for a video. Both tint a token
by its reward, on the scale that :func:`strength` defines; the HTML report uses the same scale.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from textgym.types import FinishReason

RGB: TypeAlias = tuple[int, int, int]

# A bluish green and a vermilion, after Okabe and Ito: colour-blind readers can distinguish them.
POSITIVE: RGB = (0, 158, 115)
NEGATIVE: RGB = (213, 78, 0)
PAPER: RGB = (255, 255, 255)
INK: RGB = (24, 29, 39)
GREY: RGB = (138, 145, 158)
FAINT: RGB = (228, 231, 236)

# Full strength stops short of the pure hue, so that dark text on it stays readable.
DEEPEST_TINT = 0.72


@dataclass(frozen=True)
class Frame:
    """State of an episode, finished or running, for a picture.

    Attributes:
        prompt: the prompt's text.
        tokens: the response tokens, each as text, the end token included.
        rewards: the reward of each token; as many numbers as ``tokens``.
        finish_reason: the reason why the episode ended; None while it runs.
        horizon: the greatest possible number of response tokens, if known.
        title: heading of the picture, usually the task's id.
        own: True for tokens of the policy, False for those of the other side; None if all are the policy's.
        scale: the reward that is shown in full colour; by default the largest one in ``rewards``. Set it if several
            frames should share one scale, as in a video.
    """

    prompt: str
    tokens: Sequence[str]
    rewards: Sequence[float]
    finish_reason: FinishReason | None = None
    horizon: int | None = None
    title: str = "textgym"
    scale: float | None = None
    own: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.rewards):
            raise ValueError(
                f"a frame needs one reward for each token, got {len(self.tokens)} tokens "
                f"and {len(self.rewards)} rewards"
            )
        if self.own is not None and len(self.own) != len(self.tokens):
            raise ValueError(f"own has {len(self.own)} entries; expected one for each of the {len(self.tokens)} tokens")

    def is_own(self, token: int) -> bool:
        """Return True if a response token, given by its index, is the policy's; the prompt's are not."""
        return token != PROMPT and (self.own is None or self.own[token])

    @property
    def full_scale(self) -> float:
        """Reward that is shown in full colour."""
        return self.scale or largest(self.rewards)


# -- Colour ----------------------------------------------------------------------------------------


def largest(rewards: Sequence[float]) -> float:
    """Return the largest absolute finite reward; 1 if there is none, so that it can always be divided by."""
    return max((abs(reward) for reward in rewards if math.isfinite(reward)), default=0.0) or 1.0


def strength(reward: float, scale: float) -> float:
    """Return a reward's colour strength: −1 (full red) to 1 (full green), 0 for none.

    The square root keeps a token's KL penalty visible next to a score that is a hundred times larger.
    """
    if not math.isfinite(reward):
        return 0.0
    return math.copysign(math.sqrt(min(abs(reward) / scale, 1.0)), reward)


def hue(strength: float) -> RGB:
    """Return the colour of a reward's sign."""
    return POSITIVE if strength > 0 else NEGATIVE


def tint(strength: float) -> RGB:
    """Return the colour of a given strength on white paper."""
    part = DEEPEST_TINT * abs(strength)
    red, green, blue = (round(p + (h - p) * part) for p, h in zip(PAPER, hue(strength), strict=True))
    return red, green, blue


# -- Text ------------------------------------------------------------------------------------------


COMMANDS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Terminal control characters (C0 and C1), bidirectional controls, and halves of surrogate pairs."""


def printable(text: str) -> str:
    """Replace characters that could control a terminal or break a picture; newlines are kept."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return COMMANDS.sub("\ufffd", text)


class PrintableStream(io.TextIOBase):
    """Text stream that makes everything written to it :func:`printable`.

    Args:
        inner: the underlying stream, such as ``sys.stdout``.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        self.inner.write(printable(text))
        return len(text)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.inner.encoding

    def flush(self) -> None:
        self.inner.flush()

    def isatty(self) -> bool:
        return self.inner.isatty()

    def fileno(self) -> int:
        return self.inner.fileno()

    def writable(self) -> bool:
        return True


def styled(stream: TextIO) -> TextIO:
    """Return the stream under a :class:`PrintableStream`, for text that is printable except for our colour codes."""
    return stream.inner if isinstance(stream, PrintableStream) else stream


def show_token(token: str) -> str:
    """Return a token for display: a token of white space alone gets a visible mark, as it was also chosen."""
    text = printable(token)
    if not text:
        return "∅"
    return text if text.strip() else text.replace(" ", "␣").replace("\n", "↵\n")


def describe(frame: Frame) -> list[tuple[str, str]]:
    """Return the numbers under a picture, as (label, value)."""
    count = len(frame.tokens) if frame.own is None else sum(frame.own)
    others = "" if frame.own is None else f" + {len(frame.tokens) - count}"
    length = f"{count}{others}" + (f" / {frame.horizon}" if frame.horizon is not None else "")
    return [
        ("return", f"{sum(frame.rewards):+.3f}"),
        ("length" if frame.own is None else "own + other", length),
        ("finish", frame.finish_reason or "running"),
    ]


def ansi(frame: Frame) -> str:
    """Render the episode for a terminal with 24-bit colours: dim prompt, tinted tokens, and a line of numbers.

    Tokens of the other side are dim and in italics.
    """
    tokens = "".join(
        _ansi_token(show_token(token), strength(reward, frame.full_scale))
        if frame.is_own(i)
        else f"\x1b[2;3m{printable(token)}\x1b[0m"
        for i, (token, reward) in enumerate(zip(frame.tokens, frame.rewards, strict=True))
    )
    numbers = "  ".join(f"{label} {value}" for label, value in describe(frame))
    return f"\x1b[2m{printable(frame.prompt)}\x1b[0m{tokens}\n\x1b[2m──\x1b[0m {numbers}"


def _ansi_token(text: str, strength: float) -> str:
    """Return one tinted token.

    It sets foreground and background, so that it is readable on dark and light terminals.
    """
    if not strength:
        return text
    colours = "38;2;{};{};{};48;2;{};{};{}".format(*INK, *tint(strength))
    # White space at the edges and line ends is not coloured: a terminal would paint it to the margin.
    return re.sub(r"\S(?:[^\n]*\S)?", lambda ink: f"\x1b[{colours}m{ink[0]}\x1b[0m", text)


# -- Layout ----------------------------------------------------------------------------------------

PROMPT = -1
_PIECES = re.compile(r"\n|[^\S\n]+|\S+")


class Piece(NamedTuple):
    """Run of text that belongs to one token; ``token`` is its index, or ``PROMPT``."""

    text: str
    token: int


class Placed(NamedTuple):
    """Piece on its line, from ``left`` to ``right``."""

    piece: Piece
    left: float
    right: float


Line: TypeAlias = list[Placed]


def pieces(frame: Frame) -> list[Piece]:
    """Split prompt and response at white space and at token boundaries."""
    texts = [(PROMPT, printable(frame.prompt)), *enumerate(map(show_token, frame.tokens))]
    return [Piece(text, token) for token, whole in texts for text in _PIECES.findall(whole)]


def wrap(pieces: Sequence[Piece], width: float, measure: Callable[[str], float]) -> list[Line]:
    """Break pieces into lines no wider than ``width``.

    Lines break only at white space, so that a word of several tokens stays whole. A word that is wider than a line
    breaks anywhere. White space moves the pen and draws nothing.
    """
    lines: list[Line] = [[]]
    pen = 0.0
    for kind, group in groupby(pieces, key=_kind):
        word = list(group)
        if kind == "newline":
            lines.extend([] for _ in word)
            pen = 0.0
            continue
        length = sum(measure(piece.text) for piece in word)
        if kind == "space":
            pen += length
            continue
        if pen and pen + length > width:
            lines.append([])
            pen = 0.0
        for piece in word if length <= width else _letters(word):
            right = pen + measure(piece.text)
            if pen and right > width:
                lines.append([])
                pen, right = 0.0, measure(piece.text)
            lines[-1].append(Placed(piece, pen, right))
            pen = right
    return lines


def _kind(piece: Piece) -> str:
    return "newline" if piece.text == "\n" else "space" if piece.text.isspace() else "ink"


def _letters(word: Sequence[Piece]) -> Iterator[Piece]:
    return (Piece(letter, piece.token) for piece in word for letter in piece.text)


def tail(lines: list[Line], most: int) -> list[Line]:
    """Return the last ``most`` lines, with an ellipsis in place of the first if others were left out."""
    if len(lines) <= most:
        return lines
    return [[Placed(Piece("…", PROMPT), 0.0, 0.0)], *lines[len(lines) - most + 1 :]]


# -- Picture ---------------------------------------------------------------------------------------

WIDTH, HEIGHT = 960, 540  # even numbers, as video encoders reject odd ones
MARGIN = 48
TEXT_TOP, LINE_HEIGHT, MOST_LINES = 96, 40, 7
BARS_TOP, BARS_BOTTOM = 388, 452
FOOT = 470
OVERSAMPLING = 2  # Pillow draws shapes without antialiasing, so draw large and shrink


def rgb_array(frame: Frame) -> NDArray[np.uint8]:
    """Draw the episode as a picture of constant size ``[540, 960, 3]``, so that frames make a video."""
    canvas = Image.new("RGB", (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING), PAPER)
    pen = _Pen(ImageDraw.Draw(canvas))
    _draw_head(pen, frame)
    _draw_text(pen, frame)
    _draw_bars(pen, frame)
    _draw_foot(pen, frame)
    return np.array(canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.uint8)


@lru_cache
def _font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib; Pillow's own font has only ASCII."""
    from matplotlib import get_data_path  # imported here, as it takes a third of a second

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), size * OVERSAMPLING)


def _measure(text: str, size: float = 22, bold: bool = False) -> float:
    return _font(size, bold).getlength(text) / OVERSAMPLING


@dataclass(frozen=True)
class _Pen:
    """Pen in picture coordinates on the oversampled canvas."""

    draw: ImageDraw.ImageDraw

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: RGB,
        size: float = 22,
        bold: bool = False,
        anchor: str = "ls",
    ) -> None:
        """Draw text; ``anchor`` is Pillow's: ``ls`` is the left end of the baseline, ``rs`` its right end."""
        at = (x * OVERSAMPLING, y * OVERSAMPLING)
        self.draw.text(at, text, fill=colour, font=_font(size, bold), anchor=anchor)

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGB, radius: float = 0) -> None:
        """Draw a filled box with rounded corners."""
        corners = tuple(at * OVERSAMPLING for at in (left, top, right, bottom))
        self.draw.rounded_rectangle(corners, radius * OVERSAMPLING, fill=colour)


def _draw_head(pen: _Pen, frame: Frame) -> None:
    pen.text(MARGIN, 50, printable(frame.title), INK, 17, bold=True)
    status, done = frame.finish_reason or "running", frame.finish_reason is not None
    right, left = WIDTH - MARGIN, WIDTH - MARGIN - _measure(status, 14) - 26
    pen.box(left, 32, right, 58, INK if done else FAINT, radius=13)
    pen.text((left + right) / 2, 50, status, PAPER if done else INK, 14, anchor="ms")


def _draw_text(pen: _Pen, frame: Frame) -> None:
    lines = tail(wrap(pieces(frame), WIDTH - 2 * MARGIN, _measure), MOST_LINES)
    for row, line in enumerate(lines):
        baseline = TEXT_TOP + LINE_HEIGHT * row + 26
        for token, group in groupby(line, key=lambda placed: placed.piece.token):
            run = list(group)
            if token != PROMPT and (level := strength(frame.rewards[token], frame.full_scale)):
                left, right = MARGIN + run[0].left, MARGIN + run[-1].right
                right = max(right - 1, left + 2)  # some tokens, such as a soft hyphen, have no width
                pen.box(left, baseline - 23, right, baseline + 9, tint(level), radius=5)
            if token != PROMPT and not frame.is_own(token):  # what the other side says is underlined
                pen.box(MARGIN + run[0].left, baseline + 6, MARGIN + run[-1].right, baseline + 8, FAINT)
            for placed in run:
                colour = INK if frame.is_own(token) else GREY
                pen.text(MARGIN + placed.left, baseline, placed.piece.text, colour)


def _draw_bars(pen: _Pen, frame: Frame) -> None:
    """Draw one bar for each token, up or down from a line: the same rewards, comparable by length."""
    middle, half = (BARS_TOP + BARS_BOTTOM) / 2, (BARS_BOTTOM - BARS_TOP) / 2
    pen.box(MARGIN, middle - 0.5, WIDTH - MARGIN, middle + 0.5, FAINT)
    # At least 48 slots, so that the bars of a short episode do not become blocks.
    slot = (WIDTH - 2 * MARGIN) / max(frame.horizon or 0, len(frame.tokens), 48)
    for index, reward in enumerate(frame.rewards):
        if not frame.is_own(index):
            continue  # the other side earns nothing
        level = strength(reward, frame.full_scale)
        height = max(half * min(abs(reward) / frame.full_scale, 1.0), 1.5) if level else 1.0
        left = MARGIN + slot * index
        top, bottom = (middle - height, middle) if level > 0 else (middle, middle + height)
        pen.box(left + 0.1 * slot, top, left + 0.9 * slot, bottom, hue(level) if level else GREY)


def _draw_foot(pen: _Pen, frame: Frame) -> None:
    x: float = MARGIN
    for label, value in describe(frame):
        pen.text(x, FOOT + 14, label, GREY, 13)
        pen.text(x, FOOT + 41, value.replace("-", "−"), INK, 21, bold=True)
        x += max(150, _measure(value, 21, bold=True) + 24)
    _draw_scale(pen, frame.full_scale)


def _draw_scale(pen: _Pen, scale: float) -> None:
    """Draw the legend: the colours from −scale to +scale."""
    width, steps = 168, 56
    left = WIDTH - MARGIN - width
    pen.text(left, FOOT + 14, "reward of a token", GREY, 13)
    for step in range(steps):
        level = strength(2 * (step + 0.5) / steps - 1, 1.0)
        pen.box(left + width * step / steps, FOOT + 23, left + width * (step + 1) / steps, FOOT + 33, tint(level))
    pen.text(left, FOOT + 47, f"−{scale:.2g}", GREY, 12)
    pen.text(left + width / 2, FOOT + 47, "0", GREY, 12, anchor="ms")
    pen.text(left + width, FOOT + 47, f"{scale:+.2g}", GREY, 12, anchor="rs")
