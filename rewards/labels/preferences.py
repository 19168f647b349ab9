"""Preference data: rankings, pairs, whole dialogues, or labels of single completions, read from files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal, TypeAlias

from textgym.rows import BadRowError, Place, Screening, read_placed_rows
from textgym.tokenization import is_conversation, reply_text
from textgym.types import Messages, Ranking

PreferenceLayout: TypeAlias = Literal["ranking", "pair", "label"]
LAYOUT_COLUMNS: Mapping[PreferenceLayout, frozenset[str]] = {
    "ranking": frozenset({"completions", "ranks"}),
    "pair": frozenset({"chosen", "rejected"}),
    "label": frozenset({"completion", "label"}),
}
ASSISTANT_TURN = re.compile(r"(?:^|\n)[ \t]*Assistant:")
LAYOUTS = (
    "'prompt, completions, ranks', 'prompt, chosen, rejected', 'chosen, rejected' with a common beginning, or "
    "'prompt, completion, label'"
)
ZERO_WIDTH_JOINER = "\u200d"  # joins several emoji into one sign
WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
"""Scripts without spaces between words, by their Unicode names."""


@dataclass(frozen=True)
class Judgement:
    """Completion that a labeller called good or bad.

    Attributes:
        prompt: a text or a conversation.
        completion: the text that followed it.
        good: the label.
    """

    prompt: str | Messages
    completion: str
    good: bool


Preference: TypeAlias = Ranking | Judgement
Render: TypeAlias = Callable[[Messages], str]


def read_preferences(
    path: str | Path, render: Render | None = None, screening: Screening | None = None
) -> list[Ranking] | list[Judgement]:
    """Read preferences from JSON Lines, a JSON array, Parquet or a saved data set.

    The columns of each row determine its layout:

    - ``prompt, completions, ranks``: rank 0 is the best, equal ranks are ties.
    - ``prompt, chosen, rejected``.
    - ``chosen, rejected``: texts or conversations with a common beginning, which is the prompt. For lists of messages
    it
      is the common messages; for dialogues in the layout of Bai et al. 2022 (arXiv:2204.05862), all up to the last
      common ``Assistant:``; for other texts, all up to the last common word (see :func:`split_texts`). A field
      ``prompt`` may repeat the beginning of whole conversations, or a message in it.
    - ``prompt, completion, label``: true or 1 for good, false or 0 for bad.

    A prompt may be a list of messages and stays one. A completion may be a list of one assistant message.

    Args:
        path: the file.
        render: renders a conversation as text, which is needed for completions that are messages, and which reports
            conversations that the chat template rejects; without it completions must be texts.
        screening: records rows that cannot be used; without it they are errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be used, or the file mixes labels of single completions with comparisons. The message
            names the file and the row, counted from 1.
    """
    found = read_placed_preferences(path, render, screening)
    rankings = [preference for preference in found.values() if isinstance(preference, Ranking)]
    return rankings or [preference for preference in found.values() if isinstance(preference, Judgement)]


def read_placed_preferences(
    path: str | Path, render: Render | None = None, screening: Screening | None = None
) -> dict[Place, Preference]:
    """Read preferences of one kind, keyed by their place in the file; see :func:`read_preferences`."""
    screening = screening or Screening()
    found: dict[Place, Preference] = {}
    for place, row in read_placed_rows(path, screening).items():
        with screening.row(place):
            found[place] = parse_preference(row, render)
    # Reversed, so that the dictionary keeps the first row of each kind.
    kinds = {type(preference): place for place, preference in reversed(found.items())}
    if len(kinds) > 1:
        second = max(kinds.values(), key=lambda place: place.row or 0)
        raise ValueError(f"{second}: a file holds comparisons or labels of single texts, not both")
    screening.require_some(found, str(path))
    return found


def parse_preference(row: Mapping[str, Any], render: Render | None = None) -> Preference:
    """Parse one row; see :func:`read_preferences`.

    Raises:
        BadRowError: the row cannot be used.
    """
    try:
        return _parsed(row, render)
    except ValueError as error:
        raise error if isinstance(error, BadRowError) else BadRowError(str(error)) from error


def completions_of(preference: Preference) -> tuple[str, ...]:
    """Return the K ranked texts, or the single labelled one."""
    return preference.completions if isinstance(preference, Ranking) else (preference.completion,)


def untied_pairs(ranks: Sequence[int]) -> int:
    """Count the pairs of a ranking whose ranks differ."""
    return sum(i != j for i, j in combinations(ranks, 2))


def preference_layout(row: Mapping[str, Any]) -> PreferenceLayout | None:
    """Return the layout of a row, by its columns; None if they match no layout.

    Columns with a value take precedence over null ones, as in tables whose rows have several layouts.
    """
    filled = {name for name, value in row.items() if value is not None}
    matching = (
        layout for known in (filled, set(row)) for layout, columns in LAYOUT_COLUMNS.items() if columns <= known
    )
    return next(matching, None)


def best_completion(ranking: Ranking) -> str:
    """Return the preferred completion: the first of those with the best rank."""
    return ranking.completions[ranking.ranks.index(min(ranking.ranks))]


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Split two texts with a common beginning into prompt, chosen and rejected completion.

    Dialogues of Human and Assistant are split after the last common ``Assistant:``. Other texts are split after the
    last common word, so that no word is cut in two; one space before the differing words belongs to the completions.

    >>> split_texts("Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: Go away")
    ('Human: Hi\n\nAssistant:', ' Hello', ' Go away')
    >>> split_texts("The sky is blue.", "The sky is black.")
    ('The sky is', ' blue.', ' black.')

    Raises:
        BadRowError: the texts have no such beginning, or are equal.
    """
    if chosen == rejected:
        raise BadRowError(f"chosen and rejected are the same text: {chosen!r:.200}; drop the row")
    shared = commonprefix([chosen, rejected])  # noqa: RUF071 - of texts, not of paths
    turns = list(ASSISTANT_TURN.finditer(shared))
    if turns:
        end = turns[-1].end()
    elif ASSISTANT_TURN.search(chosen) or ASSISTANT_TURN.search(rejected):
        raise BadRowError(
            "without a field 'prompt', dialogues must have a common beginning that holds 'Assistant:'; chosen and "
            f"rejected share {shared[-80:]!r}"
        )
    else:
        end = _common_words(chosen, rejected, len(shared))
    return chosen[:end], chosen[end:], rejected[end:]


