"""Old names work for one version, and say the new ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import pytest

import textgym.agents
from textgym.intervals import Estimate
from textgym.moved import MODULES, NAMES, REPLACED

LISTED = (Path(__file__).parent / "names_of_version_0_1.txt").read_text().splitlines()
NAMES_OF_0_1 = {module: names.split() for module, _, names in (line.partition(": ") for line in LISTED)}
"""Public names of version 0.1.0, by module: its stubs' names, and what its modules defined."""

WITHOUT = {
    "textgym.benchmarks.optimum.bracket": {"BATCH", "RESAMPLES"},
    "textgym.benchmarks.optimum.tree": {"LazyTexts"},
    "textgym.agents.evaluation": {"kept_mask"},
    "textgym.lm.decoding": {"Shown"},
    "textgym.lm.sampling": {"BLOCK"},
    "textgym.rewards.rankings": {"Asked"},
}
"""Names of it that only served its own modules, and have no successor."""


@pytest.mark.parametrize("module", NAMES_OF_0_1)
@pytest.mark.filterwarnings("ignore:.* is now .*:DeprecationWarning")
def test_no_public_name_of_0_1_is_lost_without_a_word(module: str) -> None:
    for name in set(NAMES_OF_0_1[module]) - WITHOUT.get(module, set()):
        statement = f"from {module} import {name}"
        if f"{module}.{name}" in REPLACED:
            with pytest.raises(ImportError, match=r"is gone; write "):
                exec(statement, {})
        else:
            exec(statement, {})


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_warns_and_holds_what_took_its_place(old: str) -> None:
    sys.modules.pop(old, None)
    with warnings.catch_warnings(action="ignore"):  # the package around it is another test's
        importlib.import_module(old.rpartition(".")[0])
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its module has a new name, too
        module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=r"is gone; write .*\("):
        getattr(module, name)
    with pytest.raises(ImportError, match=r"is gone; write .*\("):
        exec(f"from {package} import {name}", {})
    assert not hasattr(module, name)


OLD_SCRIPT = """
import textgym.agents.choices
from textgym.agents import SlotVecEnv
from textgym.agents.settings import warmup_factor
textgym.agents.choices.Choices
"""


def test_a_script_is_warned_at_its_own_lines(tmp_path: Path) -> None:
    """Python shows such warnings only where a script itself causes them: a wrong frame would hide them."""
    script = tmp_path / "script.py"
    script.write_text(OLD_SCRIPT)
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    for line, old in (
        (2, "textgym.agents.choices"),
        (3, "textgym.agents.SlotVecEnv"),
        (4, "textgym.agents.settings.warmup_factor"),
        (5, "textgym.agents.choices.Choices"),
    ):
        assert run.stderr.count(f"{script}:{line}: DeprecationWarning: {old} is now ") == 1


def test_an_old_module_without_a_name_says_where_its_content_is() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ImportError, match=r"is now textgym\.agents\.offline\.dpo, without 'no_such_name'"):
            exec("from textgym.agents.dpo import no_such_name", {})


def test_an_old_attribute_is_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match=r"Estimate\.mean is now Estimate\.value") as caught:
        assert Estimate(2.0, 1.0, 4.0).mean == 2.0
    assert caught[0].filename == __file__
    assert [field.name for field in fields(Estimate)] == ["value", "low", "high"]


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
