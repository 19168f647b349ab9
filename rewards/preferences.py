"""What labellers said, as files hold it: rankings, pairs, whole dialogues, or labels of single completions."""

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
ZERO_WIDTH_JOINER = "\u200d"  # makes one sign of several emoji
WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
"""Scripts that put no spaces between words, as Unicode names them."""


@dataclass(frozen=True)
class Judgement:
    """One completion that a labeller called good or bad.

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
    """Read JSON Lines, a JSON array, Parquet or a saved data set; the layout of each row is told by its columns.

    - ``prompt, completions, ranks``: rank 0 is the best, equal ranks are ties.
    - ``prompt, chosen, rejected``.
    - ``chosen, rejected``: texts or conversations with a common beginning, which is the prompt: of lists of messages,
      the common messages; of dialogues in the layout of Bai et al. 2022 (arXiv:2204.05862), all up to the last common
      ``Assistant:``; of other texts, all up to the last common word (see :func:`split_texts`). A field ``prompt`` may
      say again how whole conversations begin, or what was asked in them.
    - ``prompt, completion, label``: true or 1 for good, false or 0 for bad.

    A prompt may be a list of messages, which stays one, and a completion the list of the assistant's one message.

    Args:
        path: the file.
        render: the text that a conversation becomes, which says what a message adds to it, and what the chat template
            refuses; without it completions must be texts.
        screening: accounts for rows that cannot be learned from; without it they are errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be learned from, or labels of single completions stand beside comparisons. The
            message names the file and the row, counted from 1.
    """
    found = read_placed_preferences(path, render, screening)
    rankings = [preference for preference in found.values() if isinstance(preference, Ranking)]
    return rankings or [preference for preference in found.values() if isinstance(preference, Judgement)]


def read_placed_preferences(
    path: str | Path, render: Render | None = None, screening: Screening | None = None
) -> dict[Place, Preference]:
    """Read preferences of one kind, by where they stand; see :func:`read_preferences`."""
    screening = screening or Screening()
    found: dict[Place, Preference] = {}
    for place, row in read_placed_rows(path, screening).items():
        with screening.row(place):
            found[place] = parse_preference(row, render)
    kinds = {type(preference): place for place, preference in reversed(found.items())}
    if len(kinds) > 1:
        second = max(kinds.values(), key=lambda place: place.row or 0)
        raise ValueError(f"{second}: a file holds comparisons or labels of single texts, not both")
    screening.require_some(found, str(path))
    return found


def parse_preference(row: Mapping[str, Any], render: Render | None = None) -> Preference:
    """Read one row; see :func:`read_preferences`.

    Raises:
        BadRowError: it cannot be learned from.
    """
    try:
        return _parsed(row, render)
    except ValueError as error:
        raise error if isinstance(error, BadRowError) else BadRowError(str(error)) from error


def completions_of(preference: Preference) -> tuple[str, ...]:
    """Return the K texts that were ranked, or the one that was labelled."""
    return preference.completions if isinstance(preference, Ranking) else (preference.completion,)


def untied_pairs(ranks: Sequence[int]) -> int:
    """How many pairs of a ranking teach something."""
    return sum(i != j for i, j in combinations(ranks, 2))


def preference_layout(row: Mapping[str, Any]) -> PreferenceLayout | None:
    """Return the layout of a row, by its columns; None if they tell nothing.

    Columns that hold something count before those that are null, as in tables whose rows have several layouts.
    """
    filled = {name for name, value in row.items() if value is not None}
    matching = (
        layout for known in (filled, set(row)) for layout, columns in LAYOUT_COLUMNS.items() if columns <= known
    )
    return next(matching, None)


def best_completion(ranking: Ranking) -> str:
    """Return the completion that was preferred: the first of those with the best rank."""
    return ranking.completions[ranking.ranks.index(min(ranking.ranks))]


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two texts with a common beginning into prompt, chosen and rejected completion.

    Dialogues of Human and Assistant part after the last common ``Assistant:``. Other texts part after the last word
    that they have in common, so that no word is cut in two; one space before the words that differ is theirs.

    >>> split_texts("Human: Hi\\n\\nAssistant: Hello", "Human: Hi\\n\\nAssistant: Go away")
    ('Human: Hi\\n\\nAssistant:', ' Hello', ' Go away')
    >>> split_texts("The sky is blue.", "The sky is black.")
    ('The sky is', ' blue.', ' black.')

    Raises:
        BadRowError: they have no such beginning, or the same text follows it.
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
    """Return the length of the common beginning that ends with a word, and after which both texts go on."""
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
    """Return True if two letters are parts of one word, or of one sign."""
    if before == ZERO_WIDTH_JOINER or after == ZERO_WIDTH_JOINER or unicodedata.category(after)[0] == "M":
        return True
    if unicodedata.category(after) == "Sk" and not after.isascii():  # the colour of an emoji
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
        if not isinstance(label, bool | int) or label not in (0, 1):
            raise BadRowError(f"label: expected true or false (or 1 or 0), got {label!r:.200}")
        prompt, begun = _prompt(row.get("prompt"), render)
        return Judgement(prompt, _completion(row["completion"], "completion", begun), bool(label))
    raise BadRowError(f"expected the fields {LAYOUTS}; got {', '.join(row) or 'none'}")


def _ranking(prompt: str | Messages, begun: str | None, completions: Any, ranks: Any) -> Ranking:
    if not isinstance(completions, list):
        raise BadRowError(f"completions: expected a list, got {completions!r:.200}")
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
    """Return the common messages, as the prompt, and those that follow them; ``given`` is the field ``prompt``."""
    same = len(list(takewhile(lambda pair: _plain(pair[0]) == _plain(pair[1]), zip(chosen, rejected, strict=False))))
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
    """Return the prompt of two conversations that begin with the same messages, beside a field ``prompt``."""
    if given is None:
        return common
    if is_conversation(given) and given:
        messages = [_plain(message) for message in common]
        said = [_plain(message) for message in given]
        if said[-len(messages) :] == messages:
            return given
        if all(message in messages for message in said):
            return common
        if common[0]["role"] == "assistant" and given[-1]["role"] != "assistant":
            return [*given, *common]
    if isinstance(given, str):
        contents = [message["content"].strip() for message in common]
        if any(given.strip() in content or (content and content in given) for content in contents):
            return common
    raise BadRowError(f"prompt is {given!r:.200}, which is not said in the common beginning of chosen and rejected")


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without its null fields, which tables give to every message."""
    return {name: value for name, value in message.items() if value is not None}


def _first(messages: Messages) -> str:
    return f"{messages[0]['role']}: {messages[0]['content']!r:.80}" if messages else "no message"


def _prompt(prompt: Any, render: Render | None) -> tuple[str | Messages, str | None]:
    """Return a prompt, and the text that it begins a dialogue with, where that can be known."""
    if isinstance(prompt, str) and prompt:
        return prompt, prompt
    if prompt and is_conversation(prompt):
        return prompt, None if render is None else render(prompt)
    raise BadRowError(f"prompt is {prompt!r:.200}; expected a text, or a list of messages with 'role' and 'content'")


def _completion(value: Any, name: str, prompt: str | None) -> str:
    """Return a text, or a conversation's one remaining message, which follows the prompt."""
    if is_conversation(value):
        if prompt is None:
            raise BadRowError(f"{name} is a message; pass render, which says what stands before it")
        try:
            value = reply_text(prompt, value)
        except ValueError as error:
            raise BadRowError(f"{name}: {error}") from error
    if not isinstance(value, str):
        raise BadRowError(f"{name}: expected a text or one message, got {value!r:.200}")
    if not value.strip():
        raise BadRowError(f"{name} is {value!r}; expected a text that is not empty")
    return value
