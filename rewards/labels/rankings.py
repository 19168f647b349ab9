"""Ranked completions: reading, writing, and splitting them by prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from textgym.files import write_json_lines
from textgym.prompts import content_key, plain_content
from textgym.rewards.labels.preferences import Render, read_preferences
from textgym.rows import Screening
from textgym.types import Messages, Ranking


class HasPrompt(Protocol):
    """Any object with a prompt: a ranking, a judgement, or either as tokens."""

    @property
    def prompt(self) -> str | Messages:
        """A text or a conversation."""
        ...


Prompted = TypeVar("Prompted", bound=HasPrompt)


def read_rankings(path: str | Path, render: Render | None = None, screening: Screening | None = None) -> list[Ranking]:
    """Read rankings and pairs; see :func:`textgym.rewards.labels.preferences.read_preferences`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be used; the message names the file and the row.
    """
    found = read_preferences(path, render, screening)
    rankings = [r for r in found if isinstance(r, Ranking)]
    if len(rankings) < len(found):
        raise ValueError(f"{path} holds labels of single completions; expected rankings or pairs")
    return rankings


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write JSON Lines ``{"prompt", "completions", "ranks"}``, one ranking a line."""
    write_json_lines(
        path,
        (
            {"prompt": plain_content(r.prompt), "completions": list(r.completions), "ranks": list(r.ranks)}
            for r in rankings
        ),
    )


def split_rankings(
    rankings: Sequence[Prompted], heldout: float, generator: torch.Generator
) -> tuple[list[Prompted], list[Prompted]]:
    """Hold out about a share ``heldout`` of the *prompts*; all rankings of one prompt stay together.

    Returns:
        The training part and the held-out part, with at least one prompt each.

    Raises:
        ValueError: the share is not between 0 and 1, or there is only one prompt.
    """
    # Split by prompt, not by ranking: a model that saw a prompt in training would look better on it than it is.
    prompts = list(dict.fromkeys(content_key(r.prompt) for r in rankings))
    if not 0 < heldout < 1:
        raise ValueError(f"heldout: expected a share between 0 and 1, or a list of rankings, got {heldout!r}")
    if len(prompts) < 2:
        raise ValueError(
            f"heldout: a share is split by prompt, so that no prompt is in both parts, but there are {len(prompts)}: "
            "pass the held-out rankings themselves as a list"
        )
    count = min(max(1, round(heldout * len(prompts))), len(prompts) - 1)
    aside = {prompts[i] for i in torch.randperm(len(prompts), generator=generator)[:count].tolist()}
    held = [content_key(r.prompt) in aside for r in rankings]
    kept, out = ([r for r, is_held in zip(rankings, held, strict=True) if is_held is side] for side in (False, True))
    return kept, out
