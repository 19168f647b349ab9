"""Records of scalar feedback: a response as it was shown, with the events of one person; and their file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from textgym.files import write_json_lines
from textgym.numbers import shown as as_shown
from textgym.prompts import plain_content
from textgym.rewards.feedback.credit import times_of
from textgym.rows import BadRowError, Place, Screening, read_placed_rows
from textgym.tokenization import is_conversation
from textgym.types import Messages

FIELDS = ("prompt", "completion", "tokens", "shown", "events", "labeller")


class Feedback(NamedTuple):
    """One signal of a person.

    Attributes:
        time: seconds on the clock of the response that was shown.
        value: its value; 1 for praise and −1 for blame, from two keys.
    """

    time: float
    value: float


@dataclass(frozen=True)
class ShownResponse:
    """Response that a person watched as it appeared.

    Attributes:
        prompt: a text or a conversation.
        completion: the whole response.
        tokens: ``T`` texts that appeared one after the other, together the completion. They need not be a model's
            tokens. An empty last one stands for the end, where it was shown that nothing more would come.
        shown: ``T`` seconds at which they appeared, never decreasing.
        events: the feedback, in order of time; empty if there was none.
        labeller: the person.

    Raises:
        ValueError: lengths differ, texts do not make the completion, a number is not finite, or times run backwards.
    """

    prompt: str | Messages
    completion: str
    tokens: tuple[str, ...]
    shown: tuple[float, ...]
    events: tuple[Feedback, ...] = ()
    labeller: str = ""

    def __post_init__(self) -> None:
        if len(self.shown) != len(self.tokens):
            raise ValueError(f"shown has {len(self.shown)} times and tokens {len(self.tokens)} texts; expected as many")
        if not all(self.tokens[:-1]):
            raise ValueError(f"tokens holds an empty text at {self.tokens.index('') + 1}; only the last may be empty")
        if "".join(self.tokens) != self.completion:
            raise ValueError(
                f"tokens make {''.join(self.tokens)!r:.80}, expected the completion, {self.completion!r:.80}; a text "
                "brings the space before it"
            )
        times_of("shown", self.shown)
        if self.events:
            times_of("time of events", [event.time for event in self.events])
        for number, event in enumerate(self.events, start=1):
            if not math.isfinite(event.value):
                raise ValueError(f"event {number} has the value {event.value}; expected a finite number")

    @property
    def shows_end(self) -> bool:
        """True if the end was shown, too."""
        return self.tokens[-1] == ""


def read_feedback(path: str | Path, screening: Screening | None = None) -> list[ShownResponse]:
    """Read scalar feedback, one response a row.

    The fields are ``prompt`` (a text or a list of messages), ``completion``, ``tokens``, ``shown`` (seconds),
    ``events`` (pairs of seconds and value) and, optionally, ``labeller``; see :class:`ShownResponse`.

    Args:
        path: JSON Lines, a JSON array, Parquet or a saved data set.
        screening: records rows that cannot be used; without it they are errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be used; the message names the file and the row.
    """
    return list(read_placed_feedback(path, screening).values())


def read_placed_feedback(path: str | Path, screening: Screening | None = None) -> dict[Place, ShownResponse]:
    """Read scalar feedback, keyed by place in the file; see :func:`read_feedback`."""
    screening = screening or Screening()
    found: dict[Place, ShownResponse] = {}
    for place, row in read_placed_rows(path, screening).items():
        with screening.row(place):
            try:
                found[place] = parse_feedback(row)
            except ValueError as error:
                raise error if isinstance(error, BadRowError) else BadRowError(str(error)) from error
    screening.require_some(found, str(path))
    return found


def parse_feedback(row: Mapping[str, Any]) -> ShownResponse:
    """Parse one row of a file.

    Raises:
        ValueError: it is no such row.
    """
    if unknown := sorted(row.keys() - set(FIELDS)):
        raise BadRowError(f"unknown field {unknown[0]!r}; expected {', '.join(FIELDS)}")
    for name in FIELDS[:-1]:
        if row.get(name) is None:
            raise BadRowError(f"no field {name!r}; expected {', '.join(FIELDS[:-1])}, and perhaps {FIELDS[-1]}")
    prompt, completion, labeller = row["prompt"], row["completion"], row.get("labeller")
    if not isinstance(prompt, str) and not is_conversation(prompt):
        raise BadRowError(f"prompt={as_shown(prompt)}; expected a text or a list of messages")
    if not isinstance(completion, str):
        raise BadRowError(f"completion={as_shown(completion)}; expected a text")
    if not isinstance(labeller, str | None):
        raise BadRowError(f"labeller={as_shown(labeller)}; expected a text")
    tokens = _listed("tokens", row["tokens"])
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise BadRowError(f"tokens={as_shown(tokens)}; expected a list of at least one text")
    shown = tuple(_number("shown", value) for value in _listed("shown", row["shown"]))
    events = tuple(_event(value) for value in _listed("events", row["events"]))
    return ShownResponse(prompt, completion, tuple(tokens), shown, events, labeller or "")


def write_feedback(path: str | Path, responses: Iterable[ShownResponse]) -> None:
    """Write JSON Lines that :func:`read_feedback` reads, one response a line."""
    write_json_lines(path, (feedback_row(response) for response in responses))


def feedback_row(response: ShownResponse) -> dict[str, Any]:
    """Return a response as a row of a file."""
    return {
        "prompt": plain_content(response.prompt),
        "completion": response.completion,
        "tokens": list(response.tokens),
        "shown": list(response.shown),
        "events": [list(event) for event in response.events],
        "labeller": response.labeller,
    }


def _listed(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise BadRowError(f"{name}={as_shown(value)}; expected a list")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadRowError(f"{name} holds {as_shown(value)}; expected numbers")
    return float(value)


def _event(value: Any) -> Feedback:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise BadRowError(f"events holds {as_shown(value)}; expected pairs [time, value]")
    return Feedback(_number("events", value[0]), _number("events", value[1]))
