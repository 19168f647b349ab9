"""Options of a reward, as a specification writes them: the fields of a frozen dataclass, as text.

``regex:^yes,whole=true`` is ``Regex("^yes", whole=True)``: a text after the colon is the first field, the others are
given by name.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from textgym.names import suggest
from textgym.rewards.judges.client import SecretError
from textgym.rewards.specs.addresses import quoted

TRUTHS = {"true": True, "false": False, "yes": True, "no": False}


def with_options(text: str, made: Any, first: str | None, options: Mapping[str, str]) -> Any:
    """Return a reward with its options.

    Args:
        text: the whole specification, for messages.
        made: a reward function, which has no options; or a dataclass, whose fields are its options.
        first: the value of its first field; None if there is none.
        options: the other values, by name.

    Raises:
        ValueError: an option is unknown, missing, or given twice, or its value is not one of its kind.
    """
    if not (isinstance(made, type) and is_dataclass(made)):
        if first is not None or options:
            got = [*([first] if first is not None else ()), *(f"{name}=" for name in options)]
            raise ValueError(f"reward {quoted(text)}: it has no options, got {', '.join(got)}")
        return made
    known = _options(made)
    given = dict(options)
    if first is not None:
        if not known:
            raise ValueError(f"reward {quoted(text)}: it has no options, got {first!r}")
        leading = next(iter(known))
        if leading in given:
            raise ValueError(f"reward {quoted(text)}: the option {leading!r} is given twice, once after the colon")
        given = {leading: first, **given}
    for name in given:
        if name not in known:
            hint = suggest(name, known, after=" ")
            has = f"it has {', '.join(f'{one}=' for one in known)}" if known else "it has none"
            raise ValueError(f"reward {quoted(text)}: there is no option {name!r}; {hint}{has}")
    missing = [name for name, one in known.items() if name not in given and _is_required(one)]
    if missing:
        first_field = missing[0] == next(iter(known)) and ":" not in text.split(",")[0]
        how = f"{text.split(',')[0]}:{missing[0].upper()}" if first_field else f"{missing[0]}=…"
        raise ValueError(f"reward {quoted(text)}: {missing[0]!r} is missing; write {how}")
    hints = get_type_hints(made)
    try:
        return made(**{name: _read(name, value, hints[name]) for name, value in given.items()})
    except SecretError as error:
        raise SecretError(f"reward {text.partition(':')[0]!r}: {error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"reward {quoted(text)}: {error}") from error


def described_options(made: Any) -> list[str]:
    """Return a reward's options with their defaults, such as ``kind=L``; a required one in capitals."""
    if not (isinstance(made, type) and is_dataclass(made)):
        return []
    shown = _options(made).values()
    return [one.name.upper() if _is_required(one) else f"{one.name}={one.default}" for one in shown]


def _options(made: Any) -> dict[str, Field[Any]]:
    """Return the fields that a reward is made with, by name; those that are given by name alone come last."""
    return {one.name: one for one in sorted(fields(made), key=lambda one: bool(one.kw_only)) if one.init}


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _read(name: str, text: str, kind: Any) -> Any:
    """Return a value of a field's type.

    Raises:
        ValueError: the text is no such value.
    """
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in get_args(kind):
            return None
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        by_text = {str(one): one for one in get_args(kind)}
        if text not in by_text:
            hint = suggest(text, by_text, before="; ")
            raise ValueError(f"{name}={text!r}; expected one of {', '.join(by_text)}{hint}")
        return by_text[text]
    if kind is bool:
        if text.lower() not in TRUTHS:
            raise ValueError(f"{name}={text!r}; expected true or false")
        return TRUTHS[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{name}={text!r}; expected {'a whole number' if kind is int else 'a number'}") from None
    if kind in (str, Path):
        return kind(text)
    raise ValueError(f"{name} cannot be written as text; make the reward in Python, and pass it as reward=")
