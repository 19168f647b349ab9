"""Old names of modules, for one version: importing one warns and gives what took its place."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES: Mapping[str, tuple[str, ...]] = {}
"""By the name in 0.1.0, the modules that hold its names now."""

NAMES: Mapping[str, str] = {
    "textgym.agents.SlotVecEnv": "textgym.agents.SB3VecEnv",
}
"""By the public name in 0.1.0, the public name of the same thing now."""

REPLACED: Mapping[str, str] = {
    "textgym.lm.restrict": "textgym.lm.Behaviour(n_actions, end_ids, sampling).logits(logits, elapsed, allowed)",
    "textgym.lm.score_responses": "textgym.lm.Behaviour(n_actions, end_ids, sampling).score(head, states, actions, "
    "valid, kept)",
}
"""By the public name in 0.1.0, how to write it now."""


class MovedFinder(MetaPathFinder, Loader):
    """Find the modules of :data:`MODULES`, which no folder holds any more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        now = MODULES[module.__name__]
        _warn(module.__name__, " and ".join(now))
        for name in now:
            found = vars(import_module(name))
            vars(module).update({key: value for key, value in found.items() if not key.startswith("__")})


def install() -> None:
    """Make old names of modules importable."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())  # after the others, which find what still has its name


def find_moved(package: str, name: str) -> Any:
    """Return what a package called by this name in 0.1.0.

    Raises:
        AttributeError: it never had such a name; or it did, and the message says how to write it now.
    """
    old = f"{package}.{name}"
    if old in REPLACED:
        raise AttributeError(f"{old} is gone; write {REPLACED[old]}")
    if old not in NAMES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    _warn(old, NAMES[old])
    module, _, attribute = NAMES[old].rpartition(".")
    return getattr(import_module(module), attribute)


def _warn(old: str, new: str) -> None:
    """Warn at the line that used the old name, which the frames of the import system stand before."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
        frame = frame.f_back
    warnings.warn_explicit(
        f"{old} is now {new}; the old name goes with the next version",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
    )
