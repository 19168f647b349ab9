"""Files around the store: questions that are read into it, rankings and feedback that are written from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgym.files import write_json_lines
from textgym.labelling.store import LabelStore
from textgym.prompts import content_key, plain_content
from textgym.rewards.labels.labelling import Question
from textgym.rewards.labels.preferences import untied_pairs
from textgym.rewards.labels.rankings import write_rankings
from textgym.rows import BadRowError, Screening, read_placed_rows
from textgym.tokenization import is_conversation
from textgym.types import Messages, Prompt

COLUMNS = ("gold",)
"""Columns that a question keeps: K gold scores, to compare answers with. Others could hold names of models."""


def read_questions(path: str | Path, least: int = 2) -> list[Question]:
    """Read questions from a data file.

    A row has ``prompt`` and ``completions``, as the files that a pipeline leaves for people and its ``samples.jsonl``
    have; ranks are ignored. Or it has ``prompt`` and one ``completion``, as the samples of an evaluation have; the rows
    of one prompt are one question then. Equal completions are merged, and empty ones dropped.

    Args:
        path: the file.
        least: completions that a question needs; others are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be used, which is named, or no question is left.
    """
    singles: dict[Any, dict[str, None]] = {}
    prompts: dict[Any, str | Messages] = {}
    found: list[Question] = []
    screening = Screening()
    for place, row in read_placed_rows(path).items():
        with screening.row(place):
            prompt = _prompt(row)
            if "completions" in row:
                found.append(_question(prompt, row))
            elif isinstance(row.get("completion"), str):
                key = content_key(prompt)
                prompts.setdefault(key, prompt)
                singles.setdefault(key, {})[row["completion"]] = None
            else:
                raise BadRowError(f"neither completions nor a completion; got the fields {sorted(row)}")
    found += [_question(prompts[key], {"completions": list(texts)}) for key, texts in singles.items()]
    kept = [question for question in found if len(question.completions) >= least]
    if not kept:
        raise ValueError(f"{str(path)!r} has no question with {least} different completions that are not empty")
    return kept


def export_rankings(store: LabelStore, path: Path) -> tuple[int, int]:
    """Write a ranking for each answer that was not skipped, as all commands read them.

    Returns:
        The number of rankings written, and of those left out because all their completions are tied, which teaches
        nothing.

    Raises:
        ValueError: no ranking is left.
    """
    found = store.rankings()
    rankings = [ranking for ranking in found if untied_pairs(ranking.ranks)]
    if not rankings:
        raise ValueError(f"{str(store.path)!r} holds no rankings yet that order anything; answer questions first")
    write_rankings(path, rankings)
    return len(rankings), len(found) - len(rankings)


def export_feedback(store: LabelStore, path: Path) -> int:
    """Write scalar feedback, one row for each completion that was watched; return their number.

    Rows have ``prompt``, ``completion``, ``tokens`` (texts that join to the completion), ``shown`` (seconds, one for
    each token), ``events`` (pairs of seconds and value) and ``labeller``.

    Raises:
        ValueError: there is none.
    """
    watched = store.watched()
    if not watched:
        raise ValueError(f"{str(store.path)!r} holds no feedback yet; watch completions with --watch first")
    asked = store.asked()  # after the feedback, so that its questions are among these
    rows = (
        {
            "prompt": asked[own.question].content,
            "completion": asked[own.question].completions[own.completion],
            "tokens": list(own.tokens),
            "shown": list(own.shown),
            "events": [list(event) for event in own.events],
            "labeller": own.labeller,
        }
        for own in watched
    )
    write_json_lines(path, rows)
    return len(watched)


def _prompt(row: Mapping[str, Any]) -> str | Messages:
    content: str | Messages | None = row.get("prompt")
    if not content or not (isinstance(content, str) or is_conversation(content)):
        raise BadRowError(f"prompt is {content!r:.200}; expected a text, or a list of messages")
    return plain_content(content)


def _question(prompt: str | Messages, row: Mapping[str, Any]) -> Question:
    texts = row["completions"]
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise BadRowError(f"completions is {texts!r:.200}; expected a list of texts")
    places = {text: place for place, text in reversed([*enumerate(texts)]) if text.strip()}
    kept = sorted(places.values())  # the first place of each text
    columns = {}
    for name in COLUMNS:
        values = row.get(name)
        if values is None:
            continue
        if not (isinstance(values, list) and len(values) == len(texts) and all(map(_is_number, values))):
            raise BadRowError(f"{name} is {values!r:.200}; expected {len(texts)} numbers, one a completion")
        columns[name] = [float(values[place]) for place in kept]
    text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    return Question(tuple(texts[place] for place in kept), Prompt(prompt, text, (), columns))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
