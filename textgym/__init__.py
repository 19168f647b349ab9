"""textgym: Gymnasium for language generation.

Importing it registers the tasks, so that ``gym.make("textgym/Reviews-v0")`` finds them;
``gym.make("textgym:textgym/Reviews-v0")`` imports it by itself.
"""

from typing import Any

import gymnasium as gym

from textgym.tasks import TASKS

__version__ = "0.1.0"

for _name in TASKS:
    gym.register(
        id=f"textgym/{_name}-v0",
        entry_point="textgym.registration:make_env",
        vector_entry_point="textgym.registration:make_vector_env",
        kwargs={"task": _name},
    )


def __getattr__(name: str) -> Any:
    """``textgym.optimum``, imported when it is asked for: it needs torch and transformers."""
    if name == "optimum":
        from textgym.benchmarks.optimum import optimum

        return optimum
    raise AttributeError(f"module 'textgym' has no attribute {name!r}")
