"""textgym: Gymnasium for language generation.

Importing it registers the tasks, so that ``gym.make("textgym/Reviews-v0")`` finds them;
``gym.make("textgym:textgym/Reviews-v0")`` imports it by itself.
"""

from importlib import import_module
from typing import Any

import gymnasium as gym

from textgym import moved
from textgym.tasks import LATER_VERSIONS, PACKAGES, REAL, TASKS, task_id

__version__ = "0.2.0"

moved.install()

for _name in (*TASKS, *LATER_VERSIONS, *PACKAGES, *REAL):
    gym.register(
        id=task_id(_name),
        entry_point="textgym.registration:make_env",
        vector_entry_point="textgym.registration:make_vector_env",
        kwargs={"task": _name},
    )

# Imported on first use, as they need torch and transformers.
_LAZY = {
    "optimum": "textgym.exact",
    "register_task": "textgym.registration",
    "load_task": "textgym.registration",
    "jsonl_task": "textgym.tasks.jsonl",
    "Task": "textgym.tasks.task",
    "Proxy": "textgym.tasks.task",
    "per_text": "textgym.tasks.task",
}


def __getattr__(name: str) -> Any:
    """Import ``textgym.register_task``, ``textgym.optimum`` and the like on first use."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'textgym' has no attribute {name!r}")