def _common_words(chosen: str, rejected: str, shared: int) -> int:
    """Return the length of the longest common beginning that ends with a word and leaves text for both completions."""
    for end in range(shared, 0, -1):
        rests = (chosen[end:], rejected[end:])
        if not all(rest.strip() for rest in rests) or any(_joined(chosen[end - 1], rest[0]) for rest in rests):
            continue
        end -= chosen[end - 1] == " " and not rests[0][0].isspace() and not rests[1][0].isspace()
        if chosen[:end].strip():
            return end
        break
    raise BadRowError(
        "without a field 'prompt', chosen and rejected must have a common beginning, which is the prompt; got "
        f"{chosen[:80]!r} and {rejected[:80]!r}"
    )


def _joined(before: str, after: str) -> bool:
    """Return True if two adjacent characters belong to one word, or to one sign."""
    if before == ZERO_WIDTH_JOINER or after == ZERO_WIDTH_JOINER or unicodedata.category(after)[0] == "M":
        return True
    if unicodedata.category(after) == "Sk" and not after.isascii():  # an emoji's skin tone
        return True
    return _in_word(before) and _in_word(after)


def _in_word(letter: str) -> bool:
    if unicodedata.name(letter, "").partition(" ")[0] in WITHOUT_SPACES:
        return False
    return letter.isalnum() or letter in "_'\u2019" or unicodedata.category(letter)[0] == "M"


def _parsed(row: Mapping[str, Any], render: Render | None) -> Preference:
    layout = preference_layout(row)
    if layout == "ranking":
        return _ranking(*_prompt(row.get("prompt"), render), row["completions"], row["ranks"])
    if layout == "pair":
        prompt, chosen, rejected = _pair(row.get("prompt"), row["chosen"], row["rejected"], render)
        if chosen == rejected:
            raise BadRowError(f"chosen and rejected are the same text: {chosen!r:.200}; drop the row")
        return Ranking(prompt, (chosen, rejected), (0, 1))
    if layout == "label":
        label = row["label"]
        # ``True == 1``, so one comparison covers both spellings; 1.0 is refused.
        if not isinstance(label, bool | int) or label not in (0, 1):
            raise BadRowError(f"label: expected true or false (or 1 or 0), got {label!r:.200}")
        prompt, begun = _prompt(row.get("prompt"), render)
        return Judgement(prompt, _completion(row["completion"], "completion", begun), bool(label))
    raise BadRowError(f"expected the fields {LAYOUTS}; got {', '.join(row) or 'none'}")


