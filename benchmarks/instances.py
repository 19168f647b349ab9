"""Instances of tasks: a task that can be drawn anew has a parameter ``seed``, and each seed gives another instance."""

from __future__ import annotations

import inspect

from textgym.registration import load_task, task_maker
from textgym.tasks.task import Task


def load_instance(name: str, seed: int) -> Task:
    """Load the instance of a task that a seed draws; a task without instances is the same at every seed.

    Raises:
        ValueError: there is no such task.
    """
    has_instances = "seed" in inspect.signature(task_maker(name)).parameters
    return load_task(name, seed=seed) if has_instances else load_task(name)
