"""Files of settings in YAML, which anyone may have written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from textgym.files import read_text

MOST_SETTINGS = 10_000
"""Maximum number of values in a YAML file, with its aliases written out."""


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Return the settings of a YAML file.

    Raises:
        ValueError: it is no YAML, no mapping, or holds more than :data:`MOST_SETTINGS` values.
        OSError: it cannot be read.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if _size(node, {}) > MOST_SETTINGS:  # before a value is made, as aliases of aliases would fill the memory
            raise ValueError(f"its aliases make more than {MOST_SETTINGS:,} values, or never end")
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML that holds settings: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected a mapping of settings such as 'seed: 1', got {type(settings).__name__}")
    return settings


def _size(node: Any, known: dict[int, float]) -> float:
    """Return the number of values in a node of YAML, with aliases written out; infinite where one contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # which stays only if it is met again inside
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1.0 + sum(_size(part, known) for part in parts)
    return known[id(node)]
