"""Docstrings of tasks and of their gold rewards, as Markdown."""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from textgym.registration import task_maker
from textgym.tasks import TASKS

_DOCTEST = re.compile(r"(?:^>>> .*\n?(?:^(?!>>>)\S.*\n?)*)+", re.MULTILINE)


def maker_docstring(name: str) -> str:
    """Return the docstring of a task's function, or of its module where that makes no other.

    The head of such a module says what the task's description says, and is left out.
    """
    maker = task_maker(name)
    modules = Counter(source.split(":")[0] for source in TASKS.values())
    alone = modules[maker.__module__] == 1
    if alone:
        return markdown(sys.modules[maker.__module__].__doc__).partition("\n\n")[2]
    told = without_verb(markdown(maker.__doc__))
    return told[:1].upper() + told[1:]


def gold_docstring(gold: Callable[..., Any]) -> str:
    """Return the docstring of the gold function, or of the nearest function that it is made of."""
    # The helpers that turn a score of one text into a reward have docstrings too, which say nothing of the task.
    near = (function for function in _made_of(gold) if not function.__module__.endswith((".task", ".build", ".types")))
    return without_verb(markdown(next((function.__doc__ for function in near if function.__doc__), None)))


def without_verb(docstring: str) -> str:
    """Return a docstring without the verb that it begins with: a page is about the thing, not about its function."""
    return re.sub(r"^(?:Compute|Make|Return|Score)(?: the)? ", "", docstring)


def _made_of(function: Callable[..., Any]) -> Iterator[Any]:
    """Yield a function and those of its package that it holds, encloses or calls, nearest first."""
    waiting, seen = deque([function]), set()
    while waiting:
        this = inspect.unwrap(waiting.popleft())
        if is_dataclass(this):
            waiting.extend(getattr(this, field.name) for field in fields(this))
        if not inspect.isfunction(this) or this in seen:
            continue
        seen.add(this)
        yield this
        used = inspect.getclosurevars(this)
        parts = (part for part in (*used.nonlocals.values(), *used.globals.values()) if inspect.isfunction(part))
        waiting.extend(part for part in parts if part.__module__.split(".")[0] == function.__module__.split(".")[0])


def markdown(docstring: str | None) -> str:
    """Return a docstring's prose, listings and doctests, without its sections of arguments."""
    text = re.split(r"\n(?:Args|Returns|Raises|Attributes):\n", inspect.cleandoc(docstring or ""))[0]
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", re.sub("(?<!`)``(?!`)", "`", text))
    return _DOCTEST.sub(lambda code: f"```python\n{code[0].rstrip()}\n```\n", text).strip()
