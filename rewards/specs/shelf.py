"""The shelf: rewards that a specification names, with a line about each.

A reward function is used as it is. A frozen dataclass is a reward with options: its fields, as
:mod:`textgym.rewards.specs.options` reads them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

from textgym.names import suggest
from textgym.rewards.specs.imports import import_named

SHELF: Mapping[str, str] = {
    "length": "textgym.rewards.builtin:length",
    "distinct": "textgym.rewards.builtin:distinct",
    "repetition": "textgym.rewards.builtin:repetition",
    "distinct-n": "textgym.rewards.text.shape:DistinctN",
    "repeated-n": "textgym.rewards.text.shape:RepeatedN",
    "length-budget": "textgym.rewards.text.shape:LengthBudget",
    "regex": "textgym.rewards.text.shape:Regex",
    "keywords": "textgym.rewards.text.shape:Keywords",
    "rouge": "textgym.rewards.text.overlap:Rouge",
    "bleu": "textgym.rewards.text.overlap:Bleu",
    "sacrebleu": "textgym.rewards.text.overlap:SacreBleu",
    "chrf": "textgym.rewards.text.overlap:Chrf",
    "ter": "textgym.rewards.text.overlap:Ter",
    "meteor": "textgym.rewards.text.overlap:Meteor",
    "exact_match": "textgym.rewards.text.overlap:ExactMatch",
    "token_f1": "textgym.rewards.text.overlap:TokenF1",
    "majority": "textgym.rewards.relative:Majority",
    "novelty": "textgym.rewards.relative:Novelty",
    "relative-length": "textgym.rewards.relative:RelativeLength",
    "json-schema": "textgym.rewards.text.form:JsonSchema",
    "answer": "textgym.rewards.text.answers:Answer",
    "math-verify": "textgym.rewards.text.answers:MathVerify",
    "naturalness": "textgym.rewards.text.naturalness:Naturalness",
    "evaluate-hub": "textgym.rewards.hf_metrics:EvaluateHub",
    "judge": "textgym.rewards.judges.judge:Judge",
    "remote": "textgym.rewards.judges.remote:RemoteReward",
    "rm": "textgym.rewards.models.ensemble:load_reward_model",
    "clf": "textgym.rewards.models.classifier:ClassifierReward.load",
    "tamer": "textgym.rewards.feedback.model:FeedbackModel.load",
}
"""Rewards of the package: where each lies, by name. They are imported when they are asked for."""

GROUP = "textgym.rewards"
"""Group of the entry points by which an installed package adds rewards: ``name = "module:object"``."""

_own: dict[str, Any] = {}
"""Rewards that :func:`register_reward` added."""

Made = TypeVar("Made", bound=Callable[..., Any])


def register_reward(name: str) -> Callable[[Made], Made]:
    """Put a reward function, or a frozen dataclass that is one, on the shelf under a name.

    >>> @register_reward("shouting")
    ... def shouting(completions, **columns):
    ...     return [float(text.isupper()) for text in completions]

    Args:
        name: a name without spaces, commas and colons, which no other reward has.

    Raises:
        ValueError: the name is taken, or cannot be written in a specification.
    """
    if not name or set(name) & set(" \t\n,:="):
        raise ValueError(f"name={name!r}: expected a name without spaces, commas, colons and '='")
    if name in _addresses():
        raise ValueError(f"name={name!r} is taken by {_addresses()[name]}; choose another name")

    def register(made: Made) -> Made:
        known = _own.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (made.__module__, made.__qualname__):
            raise ValueError(f"name={name!r} is taken by {known.__module__}:{known.__qualname__}; choose another name")
        _own[name] = made  # a module that is imported again, as by a notebook, replaces its own
        return made

    return register


def shelf_names() -> list[str]:
    """Return the names of all rewards on the shelf, in alphabetical order."""
    return sorted({*_addresses(), *_own})


def find_on_shelf(name: str) -> Any:
    """Return the reward function, or the dataclass of a reward's options, that a name stands for.

    Raises:
        ValueError: there is no such reward; the nearest is named.
        ImportError: it cannot be imported.
    """
    if name in _own:
        return _own[name]
    if name not in _addresses():
        hint = suggest(name, shelf_names(), after=" ")
        raise ValueError(f"unknown reward {name!r}: {hint}'textgym rewards' lists those that there are")
    return import_named("reward", _addresses()[name])


def line_about(name: str) -> str:
    """Return the first sentence of a reward's docstring; where it cannot be imported, the reason."""
    try:
        found = find_on_shelf(name)
    except (ImportError, AttributeError) as error:
        return f"(cannot be imported: {error})"
    text = inspect.getdoc(found) or ""
    return " ".join(text.split("\n\n")[0].split())


@cache
def _addresses() -> dict[str, str]:
    """Return where the rewards of this package and of installed ones lie; the package's own names win."""
    return {**{point.name: point.value for point in metadata.entry_points(group=GROUP)}, **SHELF}
