"""The API reference, from public names alone: which file defines a name is nobody's business."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from scripts.site_pages.page import Made

PACKAGES = {
    "textgym.env": "Environments: what `gym.make` and `gym.make_vec` return, and wrappers.",
    "textgym.worlds": "The other side of a conversation: worlds, tools, language models, text environments, glue.",
    "textgym.rewards": "Reward functions, learned reward models, and the KL penalty.",
    "textgym.agents": "Policies, the algorithms, and training on demonstrations and preferences.",
    "textgym.exact": "The optimum of E[R] − β·KL over all policies, values of policies, gradients of losses.",
    "textgym.lm": "Passes of transformers models: loading, sampling, scoring, decoding with a cache.",
    "textgym.runs": "A run's directory: settings, metrics, checkpoints, evaluations.",
}
"""Packages whose public names are their ``__all__``."""
MODULES = {
    "textgym.agents.settings": "Settings of the algorithms: their arguments, and flags of `textgym train`.",
    "textgym.agents.functional.objectives": "Advantages and losses, for algorithms of your own.",
    "textgym.agents.stock": "Policies for the algorithms of stable-baselines3 and sb3-contrib.",
    "textgym.prompts": "Prompts as files, rows and tokens.",
    "textgym.testing": "Checks for a task of your own.",
    "textgym.intervals": "Confidence intervals.",
    "textgym.types": "The records that the floors hand to each other.",
}
"""Modules that are public as they stand."""
HEADLESS = """    options:
      show_root_heading: false
      show_root_toc_entry: false
      filters: ["!^_", "!^[A-Z][A-Z_]+$"]
"""
"""For a page whose title is the object already; constants are left out."""
TOP = ("register_task", "load_task", "jsonl_task", "Task", "Proxy", "per_text", "optimum")
"""Names of ``textgym`` itself; each is loaded when it is asked for, so that no stub lists them."""
REPORTS = ("run.write_report", "pipeline.write_pipeline_report", "bench.write_bench_report")
"""What is called from outside of ``textgym.reports``, which exports nothing."""


def reference() -> list[Made]:
    """Return a page for ``textgym`` and one for each public package and module."""
    reports = [f"textgym.reports.{name}" for name in REPORTS]
    return [
        _page("textgym", "Tasks, and their exact optimum.", [_home(name) for name in TOP]),
        *(_page(name, says, _public(name)) for name, says in PACKAGES.items()),
        _page("textgym.reports", "HTML pages of runs, pipelines and benchmarks.", reports),
        *(Made(f"api/{name}.md", f"# `{name}`\n\n{says}\n\n::: {name}\n{HEADLESS}") for name, says in MODULES.items()),
    ]


def _public(package: str) -> list[str]:
    names: list[str] = import_module(package).__all__
    return [f"{package}.{name}" for name in sorted(names, key=str.lower)]


def _home(name: str) -> str:
    """Return where a name of ``textgym`` is defined, which a reader of source code cannot see."""
    found = getattr(import_module("textgym"), name)
    return f"{found.__module__}.{found.__qualname__}"


def _page(name: str, says: str, members: Sequence[str]) -> Made:
    return Made(f"api/{name}.md", "\n\n".join([f"# `{name}`", says, *(f"::: {member}" for member in members)]) + "\n")
