"""Task from a JSON Lines file: one prompt a line, a gold reward, and a model to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from textgym.env.mdp import ENVIRONMENT_COLUMNS
from textgym.rows import read_placed_rows
from textgym.tasks.fields import HELD_OUT as HELD_OUT
from textgym.tasks.fields import SPLITS, Row, prompt_fields
from textgym.tasks.fields import UNLIMITED as UNLIMITED
from textgym.tasks.task import Proxy, Task, TextMetric
from textgym.types import RewardFunction


def jsonl_task(
    path: str | Path,
    *,
    gold: RewardFunction,
    model: str | Path,
    description: str,
    name: str | None = None,
    max_prompt_length: int | None = None,
    max_new_tokens: int = 48,
    proxies: Mapping[str, Proxy] | None = None,
    metrics: Mapping[str, TextMetric] | None = None,
    seed: int = 0,
) -> Task:
    """Make a task of a file's prompts.

    Args:
        path: JSON Lines in UTF-8. ``prompt`` is a text or a conversation; the optional ``reference`` is a good answer;
            the optional ``split`` is one of ``train``, ``validation`` and ``test``. All lines have the same columns;
            others reach gold and rewards by name.
        gold: the true reward, in [0, 1]. If a prompt is a conversation, it receives the assistant's message.
        model: the model that policies start from, with its tokenizer: a directory or a hub id.
        description: one sentence: the task of the policy.
        name: by default the file's name without its suffix.
        max_prompt_length: ``P``; by default the length of the longest prompt.
        max_new_tokens: ``T``.
        proxies: rewards that can be hacked, by name.
        metrics: additional measures, by name.
        seed: seed of the split, if the file has no column ``split``: a tenth of the lines each are held out for
            ``validation`` and ``test``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is invalid (file and line are named), a prompt occurs twice, or one is longer than
            ``max_prompt_length``.
    """
    rows = _checked_rows(Path(path))
    fields = {place: {key: value for key, value in row.items() if key != "split"} for place, row in rows.items()}
    return Task(
        name=name or Path(path).stem,
        description=description,
        gold=gold,
        max_new_tokens=max_new_tokens,
        metrics=metrics or {},
        proxies=proxies or {},
        **prompt_fields(fields, model, str(path), _given_splits(rows), seed, max_prompt_length),
    )


def _checked_rows(path: Path) -> dict[str, Row]:
    """Return the rows of a file by place, after the checks of :func:`jsonl_task`."""
    placed = read_placed_rows(path).items()
    rows = {str(place) if place.line is None else f"{path}, line {place.line}": row for place, row in placed}
    _check_columns(rows)
    for place, row in rows.items():
        _check_texts(place, row)
    return rows


def _check_columns(rows: Mapping[str, Row]) -> None:
    """Check that all lines have the same columns, with ``prompt`` among them and no name of a reward argument."""
    owner: dict[str, str] = {}
    for place, row in rows.items():
        for column in row:
            owner.setdefault(column, place)
    if taken := sorted(owner.keys() & ENVIRONMENT_COLUMNS):
        raise ValueError(f"{owner[taken[0]]}: the column {taken[0]!r} has the name of a reward argument; rename it")
    for place, row in rows.items():
        for column in ("prompt", *owner):
            if column not in row:
                others = f", which {owner[column]} has" if column in owner else ""
                raise ValueError(
                    f"{place}: no column {column!r}{others}; got {sorted(row)}. Give every line all columns"
                )


def _check_texts(place: str, row: Row) -> None:
    if not isinstance(row["prompt"], str | list):
        raise ValueError(f"{place}: prompt is {row['prompt']!r}; expected a text or a conversation")
    for column in ("prompt", "reference"):
        value = row.get(column, "-")
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{place}: {column} is {value!r}; expected a text that is not empty")
    reference = row.get("reference", "-")
    if not isinstance(reference, str):
        raise ValueError(f"{place}: reference is {reference!r}; expected a text")


def _given_splits(rows: Mapping[str, Row]) -> list[str]:
    """Return each row's split from the file; empty if it has no column ``split``."""
    given = {place: row["split"] for place, row in rows.items() if "split" in row}
    for place, split in given.items():
        if split not in SPLITS:
            raise ValueError(f"{place}: split is {split!r}; expected one of {', '.join(SPLITS)}")
    if given and "train" not in given.values():
        raise ValueError(f"{next(iter(given))}: no line has the split 'train'; environments draw from it")
    return list(given.values())
