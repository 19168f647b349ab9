"""Fields of a task that its prompts and its model determine, whatever the prompts come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig, PreTrainedTokenizerBase

from textgym.lm.files.loading import names_encoder_decoder
from textgym.prompts import encode_prompts
from textgym.tokenization import end_token_ids, load_tokenizer, reason
from textgym.types import Prompt

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1
"""Share of the prompts in ``validation``, and again in ``test``, if their splits are drawn at random."""
UNLIMITED = 10**9

Row = dict[str, Any]


def prompt_fields(
    rows: Mapping[str, Row],
    model: str | Path,
    source: str,
    splits: Sequence[str] = (),
    seed: int = 0,
    max_prompt_length: int | None = None,
    repeats: bool = False,
) -> dict[str, Any]:
    """Return a task's ``tokenizer``, ``splits``, ``end_token_ids``, ``max_prompt_length`` and ``base_model``.

    Args:
        rows: a field ``prompt`` and columns, by place.
        model: the model that policies start from, with its tokenizer: a directory or a hub id.
        source: name of the data in error messages.
        splits: the split of each row; drawn at random unless given.
        seed: seed of that draw.
        max_prompt_length: ``P``; by default the length of the longest prompt.
        repeats: True if prompts may be equal.

    Raises:
        ValueError: a prompt is longer than ``max_prompt_length``, or occurs twice and may not; or there are too few
            prompts to be split.
    """
    tokenizer = load_tokenizer(model)
    closing = names_encoder_decoder(model)
    # Encoded without a limit: the longest prompt defines P unless it is given.
    encoded = encode_prompts(list(rows.values()), tokenizer, UNLIMITED, source=source, closing=closing)
    prompts = dict(zip(rows, encoded, strict=True))
    longest = max(len(prompt.ids) for prompt in encoded) if max_prompt_length is None else max_prompt_length
    _check_lengths(prompts, longest)
    if not repeats:
        _check_repeats(prompts)
    splits = splits or _drawn_splits(len(rows), source, seed)
    return {
        "tokenizer": tokenizer,
        "splits": {
            split: tuple(prompt for prompt, own in zip(encoded, splits, strict=True) if own == split)
            for split in SPLITS
            if split in splits
        },
        "end_token_ids": model_end_ids(model, tokenizer),
        "max_prompt_length": longest,
        "base_model": model,
    }


def _drawn_splits(n: int, source: str, seed: int) -> list[str]:
    """Draw each row's split at random."""
    held_out = max(1, round(HELD_OUT * n))
    if n < len(SPLITS):
        raise ValueError(f"{source} has {n} prompts; expected at least {len(SPLITS)}, one for each of {SPLITS}")
    # Exact sizes, dealt out by a permutation, instead of an independent draw for each line.
    dealt = ["train"] * (n - 2 * held_out) + ["validation"] * held_out + ["test"] * held_out
    return [dealt[place] for place in np.random.default_rng(seed).permutation(n)]


def model_end_ids(model: str | Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that end a response of a model: those of its tokenizer and of its generation config."""
    return end_token_ids(tokenizer, _generation_config(model))


def _generation_config(model: str | Path) -> GenerationConfig | None:
    """Load the generation config, which may name end tokens that the tokenizer does not; None if there is none."""
    try:
        return GenerationConfig.from_pretrained(str(model), trust_remote_code=False)
    except Exception as error:  # a config may hold anything
        if isinstance(error, OSError) and not Path(model, "generation_config.json").is_file():
            return None
        raise ValueError(f"model={str(model)!r}: its generation_config.json cannot be read: {reason(error)}") from error


def _check_lengths(prompts: Mapping[str, Prompt], max_prompt_length: int) -> None:
    for place, prompt in prompts.items():
        if len(prompt.ids) > max_prompt_length:
            raise ValueError(
                f"{place}: the prompt has {len(prompt.ids)} tokens, max_prompt_length is {max_prompt_length}; raise "
                "it, or shorten the prompt"
            )


def _check_repeats(prompts: Mapping[str, Prompt]) -> None:
    first: dict[tuple[int, ...], str] = {}
    for place, prompt in prompts.items():
        before = first.setdefault(prompt.ids, place)
        if before != place:
            raise ValueError(
                f"{place}: the prompt of {before} again, {prompt.text[:80]!r}; keep one of them, so that no prompt is "
                "in two splits"
            )


def as_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str | list[dict[str, str]]:
    """Return a text as a user's message if the tokenizer has a chat template, otherwise unchanged."""
    return [{"role": "user", "content": text}] if tokenizer.chat_template else text
