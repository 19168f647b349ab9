"""Parsing of reward specifications, as written on a command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.functions import Reward, check_signature
from textgym.rewards.models.classifier import ClassifierReward
from textgym.rewards.models.ensemble import load_reward_model
from textgym.rewards.specs.addresses import split_address
from textgym.rewards.specs.imports import import_named

Spec: TypeAlias = "str | Reward | tuple[str | Reward, float]"


MODELS: dict[str, tuple[Callable[..., Reward], tuple[str, ...]]] = {
    "rm": (load_reward_model, ("too_long",)),
    "clf": (ClassifierReward.load, ("label", "score", "reads", "too_long")),
}
"""Loader and permitted options of each prefix."""


def resolve_reward(spec: Spec | Sequence[Spec], named: Mapping[str, Reward]) -> WeightedRewards:
    """Build the reward that ``spec`` describes.

    A text holds one or several of these, separated by spaces, each with an optional ``,WEIGHT``:

    - ``NAME``: one of ``named``, as in ``"gold,0.5 length,-0.01"``;
    - ``module:function``, or ``path/to/file.py:function``;
    - ``rm:DIR``: the directory of a reward model, of an ensemble, or of the run that trained either;
      ``rm:DIR,too_long=truncate`` truncates texts that are too long for it;
    - ``clf:DIR,label=LABEL``: the directory of a classifier and the label that is rewarded, with ``_`` for spaces;
    further
      options are those of :class:`textgym.rewards.ClassifierReward`: ``score=logit``, ``reads=completion``,
      ``too_long=truncate``.

    Options and weight may come in any order: ``clf:DIR,-0.5,label=toxic``. A directory's name may contain commas and
    ``=``, but a name whose end reads like an option or a weight (``run,2``, ``a,b=1``) is rejected.

    Callables are used as they are. A list may hold all of these, and ``(reward, weight)`` pairs; its items are not
    split at spaces.

    Raises:
        ValueError: an unknown name, label or option (the message names the nearest, or the known ones), or a weight
            that is not a number.
        ImportError, AttributeError, TypeError, FileNotFoundError: the named object cannot be imported, does not exist,
            is not a reward, or is not a directory. The message quotes the specification.
    """
    items = _items(spec)
    if not items:
        raise ValueError(f"reward: got {spec!r}, expected at least one of: {', '.join(sorted(named))}")
    return compose([_parse_item(item, named) for item in items])


def _items(spec: Any) -> list[Spec]:
    if isinstance(spec, str):
        return list(spec.split())
    # A pair ``(reward, weight)`` is one item, not a sequence of two.
    is_pair = isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[1], int | float)
    return list(spec) if isinstance(spec, Sequence) and not is_pair else [spec]


def _parse_item(item: Spec, named: Mapping[str, Reward]) -> tuple[Reward, float]:
    reward, weight = item if isinstance(item, tuple) else (item, 1.0)
    if not isinstance(reward, str):
        return reward, weight
    kind, colon, rest = reward.partition(":")
    if colon and kind in MODELS and reward not in named:
        directory, options, factor = _model_parts(reward, kind, rest)
        return MODELS[kind][0](directory, **options), weight * factor
    text, comma, given = reward.rpartition(",")
    if not comma:
        return _named_or_imported(reward, named), weight
    try:
        weight *= float(given)
    except ValueError as error:
        raise ValueError(f"reward {reward!r}: expected a number after the comma, got {given!r}") from error
    return _named_or_imported(text, named), weight


def _model_parts(text: str, kind: str, rest: str) -> tuple[str, dict[str, str], float]:
    """Split ``kind:DIR,name=value,…,WEIGHT`` into directory, options and weight."""
    known = MODELS[kind][1]
    it_has = f"it has {', '.join(f'{name}=' for name in known)}"
    directory, settings = split_address(rest)
    options: dict[str, str] = {}
    weights: list[float] = []
    for i, part in enumerate(settings, start=1):
        # "run,2" could be the directory "run" with weight 2, or the directory "run,2": ambiguous, so refused.
        if Path(longer := ",".join([directory, *settings[:i]])).is_dir():
            raise ValueError(
                f"reward {text!r}: there is a directory {longer!r}, whose name ends like an option or a weight; rename "
                "it, or load it in Python"
            )
        name, equals, value = part.partition("=")
        if not equals:
            weights.append(float(part))
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"reward {text!r}: '{kind}:' has no option {name!r}; {hint}{it_has}")
        elif name in options:
            raise ValueError(f"reward {text!r}: the option {name!r} is given twice")
        else:
            options[name] = value
    if len(weights) > 1:
        raise ValueError(f"reward {text!r}: expected one weight at most, got {', '.join(map(str, weights))}")
    if "," in directory and not Path(directory).is_dir():
        raise ValueError(
            f"reward {text!r}: there is no directory {directory!r}; after a comma expected a number, the weight, or "
            f"an option of '{kind}:' ({it_has}), got {directory.rpartition(',')[2]!r}"
        )
    if kind == "clf":
        options.setdefault("label", "")  # no label has this name, so the error lists the labels
    return directory, options, (weights or [1.0])[0]


def _named_or_imported(text: str, named: Mapping[str, Reward]) -> Reward:
    if text in named:
        return named[text]
    if ":" in text:
        return _imported(text)
    near = difflib.get_close_matches(text, named, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown reward {text!r}: {hint}Known are {', '.join(sorted(named)) or 'none'}; "
        "or write module:function, path/to/file.py:function, rm:DIR or clf:DIR,label=LABEL"
    )


def _imported(text: str) -> Reward:
    reward: Reward = import_named("reward", text)
    try:
        check_signature(reward)
    except TypeError as error:
        raise TypeError(f"reward {text!r}: {error}") from error
    return reward
