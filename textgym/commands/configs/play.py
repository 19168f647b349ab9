"""Settings of ``textgym play``."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from textgym.commands.configs.shared import Seed
from textgym.numbers import check, check_words, random_seed


@dataclass(frozen=True)
class PlayConfig:
    """Play a task yourself, at the terminal: read the prompt, write what the model would, see the reward.

    A line is a turn. It goes on behind the prompt as it stands, so begin it with a space where one belongs. In a task
    with another side, such as a user or tools, its reply follows. An empty line or the end of the input ends the game.
    """

    task: tyro.conf.Positional[str]
    """Id of a task, such as textgym/Reviews-v0."""
    parameters: dict[str, int | float] = field(default_factory=dict)
    """Parameters of the task, such as 'size 4096' of Vocabulary, for a variant of another size."""
    reward: str | None = None
    """Reward, written as for 'textgym train'. Default: the task's."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self, random_seed, "seed")
        check_words(self, "task", "reward")
