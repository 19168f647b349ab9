"""What labellers said, as files hold it: rankings, pairs, whole dialogues, or labels of single completions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeAlias

from textgym.prompts import read_rows
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
        prompt: the prompt's text.
        completion: what followed it.
        good: the label.
    """

    prompt: str
    completion: str
    good: bool


Preference: TypeAlias = Ranking | Judgement
Render: TypeAlias = Callable[[Messages], str]


def read_preferences(path: str | Path, render: Render | None = None) -> list[Ranking] | list[Judgement]:
    """Read JSON Lines, Parquet or a saved data set; the layout of each row is told by its columns.

    - ``prompt, completions, ranks``: rank 0 is the best, equal ranks are ties.
    - ``prompt, chosen, rejected``.
    - ``chosen, rejected``: whole dialogues. Of texts, in the layout of Bai et al. 2022 (arXiv:2204.05862), the common
      beginning up to the last ``Assistant:`` is the prompt; of lists of messages, the common messages are.
    - ``prompt, completion, label``: true or 1 for good, false or 0 for bad.

    A prompt may be a list of messages, and a completion the list of the assistant's one message.

    Args:
        path: the file.
        render: turns a conversation into a text; without it prompts must be texts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be learned from, or labels of single completions stand beside comparisons. The
            message names the file and the row, counted from 1.
    """
    rankings: list[Ranking] = []
    judgements: list[Judgement] = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            found = _parsed(row, render)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
        if isinstance(found, Ranking):
            rankings.append(found)
        else:
            judgements.append(found)
        if rankings and judgements:
            raise ValueError(f"{path}, row {number}: a file holds comparisons or labels of single texts, not both")
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


def _parsed(row: Mapping[str, Any], render: Render | None) -> Preference:
    if {"completions", "ranks"} <= row.keys():
        return _ranking(_prompt(row, render), row["completions"], row["ranks"])
    if {"chosen", "rejected"} <= row.keys():
        prompt, chosen, rejected = _pair(row, render)
        if chosen == rejected:
            raise ValueError(f"chosen and rejected are the same text: {chosen!r:.200}; drop the row")
        return Ranking(prompt, (chosen, rejected), (0, 1))
    if {"completion", "label"} <= row.keys():
        label = row["label"]
        if not isinstance(label, bool | int) or label not in (0, 1):
            raise ValueError(f"label: expected true or false (or 1 or 0), got {label!r:.200}")
        prompt = _prompt(row, render)
        return Judgement(prompt, _completion(row["completion"], "completion", prompt), bool(label))
    raise ValueError(f"expected the fields {LAYOUTS}; got {', '.join(row) or 'none'}")


def _ranking(prompt: str, completions: Any, ranks: Any) -> Ranking:
    if not isinstance(completions, list):
        raise ValueError(f"completions: expected a list, got {completions!r:.200}")
    if not (isinstance(ranks, list) and all(type(r) is int for r in ranks)):
        raise ValueError(f"ranks: expected a list of integers, 0 for the best, got {ranks!r:.200}")
    texts = tuple(_completion(text, f"completions, number {i}", prompt) for i, text in enumerate(completions, start=1))
    ranking = Ranking(prompt, texts, tuple(ranks))
    if not untied_pairs(ranks):
        raise ValueError("all ranks are tied, which teaches nothing; drop the row")
    if len(set(texts)) == 1:
        raise ValueError(f"all completions are the same text: {texts[0]!r:.200}; drop the row")
    return ranking


def _pair(row: Mapping[str, Any], render: Render | None) -> tuple[str, str, str]:
    chosen, rejected = row["chosen"], row["rejected"]
    prompt = row.get("prompt")
    if prompt is not None:
        prompt = _prompt(row, render)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = split_dialogues(chosen, rejected)
    elif is_conversation(chosen) and is_conversation(rejected):
        pairs = zip(chosen, rejected, strict=False)
        n = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        prompt, chosen, rejected = _prompt({"prompt": chosen[:n]}, render), chosen[n:], rejected[n:]
    begun = str(prompt)
    return begun, _completion(chosen, "chosen", begun), _completion(rejected, "rejected", begun)


def _prompt(row: Mapping[str, Any], render: Render | None) -> str:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return prompt
    if render is not None and prompt and is_conversation(prompt):
        return render(prompt)
    hint = "" if render else "; render conversations first"
    raise ValueError(f"prompt: expected a text, got {type(prompt).__name__}{hint}")


def _completion(value: Any, name: str, prompt: str) -> str:
    """A text, or a conversation's one remaining message, which follows the prompt."""
    if is_conversation(value):
        try:
            value = reply_text(prompt, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text or one message, got {value!r:.200}")
    if not value.strip():
        raise ValueError(f"{name} is {value!r}; expected a text that is not empty")
    return value
