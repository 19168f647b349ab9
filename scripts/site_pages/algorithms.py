"""A page for each algorithm: its docstring, which holds the objective, its settings and published learning curves."""

from __future__ import annotations

import inspect
from dataclasses import fields
from functools import cache
from typing import Any

import griffe

from scripts.site_pages.page import Made, table
from scripts.site_pages.pictures import learning_curves
from textgym.agents.registry import ALGORITHMS

NO_CURVES = "The published results hold no learning curve of this algorithm."
CURVES = """<div class="curves">{svg}</div>

The mean reward of the sampled responses on the diagnostic tasks, as a share of the way from the reference (0) to the
exact optimum J* (1): every published seed, and their mean in bold. The reward leaves out the KL penalty and is cut at
1. All algorithms have one set of hyper-parameters, chosen by hand for PPO; scores, runs and command:
[the diagnostic suite](../algorithms.md#on-the-diagnostic-suite)."""


def algorithms() -> list[Made]:
    """Return the pages of all algorithms, in the order of the registry."""
    return [_page(name, kind) for name, kind in ALGORITHMS.items()]


def _page(name: str, kind: type[Any]) -> Made:
    curves = learning_curves(name)
    summary, _, objective = (inspect.getdoc(kind) or "").partition("\n\n")
    parts = [
        f"# {kind.__name__}",
        f"`textgym train --algorithm {name}`, in Python [`textgym.agents.{kind.__name__}`][]. "
        f"How it differs from the others: [the table of all algorithms](../algorithms.md).",
        summary,
        f"## Objective\n\n{objective}",
        f"## Settings\n\nEach is an argument of `{kind.__name__}(…)` and a flag of `textgym train`. Model, "
        f"environment, learning rate, β, sampling and the critic are arguments of every algorithm:\n"
        f"[`SequenceAlgorithm`][textgym.agents.SequenceAlgorithm].\n\n{settings(kind.settings_class)}",
        f"## Learning curves\n\n{CURVES.format(svg=curves) if curves else NO_CURVES}",
    ]
    return Made(f"algorithms/{kind.__name__}.md", "\n\n".join(parts) + "\n")


def settings(kind: type[Any]) -> str:
    """Return the fields of a settings dataclass, inherited ones included, as a table."""
    told = _told(kind)
    return table(
        [
            {
                "setting": f"`{field.name}`",
                "default": f"`{field.default!r}`",
                "meaning": told.get(field.name, ""),
            }
            for field in sorted(fields(kind), key=lambda field: field.name not in kind.__annotations__)
        ]
    )


def _told(kind: type[Any]) -> dict[str, str]:
    """Return what docstrings say of each field: an ``Attributes:`` section, or a string below the field."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        source = _package()[f"{base.__module__}.{base.__qualname__}".removeprefix("textgym.")]
        sections = source.docstring.parse("google") if source.docstring else []
        for section in (one for one in sections if one.kind is griffe.DocstringSectionKind.attributes):
            for item in section.value:
                found |= dict.fromkeys(item.name.split(", "), " ".join(item.description.split()))
        below = {name: one.docstring.value for name, one in source.attributes.items() if one.docstring}
        found |= {name: " ".join(text.split()) for name, text in below.items()}
    return {name: text[:1].upper() + text[1:] if text[:1].isascii() else text for name, text in found.items()}


@cache
def _package() -> Any:
    """Return textgym as griffe reads it: docstrings below fields are no longer there when a class exists."""
    return griffe.load("textgym")
