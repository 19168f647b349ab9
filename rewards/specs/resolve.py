"""Parsing of reward specifications, as written on a command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

from textgym.names import suggest
from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.feedback.model import FeedbackModel
from textgym.rewards.functions import Reward, check_signature
from textgym.rewards.judges.judge import PairwiseJudge, Preferences
from textgym.rewards.models.classifier import ClassifierReward
from textgym.rewards.models.ensemble import load_reward_model
from textgym.rewards.specs.addresses import quoted, split_address, split_options
from textgym.rewards.specs.imports import import_named
from textgym.rewards.specs.options import with_options
from textgym.rewards.specs.shelf import find_on_shelf, shelf_names

Spec: TypeAlias = "str | Reward | tuple[str | Reward, float]"


MODELS: dict[str, tuple[Callable[..., Reward], tuple[str, ...]]] = {
    "rm": (load_reward_model, ("too_long",)),
    "clf": (ClassifierReward.load, ("label", "score", "reads", "too_long")),
    "tamer": (FeedbackModel.load, ()),
}
"""Loader and permitted options of each reward that is loaded from a directory."""


def resolve_reward(spec: Spec | Sequence[Spec], named: Mapping[str, Reward]) -> WeightedRewards:
    """Build the reward that ``spec`` describes.

    A text holds one or several of these, separated by spaces, each with an optional ``,WEIGHT``:

    - ``NAME``: one of ``named``, as in ``"gold,0.5 length,-0.01"``;
    - a reward of the shelf (:mod:`textgym.rewards.specs.shelf`) with its options, as in ``"rouge,kind=L"`` and
      ``"regex:^Yes,whole=true,0.5"``;
    - ``module:function``, or ``path/to/file.py:function``; a frozen dataclass in their place takes options, too;
    - ``rm:DIR``: the directory of a reward model, of an ensemble, or of the run that trained either;
      ``rm:DIR,too_long=truncate`` truncates texts that are too long for it;
    - ``clf:DIR,label=LABEL``: the directory of a classifier and the label that is rewarded, with ``_`` for spaces;
    further
      options are those of :class:`textgym.rewards.ClassifierReward`: ``score=logit``, ``reads=completion``,
      ``too_long=truncate``;
    - ``tamer:DIR``: the directory of a model of feedback on each token, or of the run that trained it: a dense reward.

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


def resolve_judge(spec: str) -> Preferences:
    """Return the pairwise judge that a text describes.

    It is ``URL,model=NAME`` with the options of :class:`textgym.rewards.judges.judge.PairwiseJudge`, or
    ``module:function``, or ``path/to/file.py:function``: see :data:`textgym.rewards.judges.judge.Preferences`.

    Raises:
        ValueError: an option is unknown or missing, or has no such value.
        ImportError, AttributeError, FileNotFoundError, TypeError: the function cannot be imported, or is none.
    """
    if spec.startswith(("http://", "https://")):
        url, options, _ = _parts(spec)
        made: Preferences = with_options(f"judge:{spec}", PairwiseJudge, url, options)
        return made
    found: Preferences = import_named("judge", spec)
    if not callable(found):
        raise TypeError(f"judge {spec!r} must be a function, got {type(found).__name__}")
    return found


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
    text, options, factor = _parts(reward)
    if text not in named and "," in text and (text.partition(",")[0] in named or ":" not in text):
        raise ValueError(f"reward {quoted(reward)}: expected a number after the comma, got {text.rpartition(',')[2]!r}")
    return with_options(reward, *_maker(text, named), options), weight * factor


def _maker(text: str, named: Mapping[str, Reward]) -> tuple[Any, str | None]:
    """Return what makes a reward, and the value of its first option: a task's reward, one of the shelf, or a user's."""
    if text in named:
        return named[text], None
    name, colon, first = text.partition(":")
    if name in MODELS:
        raise ValueError(f"reward {text!r}: it is loaded from a directory; write {name}:DIR")
    if name in shelf_names():
        return find_on_shelf(name), first if colon else None
    if colon and "//" not in first:
        return _imported(text), None
    hint = suggest(name, {*named, *shelf_names()}, after=" ")
    raise ValueError(
        f"unknown reward {quoted(text)}: {hint}Known are {', '.join(sorted(named)) or 'none'}; or write "
        "module:function, path/to/file.py:function, rm:DIR, clf:DIR,label=LABEL, tamer:DIR, or a name that 'textgym "
        "rewards' lists"
    )


def _parts(text: str) -> tuple[str, dict[str, str], float]:
    """Split ``NAME,name=value,…,WEIGHT`` into its name, options and weight."""
    name, settings = split_options(text)
    return name, *_sorted(text, settings)


def _sorted(text: str, settings: Sequence[str]) -> tuple[dict[str, str], float]:
    """Sort ``name=value`` and ``WEIGHT`` into options and weight; ``text`` is for messages."""
    options: dict[str, str] = {}
    weights: list[float] = []
    for part in settings:
        option, equals, value = part.partition("=")
        if not equals:
            weights.append(float(part))
        elif option in options:
            raise ValueError(f"reward {quoted(text)}: the option {option!r} is given twice")
        else:
            options[option] = value
    if len(weights) > 1:
        raise ValueError(f"reward {quoted(text)}: expected one weight at most, got {', '.join(map(str, weights))}")
    return options, (weights or [1.0])[0]


def _model_parts(text: str, kind: str, rest: str) -> tuple[str, dict[str, str], float]:
    """Split ``kind:DIR,name=value,…,WEIGHT`` into directory, options and weight."""
    known = MODELS[kind][1]
    it_has = f"it has {', '.join(f'{name}=' for name in known) or 'none'}"
    directory, settings = split_address(rest)
    for i in range(1, len(settings) + 1):
        # "run,2" could be the directory "run" with weight 2, or the directory "run,2": ambiguous, so refused.
        if Path(longer := ",".join([directory, *settings[:i]])).is_dir():
            raise ValueError(
                f"reward {text!r}: there is a directory {longer!r}, whose name ends like an option or a weight; rename "
                "it, or load it in Python"
            )
    options, weight = _sorted(text, settings)
    for name in options:
        if name not in known:
            hint = suggest(name, known, after=" ")
            raise ValueError(f"reward {text!r}: '{kind}:' has no option {name!r}; {hint}{it_has}")
    if "," in directory and not Path(directory).is_dir():
        raise ValueError(
            f"reward {text!r}: there is no directory {directory!r}; after a comma expected a number, the weight, or "
            f"an option of '{kind}:' ({it_has}), got {directory.rpartition(',')[2]!r}"
        )
    if kind == "clf":
        options.setdefault("label", "")  # no label has this name, so the error lists the labels
    return directory, options, weight


def _imported(text: str) -> Any:
    """Import a reward function, or the dataclass of one."""
    reward = import_named("reward", text)
    if isinstance(reward, type) and is_dataclass(reward):
        return reward  # made with its options, and checked then
    try:
        check_signature(reward)
    except TypeError as error:
        raise TypeError(f"reward {text!r}: {error}") from error
    return reward
