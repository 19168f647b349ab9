"""Score of a mini run: the trained objective gold − β·KL, from 0 for the base model to 1 for a gold of 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from textgym.types import FloatArray


def objective_score(result: Mapping[str, Any], beta: float) -> float:
    """Return (gold − β·KL − gold₀) / (1 − gold₀) of a run, where gold₀ is the base model's, whose KL is 0.

    References have a gold of 1, but writing like them costs KL: the optimum lies below 1.
    """
    before, after = float(result["before"]["gold"]), result["after"]
    return (float(after["gold"]) - beta * float(after["kl"]) - before) / (1 - before)


def objective_error(before: FloatArray, after: FloatArray, kl: FloatArray, beta: float) -> float:
    """Return the standard error of :func:`objective_score` over prompts.

    By the delta method, as the score is a ratio of two means over the same prompts.

    Args:
        before: ``[n]`` gold of the base model's responses, one for each prompt.
        after: ``[n]`` gold of the policy's, to the same prompts.
        kl: ``[n]`` its KL in nats a response.
        beta: β.
    """
    if len(before) < 2:
        return math.nan
    objective, room = after - beta * kl, 1 - before.mean()
    score = (objective.mean() - before.mean()) / room
    # d score = (d objective − (1 − score)·d before) / room
    influence = (objective - (1 - score) * before) / room
    return float(influence.std(ddof=1) / math.sqrt(len(influence)))
