"""From ``module:name`` or ``path/to/file.py:name``, as a user writes it, to what is meant."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def import_named(kind: str, text: str) -> Any:
    """What stands under a name in a module or in a file.

    Args:
        kind: what errors call it, such as ``"reward"``.
        text: ``module:name`` or ``path/to/file.py:name``.

    Raises:
        ImportError, AttributeError, FileNotFoundError: it cannot be imported, or is not there.
    """
    source, _, name = text.rpartition(":")
    module = _import_file(kind, text, Path(source)) if source.endswith(".py") else _import_module(kind, text, source)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"{kind} {text!r}: {source} has no {name!r}{hint}") from error


def _import_module(kind: str, text: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ImportError as error:
        raise ImportError(
            f"{kind} {text!r}: cannot import {source!r} ({error}); for a file write path/to/file.py:NAME"
        ) from error


def _import_file(kind: str, text: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"{kind} {text!r}: there is no file {str(path)!r}")
    name = f"textgym_{kind}_file_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ImportError(f"{kind} {text!r}: {path} raised {type(error).__name__}: {error}") from error
    return module
