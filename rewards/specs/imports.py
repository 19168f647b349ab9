"""Import of user code by name: ``module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from textgym.names import suggest


def import_named(kind: str, text: str) -> Any:
    """Import an object by its name in a module or in a file.

    Imports in a file find modules in the file's folder, as with ``python file.py``; this includes imports that its
    functions execute later. A module of the standard library, or one that is already imported, is never replaced by a
    module of the same name in that folder. Files of two folders may each import a module of the same name from their
    own folder.

    Args:
        kind: the word for the object in error messages, such as ``"reward"``.
        text: ``module:name`` or ``path/to/file.py:name``.

    Raises:
        ImportError, AttributeError, FileNotFoundError: the object cannot be imported, or does not exist.
    """
    source, _, name = text.rpartition(":")
    module = _import_file(kind, text, Path(source)) if source.endswith(".py") else _import_module(kind, text, source)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        hint = suggest(name, dir(module), before="; ")  # a lazy package lists what it has not imported yet
        raise AttributeError(f"{kind} {text!r}: {source} has no {name!r}{hint}") from error


def _import_module(kind: str, text: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ImportError as error:
        raise ImportError(
            f"{kind} {text!r}: cannot import {source!r} ({error}); for a file write path/to/file.py:NAME"
        ) from error
    except (Exception, SystemExit) as error:
        raise ImportError(f"{kind} {text!r}: {source} raised {type(error).__name__}: {error}") from error


def _import_file(kind: str, text: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"{kind} {text!r}: there is no file {str(path)!r}")
    name = f"textgym_{kind}_file_{path.stem}"
    loader = _FolderLoader(path.resolve().parent, name, str(path))
    found = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert found is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up there while the file executes
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ImportError(f"{kind} {text!r}: {path} raised {type(error).__name__}: {error}") from error
    return module


# --- imports from the file's own folder ---------------------------------------------------------------------------

_neighbours: dict[Path, dict[str, ModuleType]] = {}
"""Modules that were imported from a file's own folder, by folder and name."""


class _FolderLoader(SourceFileLoader):
    """Loader of a file whose ``import`` statements, now and later, also search the file's folder."""

    def __init__(self, folder: Path, name: str, path: str) -> None:
        super().__init__(name, path)
        self.folder = folder

    def exec_module(self, module: ModuleType) -> None:
        def import_from_folder(*arguments: Any, **keywords: Any) -> ModuleType:
            with _importing_from(self.folder):
                return builtins.__import__(*arguments, **keywords)

        # ``import`` calls ``__builtins__["__import__"]`` of its own module. A copy of the builtins limits
        # the change to this file, and works for imports inside functions that are called later.
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_from_folder}
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finder of the modules in a folder; namespace packages are searched last, as in Python."""

    def __init__(self, folder: Path, namespaces: bool) -> None:
        self.folder = folder
        self.namespaces = namespaces
        self.found: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or fullname in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(fullname, [str(self.folder)])
        if spec is None or (spec.loader is None) is not self.namespaces:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _FolderLoader(self.folder, fullname, spec.loader.path)
        self.found.add(fullname)
        return spec


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Import as a script in ``folder`` would; modules from the folders of other files are hidden."""
    own = _neighbours.setdefault(folder, {})
    # Two reward files may each have a ``helpers.py``; the import system knows only one module of that name at a time.
    foreign = [found for other, modules in _neighbours.items() if other != folder for found in modules.items()]
    hidden = {name: sys.modules.pop(name) for name, module in foreign if sys.modules.get(name) is module}
    sys.modules.update({name: own[name] for name in hidden if name in own})
    # Python tries regular modules of the script's folder first and namespace packages after all of ``sys.path``.
    finders = _Finder(folder, namespaces=False), _Finder(folder, namespaces=True)
    sys.meta_path.insert(0, finders[0])
    sys.meta_path.append(finders[1])
    try:
        yield
    finally:
        for finder in finders:
            sys.meta_path.remove(finder)
        found = finders[0].found | finders[1].found
        own |= {name: module for name, module in sys.modules.items() if name.partition(".")[0] in found}
        sys.modules.update(hidden)  # the module that was imported first keeps the name
