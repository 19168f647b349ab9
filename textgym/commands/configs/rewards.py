"""Settings of ``textgym rewards``."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from textgym.numbers import check_words


@dataclass(frozen=True)
class RewardsConfig:
    """List the rewards that --reward names, with a line each; or describe one, with its options."""

    name: tyro.conf.Positional[str | None] = None
    """Name of a reward to describe. Default: list all."""
    task: str | None = None
    """Id of a task, whose own rewards are listed too."""

    def __post_init__(self) -> None:
        check_words(self, "name", "task")
