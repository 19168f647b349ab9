"""Old names work for one version, and say the new ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

import textgym.agents
import textgym.lm
from textgym.moved import MODULES, NAMES, REPLACED


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_warns_and_holds_what_took_its_place(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now .*{MODULES[old][0]}") as caught:
        found = importlib.import_module(old)
    assert caught[0].filename == __file__
    for name, value in vars(importlib.import_module(MODULES[old][0])).items():
        if not name.startswith("_"):
            assert getattr(found, name) is value
    for new in MODULES[old][1:]:
        assert vars(found).keys() >= {name for name in vars(importlib.import_module(new)) if not name.startswith("_")}


def test_a_class_is_the_same_by_both_names() -> None:
    sys.modules.pop("textgym.agents.algorithm", None)
    with pytest.warns(DeprecationWarning, match=r"textgym\.agents\.loop\.algorithm"):
        old = importlib.import_module("textgym.agents.algorithm")
    assert old.SequenceAlgorithm is textgym.agents.SequenceAlgorithm


@pytest.mark.parametrize("old", NAMES)
def test_an_old_public_name_is_the_new_ones_thing(old: str) -> None:
    package, _, name = old.rpartition(".")
    new_package, _, new = NAMES[old].rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a package that is itself an old name
        module = importlib.import_module(package)
    with pytest.warns(DeprecationWarning, match=NAMES[old]):
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(new_package), new)


@pytest.mark.parametrize("old", REPLACED)
def test_a_name_that_is_gone_says_how_to_write_it_now(old: str) -> None:
    package, _, name = old.rpartition(".")
    with pytest.raises(AttributeError, match=r"is gone; write textgym\."):
        getattr(importlib.import_module(package), name)


def test_what_never_was_is_an_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'textgym\.agents' has no attribute 'PPOO'"):
        textgym.agents.PPOO  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("textgym.agents.no_such_module")


def test_nothing_of_the_package_uses_an_old_name() -> None:
    """Importing every module of the package under warnings as errors would raise."""
    code = """
import importlib, pkgutil, textgym
from textgym.moved import MODULES
for found in pkgutil.walk_packages(textgym.__path__, "textgym."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
import sys
assert not MODULES.keys() & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:textgym", "-c", code], check=True)
