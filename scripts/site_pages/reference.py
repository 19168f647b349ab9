"""The API reference, from public names alone: which file defines a name is nobody's business."""

from __future__ import annotations

from importlib import import_module

from scripts.site_pages.page import Made

PACKAGES = {
    "textgym.agents": "Policies, the algorithms, and training on demonstrations and preferences.",
    "textgym.rewards": "Reward functions, learned reward models, and the KL penalty.",
    "textgym.lm": "Passes of transformers models: loading, sampling, scoring, decoding with a cache.",
    "textgym.runs": "A run's directory: settings, metrics, checkpoints, evaluations.",
}
"""Packages whose public names are the ``__all__`` of their stub."""
MODULES = {
    "textgym.env": "One environment: `gym.make`.",
    "textgym.vector": "Many rows of a task at once: `gym.make_vec`.",
    "textgym.wrappers": "Wrappers around environments.",
    "textgym.prompts": "Prompts as files, rows and tokens.",
    "textgym.testing": "Checks for a task of your own.",
    "textgym.types": "The records that the floors hand to each other.",
}
"""Modules that are public as they stand."""
HEADLESS = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
"""For a page whose title is the object already."""
TOP = ("register_task", "load_task", "jsonl_task", "Task", "Proxy", "per_text", "optimum")
"""Names of ``textgym`` itself; each is loaded when it is asked for, so that no stub lists them."""


def reference() -> list[Made]:
    """Return a page for ``textgym`` and one for each public package and module."""
    return [
        Made("api/textgym.md", _page("textgym", "Tasks, and their exact optimum.", [_home(name) for name in TOP])),
        *(Made(f"api/{name}.md", _page(name, says, _public(name))) for name, says in PACKAGES.items()),
        *(Made(f"api/{name}.md", f"# `{name}`\n\n{says}\n\n::: {name}\n{HEADLESS}") for name, says in MODULES.items()),
    ]


def _public(package: str) -> list[str]:
    names: list[str] = import_module(package).__all__
    return [f"{package}.{name}" for name in sorted(names, key=str.lower)]


def _home(name: str) -> str:
    """Return where a name of ``textgym`` is defined, which a reader of source code cannot see."""
    found = getattr(import_module("textgym"), name)
    return f"{found.__module__}.{found.__qualname__}"


def _page(name: str, says: str, members: list[str]) -> str:
    return "\n\n".join([f"# `{name}`", says, *(f"::: {member}" for member in members)]) + "\n"
