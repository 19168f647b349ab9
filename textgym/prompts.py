"""Prompts: encoding, and the seeded order in which they are visited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from textgym.moved import find_moved
from textgym.rows import BadRowError, Place, Screening, TooLongError, in_file_order, placed, read_placed_rows
from textgym.tokenization import encode_content, is_conversation, render_chat, warn_of_special_strings, words_of
from textgym.types import Messages, Prompt, SpecialTokens, Truncation


def read_prompts(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    truncation: Truncation = "error",
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
    screening: Screening | None = None,
) -> tuple[Prompt, ...]:
    """Read and encode a prompt file; see :func:`textgym.rows.read_placed_rows` and :func:`encode_prompts`."""
    screening = screening or Screening(truncation)
    rows = read_placed_rows(path, screening)
    return encode_prompts(
        rows, tokenizer, max_length, truncation, str(path), special_tokens, closing=closing, screening=screening
    )


def encode_prompts(
    rows: Iterable[str | Mapping[str, Any]] | Mapping[Place, Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    truncation: Truncation = "error",
    source: str = "prompts",
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
    screening: Screening | None = None,
) -> tuple[Prompt, ...]:
    """Encode texts or data rows as prompts of at most ``max_length`` tokens.

    A conversation that ends with the assistant's words is continued. Special tokens written out in a text or a message
    are read as text, with a warning, unless ``special_tokens="parse"``.

    Args:
        rows: texts, or mappings with a field ``prompt`` (a text or a conversation); other fields become columns. Or
            rows keyed by place, as :func:`textgym.rows.read_placed_rows` returns them.
        tokenizer: the tokenizer, with the special tokens that it adds by itself.
        max_length: ``P``.
        truncation: treatment of longer prompts: ``"error"``, ``"left"`` (keep the last tokens; see :func:`cut_left`) or
            ``"drop"``. Ignored if ``screening`` is given, which has its own.
        source: name of the data in error messages.
        special_tokens: treatment of strings of special tokens, such as ``<eos>``: ``"text"``, or ``"parse"`` for texts
            that a chat template has rendered.
        closing: keep the tokens that the tokenizer appends to every text. Encoder–decoders need them; a causal model
            would continue after an end token.
        screening: records rows that are left out; without it a bad row is an error.

    Raises:
        ValueError: there are no rows; a row has no prompt or an empty one; a prompt is longer than ``max_length`` under
            ``truncation="error"``; or more rows are bad than the screening allows. Rows are counted from 1.
    """
    if special_tokens not in ("text", "parse"):
        raise ValueError(f"special_tokens={special_tokens!r} is not one of 'text', 'parse'")
    screening = screening or Screening(truncation)
    given = placed(rows, source)
    if not given:
        raise ValueError(f"{source} is empty; expected at least one prompt")
    found: dict[Place, Prompt] = {}
    for place, row in given.items():
        with screening.row(place):
            prompt = encode_prompt(row, tokenizer, special_tokens, closing)
            found[place] = fitted(prompt, max_length, tokenizer, screening)
    if special_tokens == "text":
        words = {place: words_of(prompt.content) for place, prompt in found.items()}
        warn_of_special_strings(tokenizer, in_file_order(words), source)
    # All rows were dropped as too long: a limit of the task is the likelier mistake than the data.
    if not found and not screening.bad:
        raise ValueError(f"{source}: every prompt has more than {max_length} tokens; raise max_prompt_length")
    screening.require_some(found, source)
    return tuple(found.values())


def encode_prompt(
    row: str | Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
) -> Prompt:
    """Encode one prompt of any length; see :func:`encode_prompts`.

    Raises:
        BadRowError: there is no prompt, it is empty, or the chat template rejects it.
    """
    fields = {"prompt": row} if isinstance(row, str) else dict(row)
    if "prompt" not in fields:
        raise BadRowError(f"no field 'prompt'; got the fields {sorted(fields)}")
    content = fields.pop("prompt")
    if not content or not (isinstance(content, str) or is_conversation(content)):
        raise BadRowError(
            f"prompt is {content!r:.200}; expected a text, or a list of messages with 'role' and 'content'"
        )
    try:
        text = content if isinstance(content, str) else render_chat(tokenizer, content)
        ids = encode_content(tokenizer, content, special_tokens=special_tokens, closing=closing)
    except ValueError as error:
        raise BadRowError(str(error)) from error
    if not ids:
        raise BadRowError(f"prompt {text!r:.200} has no tokens; expected at least one")
    return Prompt(content, text, tuple(ids), fields)


def fitted(prompt: Prompt, max_length: int, tokenizer: PreTrainedTokenizerBase, screening: Screening) -> Prompt:
    """Return a prompt of at most ``max_length`` tokens, cut from the left under ``truncation="left"``.

    Raises:
        TooLongError: the prompt is longer, and the truncation is not ``"left"``.
    """
    if len(prompt.ids) <= max_length:
        return prompt
    if screening.truncation != "left":
        raise TooLongError(
            f"the prompt has {len(prompt.ids)} tokens, max_prompt_length is {max_length}; raise max_prompt_length, or "
            "set truncation to 'left' or 'drop'"
        )
    screening.shortened += 1
    return replace(prompt, ids=cut_left(prompt.ids, max_length, tokenizer))


def cut_left(ids: Sequence[int], length: int, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the last tokens of a prompt, ``length`` in all; a start token (BOS) at its beginning is kept.

    Args:
        ids: the prompt's tokens.
        length: at least 1.
        tokenizer: defines the start token.
    """
    if len(ids) <= length:
        return tuple(ids)
    # Models were trained with BOS at the first position; without it their predictions can be poor.
    kept = 1 if length > 1 and ids[0] == tokenizer.bos_token_id else 0
    return (*ids[:kept], *ids[len(ids) - length + kept :])


def content_key(content: str | Messages) -> str | tuple[tuple[str, str], ...]:
    """Return a hashable key of a prompt's content."""
    return content if isinstance(content, str) else tuple((m["role"], m["content"]) for m in content)


def plain_content(content: str | Messages) -> str | list[dict[str, str]]:
    """Return a prompt's content in the types that JSON writes and reads."""
    return content if isinstance(content, str) else [dict(message) for message in content]


if not TYPE_CHECKING:  # a type checker must not take every name for one of this module
    __getattr__ = partial(find_moved, __name__)
