"""What the numbers of an experiment may be, whichever experiment has them: checked before any run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textgym.numbers import count, finite

FEWEST = {
    **dict.fromkeys(("tokens", "episodes", "slots", "evaluated", "texts", "ptx_batch_size", "held_out"), 1),
    **dict.fromkeys(("labels", "members", "prompts", "reward_batch_size", "min_epochs", "max_epochs"), 1),
    **dict.fromkeys(("minibatch_size", "n_epochs", "samples_per_prompt"), 1),
    "episodes_per_iteration": 2,
    "completions": 2,  # a ranking compares them
    "responses": 2,  # so does the agreement of a proxy with gold
    "pool": 8,  # the fits to best-of-n need n = 2, 4 and 8
}
"""Whole numbers, and the smallest that a run can do with."""
POSITIVE = ("learning_rate", "reward_learning_rate")
NOT_NEGATIVE = ("beta", "temperature", "uncertainty_weight", "vf_coef")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses numbers that no run could use; None stands for an algorithm's own value.

    Raises:
        ValueError: one of them is not whole, or out of its range.
    """
    for name, value in settings.items():
        if value is None:
            continue
        if name in FEWEST:
            count(name, value, FEWEST[name])
        elif name in POSITIVE:
            finite(name, value, above=0)
        elif name in NOT_NEGATIVE:
            finite(name, value, low=0)
