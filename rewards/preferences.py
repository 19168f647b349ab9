"""What labellers said, as files hold it: rankings, pairs, whole dialogues, or labels of single completions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeAlias

from textgym.prompts import BadRowError, leaving_out, read_rows
from textgym.tokenization import is_conversation, reply_text
from textgym.types import Messages, Ranking

ASSISTANT_TURN = re.compile(r"(?:^|\n)[ \t]*Assistant:")
LAYOUTS = (
    "'prompt, completions, ranks', 'prompt, chosen, rejected', 'chosen, rejected' with whole dialogues, or "
    "'prompt, completion, label'"
)


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
    path: str | Path, render: Render | None = None, skipped: list[str] | None = None
) -> list[Ranking] | list[Judgement]:
    """Read JSON Lines, Parquet or a saved data set; the layout of each row is told by its columns.

    - ``prompt, completions, ranks``: rank 0 is the best, equal ranks are ties.
    - ``prompt, chosen, rejected``.
    - ``chosen, rejected``: whole dialogues, with a field ``prompt`` or without. Of texts, in the layout of Bai et al.
      2022 (arXiv:2204.05862), the common beginning up to the last ``Assistant:`` is the prompt; of lists of messages,
      the common messages are.
    - ``prompt, completion, label``: true or 1 for good, false or 0 for bad.

    A prompt may be a list of messages, which stays one, and a completion the list of the assistant's one message.

    Args:
        path: the file.
        render: the text that a conversation becomes, which says what a message adds to it, and what the chat template
            refuses; without it completions must be texts.
        skipped: collects what is wrong with rows that cannot be learned from (equal or empty completions, tied ranks),
            which are then left out; without it they are errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be learned from, or labels of single completions stand beside comparisons. The
            message names the file and the row, counted from 1.
    """
    rankings: list[Ranking] = []
    judgements: list[Judgement] = []
    for number, row in enumerate(read_rows(path), start=1):
        with leaving_out(skipped):
            found = _parsed_at(row, render, f"{path}, row {number}")
            if isinstance(found, Ranking):
                rankings.append(found)
            else:
                judgements.append(found)
        if rankings and judgements:
            raise ValueError(f"{path}, row {number}: a file holds comparisons or labels of single texts, not both")
    if not rankings and not judgements:
        raise ValueError(f"{path}: no row is left to learn from. {skipped[0] if skipped else ''}")
    return rankings or judgements


def completions_of(preference: Preference) -> tuple[str, ...]:
    """The K texts that were ranked, or the one that was labelled."""
    return preference.completions if isinstance(preference, Ranking) else (preference.completion,)


def untied_pairs(ranks: Sequence[int]) -> int:
    """How many pairs of a ranking teach something."""
    return sum(i != j for i, j in combinations(ranks, 2))


def split_dialogues(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two dialogues with one beginning, as prompt, chosen and rejected completion.

    >>> split_dialogues("Human: Hi\\n\\nAssistant: Hello", "Human: Hi\\n\\nAssistant: Go away")
    ('Human: Hi\\n\\nAssistant:', ' Hello', ' Go away')

    Raises:
        ValueError: they have no turn of the assistant in common.
    """
    shared = commonprefix([chosen, rejected])  # noqa: RUF071 - of texts, not of paths
    turns = list(ASSISTANT_TURN.finditer(shared))
    if not turns:
        raise ValueError(
            "without a field 'prompt', chosen and rejected must be dialogues with a common beginning that holds "
            f"'Assistant:'; they share {shared[-80:]!r}"
        )
    end = turns[-1].end()
    return chosen[:end], chosen[end:], rejected[end:]


def _parsed_at(row: Mapping[str, Any], render: Render | None, where: str) -> Preference:
    try:
        return _parsed(row, render)
    except BadRowError as error:
        raise BadRowError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _parsed(row: Mapping[str, Any], render: Render | None) -> Preference:
    if {"completions", "ranks"} <= row.keys():
        return _ranking(*_prompt(row, render), row["completions"], row["ranks"])
    if {"chosen", "rejected"} <= row.keys():
        prompt, chosen, rejected = _pair(row, render)
        if chosen == rejected:
            raise BadRowError(f"chosen and rejected are the same text: {chosen!r:.200}; drop the row")
        return Ranking(prompt, (chosen, rejected), (0, 1))
    if {"completion", "label"} <= row.keys():
        label = row["label"]
        if not isinstance(label, bool | int) or label not in (0, 1):
            raise ValueError(f"label: expected true or false (or 1 or 0), got {label!r:.200}")
        prompt, begun = _prompt(row, render)
        return Judgement(prompt, _completion(row["completion"], "completion", begun), bool(label))
    raise ValueError(f"expected the fields {LAYOUTS}; got {', '.join(row) or 'none'}")


def _ranking(prompt: str | Messages, begun: str | None, completions: Any, ranks: Any) -> Ranking:
    if not isinstance(completions, list):
        raise ValueError(f"completions: expected a list, got {completions!r:.200}")
    if not (isinstance(ranks, list) and all(type(r) is int for r in ranks)):
        raise ValueError(f"ranks: expected a list of integers, 0 for the best, got {ranks!r:.200}")
    texts = tuple(_completion(text, f"completions, number {i}", begun) for i, text in enumerate(completions, start=1))
    ranking = Ranking(prompt, texts, tuple(ranks))
    if not untied_pairs(ranks):
        raise BadRowError("all ranks are tied, which teaches nothing; drop the row")
    if len(set(texts)) == 1:
        raise BadRowError(f"all completions are the same text: {texts[0]!r:.200}; drop the row")
    return ranking


def _pair(row: Mapping[str, Any], render: Render | None) -> tuple[str | Messages, str, str]:
    chosen, rejected = row["chosen"], row["rejected"]
    if is_conversation(chosen) and is_conversation(rejected):
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
        # A prompt beside whole conversations says again how they begin, or what was asked last.
        shared = min(same, len(chosen) - 1, len(rejected) - 1)
        if shared > 0 or row.get("prompt") is None:
            row, chosen, rejected = {"prompt": chosen[:shared]}, chosen[shared:], rejected[shared:]
    elif row.get("prompt") is None and isinstance(chosen, str) and isinstance(rejected, str):
        shared_text, chosen, rejected = split_dialogues(chosen, rejected)
        row = {"prompt": shared_text}
    prompt, begun = _prompt(row, render)
    return prompt, _completion(chosen, "chosen", begun), _completion(rejected, "rejected", begun)


def _prompt(row: Mapping[str, Any], render: Render | None) -> tuple[str | Messages, str | None]:
    """A prompt, and the text that it begins a dialogue with, where that can be known."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return prompt, prompt
    if prompt and is_conversation(prompt):
        return prompt, None if render is None else render(prompt)
    raise ValueError(f"prompt: expected a text or a list of messages, got {type(prompt).__name__}")


def _completion(value: Any, name: str, prompt: str | None) -> str:
    """A text, or a conversation's one remaining message, which follows the prompt."""
    if is_conversation(value):
        if prompt is None:
            raise ValueError(f"{name} is a message; pass render, which says what stands before it")
        try:
            value = reply_text(prompt, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text or one message, got {value!r:.200}")
    if not value.strip():
        raise BadRowError(f"{name} is {value!r}; expected a text that is not empty")
    return value