def _ranking(prompt: str | Messages, begun: str | None, completions: Any, ranks: Any) -> Ranking:
    if not isinstance(completions, list):
        raise BadRowError(f"completions: expected a list, got {completions!r:.200}")
    # ``type`` rather than ``isinstance``, as True is an int.
    if not (isinstance(ranks, list) and all(type(r) is int for r in ranks)):
        raise BadRowError(f"ranks: expected a list of integers, 0 for the best, got {ranks!r:.200}")
    texts = tuple(_completion(text, f"completions, number {i}", begun) for i, text in enumerate(completions, start=1))
    ranking = Ranking(prompt, texts, tuple(ranks))
    if not untied_pairs(ranks):
        raise BadRowError("all ranks are tied, which teaches nothing; drop the row")
    pairs = combinations(zip(texts, ranks, strict=True), 2)
    equal = [first for (first, better), (second, worse) in pairs if first == second and better != worse]
    if equal:
        all_of = "all completions are" if len(set(texts)) == 1 else "two completions of different rank are"
        raise BadRowError(f"{all_of} the same text: {equal[0]!r:.200}; drop the row")
    return ranking


def _pair(given: Any, chosen: Any, rejected: Any, render: Render | None) -> tuple[str | Messages, str, str]:
    if is_conversation(chosen) and is_conversation(rejected):
        given, chosen, rejected = _split_conversations(given, chosen, rejected)
    elif given is None and isinstance(chosen, str) and isinstance(rejected, str):
        given, chosen, rejected = split_texts(chosen, rejected)
    prompt, begun = _prompt(given, render)
    return prompt, _completion(chosen, "chosen", begun), _completion(rejected, "rejected", begun)


def _split_conversations(given: Any, chosen: Messages, rejected: Messages) -> tuple[Any, Messages, Messages]:
    """Split off the common messages, which are the prompt; ``given`` is the field ``prompt``."""
    same = len(list(takewhile(lambda pair: _plain(pair[0]) == _plain(pair[1]), zip(chosen, rejected, strict=False))))
    # At least one message of each conversation must remain as its completion.
    shared = min(same, len(chosen) - 1, len(rejected) - 1)
    if shared <= 0:
        if given is None or (isinstance(given, str) and max(len(chosen), len(rejected)) > 1):
            raise BadRowError(
                "chosen and rejected must begin with the same messages, which are the prompt; they begin with "
                f"{_first(chosen)} and {_first(rejected)}"
            )
        return given, chosen, rejected
    return _begun(given, [*chosen[:shared]]), chosen[shared:], rejected[shared:]


def _begun(given: Any, common: list[Mapping[str, str]]) -> Messages:
    """Return the prompt of two conversations with common first messages, checked against a field ``prompt``."""
    if given is None:
        return common
    # Data sets repeat the prompt in several ways. Each is accepted, and anything that contradicts the messages refused.
    if is_conversation(given) and given:
        messages = [_plain(message) for message in common]
        prompt = [_plain(message) for message in given]
        if prompt[-len(messages) :] == messages:  # the whole history, of which the conversations repeat the end
            return given
        if all(message in messages for message in prompt):  # a part of the common messages
            return common
        if common[0]["role"] == "assistant" and given[-1]["role"] != "assistant":  # the history before them
            return [*given, *common]
    if isinstance(given, str):
        contents = [message["content"].strip() for message in common]
        if any(given.strip() in content or (content and content in given) for content in contents):
            return common
    raise BadRowError(f"prompt is {given!r:.200}, which does not occur in the common beginning of chosen and rejected")


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without null fields, which tables add to every message."""
    return {name: value for name, value in message.items() if value is not None}


def _first(messages: Messages) -> str:
    return f"{messages[0]['role']}: {messages[0]['content']!r:.80}" if messages else "no message"


def _prompt(prompt: Any, render: Render | None) -> tuple[str | Messages, str | None]:
    """Return a prompt and its text, with which a dialogue would begin; None for the text if it is unknown."""
    if isinstance(prompt, str) and prompt:
        return prompt, prompt
    if prompt and is_conversation(prompt):
        return prompt, None if render is None else render(prompt)
    raise BadRowError(f"prompt is {prompt!r:.200}; expected a text, or a list of messages with 'role' and 'content'")


def _completion(value: Any, name: str, prompt: str | None) -> str:
    """Return a completion's text, or that of the one message that follows the prompt."""
    if is_conversation(value):
        if prompt is None:
            raise BadRowError(f"{name} is a message; pass render, which renders the conversation before it")
        try:
            value = reply_text(prompt, value)
        except ValueError as error:
            raise BadRowError(f"{name}: {error}") from error
    if not isinstance(value, str):
        raise BadRowError(f"{name}: expected a text or one message, got {value!r:.200}")
    if not value.strip():
        raise BadRowError(f"{name} is {value!r}; expected a text that is not empty")
    return value
