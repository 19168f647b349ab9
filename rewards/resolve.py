"""From what a user writes on a command line to a reward."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.ensemble import load_reward_model
from textgym.rewards.functions import Reward, check_signature

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
    source, colon, name = text.rpartition(":")
    if text.startswith("rm:"):
        return load_model(text.removeprefix("rm:"))
    if colon:
        return _from_module(text, source, name)
    near = difflib.get_close_matches(text, named, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown reward {text!r}: {hint}Known are {', '.join(sorted(named)) or 'none'}; "
        "or write module:function, path/to/file.py:function or rm:DIR"
    )


def _from_module(text: str, source: str, name: str) -> Reward:
    module = _import_file(text, Path(source)) if source.endswith(".py") else _import_module(text, source)
    try:
        reward: Reward = functools.reduce(getattr, name.split("."), module)  # type: ignore[assignment]
    except AttributeError as error:
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"reward {text!r}: {source} has no {name!r}{hint}") from error
    try:
        check_signature(reward)
    except TypeError as error:
        raise TypeError(f"reward {text!r}: {error}") from error
    return reward


def _import_module(text: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ImportError as error:
        raise ImportError(
            f"reward {text!r}: cannot import {source!r} ({error}); for a file write path/to/file.py:function"
        ) from error


def _import_file(text: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"reward {text!r}: there is no file {str(path)!r}")
    name = f"textgym_reward_file_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ImportError(f"reward {text!r}: {path} raised {type(error).__name__}: {error}") from error
    return module
