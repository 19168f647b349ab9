"""Runs: a directory with configuration, metrics, samples, evaluation, checkpoint and report.

The names are listed in ``__init__.pyi``; each is imported on first use, so that a directory can be checked before torch
is loaded.
"""

from typing import Any

import lazy_loader

from textgym.moved import find_moved

_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name; find one of the last version by its old name."""
    return _get(name) if name in __all__ else find_moved(__name__, name)
