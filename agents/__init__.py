"""textgym.agents: policies, the collect-and-train loop, and the algorithms as declarations on it.

The names are listed in ``__init__.pyi``; each is imported when it is first asked for.
"""

from typing import Any

import lazy_loader

from textgym.moved import find_moved

if __name__ != "textgym.agents":
    raise ImportError("import this package as textgym.agents: under its bare name every class would exist twice")

_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name; find one of the last version by its old name."""
    return _get(name) if name in __all__ else find_moved(__name__, name)
