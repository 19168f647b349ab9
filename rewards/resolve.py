"""From what a user writes on a command line to a reward."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.ensemble import load_reward_model
from textgym.rewards.functions import Reward, check_signature
from textgym.rewards.imports import import_named

Spec: TypeAlias = "str | Reward | tuple[str | Reward, float]"


def resolve_reward(
    spec: Spec | Sequence[Spec],
    named: Mapping[str, Reward],
    load_model: Callable[[str], Reward] = load_reward_model,
) -> WeightedRewards:
    """Find the reward that ``spec`` speaks of.

    A text holds one or several of these, separated by spaces, each with an optional ``,WEIGHT``:

    - ``NAME``: one of ``named``, as in ``"gold,0.5 length,-0.01"``;
    - ``module:function``, or ``path/to/file.py:function``;
    - ``rm:DIR``: the directory of a reward model, of an ensemble, or of the run that trained either.

    Callables are taken as they are; a list may hold all of these, and ``(reward, weight)`` pairs. An item
    of a list is not split at spaces.

    Raises:
        ValueError: an unknown name (the message names the nearest), or a weight that is not a number.
        ImportError, AttributeError, TypeError, FileNotFoundError: what the text speaks of cannot be
            imported, is not there, is not a reward, or is no directory. Each names the text.
    """
    items = _items(spec)
    if not items:
        raise ValueError(f"reward: got {spec!r}, expected at least one of: {', '.join(sorted(named))}")
    return compose([_part(item, named, load_model) for item in items])


def _items(spec: Any) -> list[Spec]:
    if isinstance(spec, str):
        return list(spec.split())
    is_pair = isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[1], int | float)
    return list(spec) if isinstance(spec, Sequence) and not is_pair else [spec]


def _part(item: Spec, named: Mapping[str, Reward], load_model: Callable[[str], Reward]) -> tuple[Reward, float]:
    reward, weight = item if isinstance(item, tuple) else (item, 1.0)
    if not isinstance(reward, str):
        return reward, weight
    text, comma, factor = reward.rpartition(",")
    if not comma:
        return _reward(reward, named, load_model), weight
    try:
        weight *= float(factor)
    except ValueError as error:
        raise ValueError(f"reward {reward!r}: expected a number after the comma, got {factor!r}") from error
    return _reward(text, named, load_model), weight


def _reward(text: str, named: Mapping[str, Reward], load_model: Callable[[str], Reward]) -> Reward:
    if text in named:
        return named[text]
    if text.startswith("rm:"):
        return load_model(text.removeprefix("rm:"))
    if ":" in text:
        return _imported(text)
    near = difflib.get_close_matches(text, named, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown reward {text!r}: {hint}Known are {', '.join(sorted(named)) or 'none'}; "
        "or write module:function, path/to/file.py:function or rm:DIR"
    )


def _imported(text: str) -> Reward:
    reward: Reward = import_named("reward", text)
    try:
        check_signature(reward)
    except TypeError as error:
        raise TypeError(f"reward {text!r}: {error}") from error
    return reward
