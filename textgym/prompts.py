"""Prompts: reading them from files, encoding them, and the seeded order in which they are visited."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from textgym.tokenization import encode_content, is_conversation, render_chat, warn_of_special_strings, words_of
from textgym.types import IntArray, Messages, Prompt, SpecialTokens, Truncation


class BadRowError(ValueError):
    """A row that nothing can be learned from: too long, an empty completion, or two that are the same."""


@contextmanager
def leaving_out(skipped: list[str] | None) -> Iterator[None]:
    """Collects what is wrong with a row that nothing can be learned from, and goes on; raises it without a list."""
    try:
        yield
    except BadRowError as error:
        if skipped is None:
            raise
        skipped.append(str(error))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a data file: JSON Lines, Parquet, or a directory that ``datasets`` saved.

    Raises:
        FileNotFoundError: nothing stands at ``path``.
        ValueError: a line is not a JSON object (names file and line), or there is no row at all.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"prompts={str(path)!r}: no such file; expected JSON Lines with a field 'prompt'")
    read = _read_with_datasets if path.is_dir() or path.suffix == ".parquet" else _read_json_lines
    rows = list(read(path))
    if not rows:
        raise ValueError(f"prompts={str(path)!r} is empty; expected at least one row with a field 'prompt'")
    return rows


def _read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); expected JSON Lines in UTF-8") from error
    # str.splitlines would also cut at U+2028 and its like, which may stand in JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
        yield row


def _read_with_datasets(path: Path) -> Iterator[dict[str, Any]]:
    import datasets  # takes seconds to import

    data = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
    if isinstance(data, datasets.DatasetDict):
        raise ValueError(f"prompts={str(path)!r} holds the splits {sorted(data)}; give the directory of one of them")
    yield from map(dict, data)


def read_prompts(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    truncation: Truncation = "error",
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
) -> tuple[Prompt, ...]:
    """Reads and encodes a prompt file; see :func:`read_rows` and :func:`encode_prompts`."""
    return encode_prompts(read_rows(path), tokenizer, max_length, truncation, str(path), special_tokens, closing)


def encode_prompts(
    rows: Iterable[str | Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    truncation: Truncation = "error",
    source: str = "prompts",
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
) -> tuple[Prompt, ...]:
    """Texts or data rows as prompts of at most ``max_length`` tokens.

    A conversation that ends with the assistant's words is continued. Special tokens that are written out in a text or
    a message are text, with a warning, unless ``special_tokens="parse"``.

    Args:
        rows: texts, or mappings with a field ``prompt`` (a text or a conversation); other fields become columns.
        tokenizer: with the special tokens that it adds by itself.
        max_length: ``P``.
        truncation: what becomes of longer prompts.
        source: what an error calls the data.
        special_tokens: how strings of special tokens, such as ``<eos>``, are read: as ``"text"``, or ``"parse"`` for
            texts that a chat template has rendered.
        closing: keep the tokens that the tokenizer appends to every text. Encoder–decoders read them; a causal model
            would write after an end token.

    Raises:
        ValueError: no rows; a row without a prompt or with an empty one; a prompt longer than ``max_length``
            under ``truncation="error"``. Rows are counted from 1.
    """
    if truncation not in ("error", "left", "drop"):
        raise ValueError(f"truncation={truncation!r} is not one of 'error', 'left', 'drop'")
    if special_tokens not in ("text", "parse"):
        raise ValueError(f"special_tokens={special_tokens!r} is not one of 'text', 'parse'")
    parsed = [_parse_row(row, f"{source}, row {number}") for number, row in enumerate(rows, start=1)]
    if not parsed:
        raise ValueError(f"{source} is empty; expected at least one prompt")
    texts = [_rendered(tokenizer, content, f"{source}, row {i}") for i, (content, _) in enumerate(parsed, start=1)]
    if special_tokens == "text":
        warn_of_special_strings(tokenizer, [words_of(content) for content, _ in parsed], source)
    encoded = [
        encode_content(tokenizer, content, special_tokens=special_tokens, closing=closing) for content, _ in parsed
    ]
    prompts = []
    for number, (ids, text, (content, columns)) in enumerate(zip(encoded, texts, parsed, strict=True), start=1):
        if not ids:
            raise ValueError(f"{source}, row {number}: prompt {text!r} has no tokens; expected at least one")
        if len(ids) > max_length:
            if truncation == "error":
                raise ValueError(
                    f"{source}, row {number}: the prompt has {len(ids)} tokens, max_prompt_length is {max_length}; "
                    "raise max_prompt_length, or set truncation to 'left' or 'drop'"
                )
            if truncation == "drop":
                continue
        prompts.append(Prompt(content, text, tuple(ids[-max_length:]), columns))
    if not prompts:
        raise ValueError(f"{source}: every prompt has more than {max_length} tokens; raise max_prompt_length")
    return tuple(prompts)


def _rendered(tokenizer: PreTrainedTokenizerBase, content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    try:
        return render_chat(tokenizer, content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _parse_row(row: str | Mapping[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
    fields = {"prompt": row} if isinstance(row, str) else dict(row)
    if "prompt" not in fields:
        raise ValueError(f"{where}: no field 'prompt'; got the fields {sorted(fields)}")
    content = fields.pop("prompt")
    if not content or not (isinstance(content, str) or is_conversation(content)):
        raise ValueError(
            f"{where}: prompt is {content!r}; expected a text, or a list of messages with 'role' and 'content'"
        )
    return content, fields


def content_key(content: str | Messages) -> str | tuple[tuple[str, str], ...]:
    """A prompt's content, to be counted and looked up by."""
    return content if isinstance(content, str) else tuple((m["role"], m["content"]) for m in content)


def plain_content(content: str | Messages) -> str | list[dict[str, str]]:
    """A prompt's content as JSON writes and reads it."""
    return content if isinstance(content, str) else [dict(message) for message in content]


def prompt_order(seed: int, n_prompts: int, episodes: IntArray) -> IntArray:
    """Which prompt each episode begins with: every prompt once per epoch, each epoch in its own order.

    A pure function of its arguments, so a resumed run needs no more than its episode counter.

    Args:
        seed: the run's seed.
        n_prompts: how many prompts there are.
        episodes: ``[n]`` running numbers.

    Returns:
        ``[n]`` indices in ``[0, n_prompts)``.
    """
    return np.array([_epoch_order(seed, n_prompts, int(e) // n_prompts)[int(e) % n_prompts] for e in episodes], int)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, n_prompts: int, epoch: int) -> IntArray:
    order: IntArray = np.random.default_rng([seed, epoch]).permutation(n_prompts)
    return order
