"""Signatures of rewards: one line that says what a score was, as sacreBLEU's signature does for a BLEU score.

Sums, named rewards and other combinations show their parts; a dataclass its fields; a function the digest of its
source, since its name may outlive it; a model the digest of its weights; a path the digest of its files.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from textgym.rewards.compose import Named, WeightedRewards
from textgym.rewards.functions import reward_name

DIGITS = 8
"""Length of a digest, in hexadecimal digits."""


def signature(reward: Any) -> str:
    """Return a reward's name, settings and versions in one line, such as ``Rouge(kind='L'; rouge-score 0.1.2)``.

    Two rewards with the same signature give the same scores, as far as can be told from outside: an object that hides
    its settings shows its class alone. A reward may give its own, as an attribute or property ``signature``.
    """
    own = getattr(reward, "signature", None)
    if isinstance(own, str):
        return own
    if isinstance(reward, WeightedRewards):
        parts = [_weighted(one, weight) for one, weight in zip(reward.rewards, reward.weights, strict=True)]
        return " + ".join(parts)
    if isinstance(reward, Named):
        inner = signature(reward.reward)
        return inner if reward_name(reward.reward) == reward.name else f"{reward.name}: {inner}"
    return _shown(reward)


def _weighted(reward: Any, weight: float) -> str:
    inner = signature(reward)
    if weight == 1:
        return inner
    return f"{weight:g}·({inner})" if " + " in inner else f"{weight:g}·{inner}"


def _shown(value: Any) -> str:
    """Return a value of a reward: numbers and texts as they are, all else by what it is made of."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, Path):
        return _of_path(value)
    if isinstance(value, torch.nn.Module):
        return f"{type(value).__name__}#{_weights_digest(value)}"
    if isinstance(value, partial):
        given = [*map(_shown, value.args), *(f"{name}={_shown(one)}" for name, one in value.keywords.items())]
        return f"{_shown(value.func)}({', '.join(given)})"
    if is_dataclass(value) and not isinstance(value, type):
        return _of_fields(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return _of_sequence(value)
    if inspect.isroutine(value):
        return _of_function(value)
    size = getattr(value, "vocab_size", None)  # a tokenizer
    return f"{type(value).__name__}({size} tokens)" if isinstance(size, int) else type(value).__name__


def _of_path(path: Path) -> str:
    """Return a path's name and the digest of what stands there: a file, or the files of a model's folder or run."""
    digest, model = hashlib.sha256(), path / "checkpoint" if (path / "checkpoint").is_dir() else path
    files = [path] if path.is_file() else sorted(file for file in model.glob("*") if file.is_file())
    try:
        for file in files:
            with file.open("rb") as content:
                own = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.name} {own}\n".encode())
    except OSError:
        files = []
    if not files:
        return repr(str(path))  # such as a model's id on a hub, or what nobody may read
    return f"{path.name!r}#{digest.hexdigest()[:DIGITS]}"


def _of_sequence(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(_shown, values))}]"


def _of_fields(value: Any) -> str:
    shown = [f"{one.name}={_shown(getattr(value, one.name))}" for one in fields(value) if one.repr]
    versions = [f"{name} {_version(name)}" for name in getattr(value, "packages", ())]
    return f"{type(value).__name__}({'; '.join(part for part in (', '.join(shown), *versions) if part)})"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _of_function(function: Any) -> str:
    """Return a function's name and the digest of its source; the settings of a method are those of its object."""
    bound = getattr(function, "__self__", None)
    if bound is not None and not inspect.ismodule(bound):
        return f"{_shown(bound)}.{function.__name__}"
    name = getattr(function, "__qualname__", type(function).__name__)
    where = f"{getattr(function, '__module__', None) or '?'}:{name}"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # a builtin, or one that was typed into a console
        return where
    return f"{where}#{_digest(source.encode())}"


def _weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:DIGITS]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]
