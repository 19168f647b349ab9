"""A file of rewards finds its neighbours as ``python file.py`` does, and disturbs nobody else's imports."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest

from textgym.rewards.specs.imports import import_named

FILE = """
from a_neighbour import WEIGHT
import a_neighbour

def now(): return WEIGHT, a_neighbour.WEIGHT

def later():
    import a_neighbour
    from a_neighbour import WEIGHT
    from another_neighbour import TWICE
    return WEIGHT, a_neighbour.WEIGHT, TWICE

first = a_neighbour

def same():
    import a_neighbour
    return a_neighbour is first
"""


@pytest.fixture(autouse=True)
def _clean():
    before = dict(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    assert before[1:] == (sys.path, sys.meta_path)
    for name in sys.modules.keys() - before[0].keys():
        del sys.modules[name]


ANOTHER = """
def _weight():
    import a_neighbour
    return a_neighbour.WEIGHT

TWICE = 2 * _weight()
"""


def write(folder: Path, weight: int) -> str:
    folder.mkdir()
    (folder / "a_neighbour.py").write_text(f"WEIGHT = {weight}")
    (folder / "another_neighbour.py").write_text(ANOTHER)
    (folder / "mine.py").write_text(FILE)
    return str(folder / "mine.py")


def found(text: str) -> object:
    return import_named("reward", text)()


def test_neighbours_are_found_now_and_later(tmp_path):
    path = write(tmp_path / "one", 3)
    assert found(f"{path}:now") == (3, 3)
    assert found(f"{path}:later") == (3, 3, 6)
    assert import_named("reward", f"{path}:a_neighbour") is sys.modules["a_neighbour"], "one module, not two"


def test_files_of_two_folders_have_neighbours_of_one_name(tmp_path):
    paths = [write(tmp_path / f"folder{i}", i) for i in (1, 2, 3)]
    now = [import_named("reward", f"{path}:now") for path in paths]
    later = [import_named("reward", f"{path}:later") for path in paths]
    import_same = [import_named("reward", f"{path}:same") for path in paths]
    for i in (3, 1, 2, 1, 3):
        assert now[i - 1]() == (i, i)
        assert import_same[i - 1](), "one module, not two"
        assert later[i - 1]() == (i, i, 2 * i)
    assert sys.modules["a_neighbour"].WEIGHT == 1, "who came first keeps the name"


def test_a_neighbour_of_another_folder_is_none(tmp_path):
    found(f"{write(tmp_path / 'one', 1)}:now")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "mine.py").write_text("import a_neighbour")
    with pytest.raises(ImportError, match="raised ModuleNotFoundError: No module named 'a_neighbour'"):
        import_named("reward", f"{tmp_path}/two/mine.py:f")


def test_neighbours_that_are_packages(tmp_path):
    for name in ("with_init", "without_init"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.py").write_text(f"NAME = {name!r}\n")
    (tmp_path / "with_init" / "__init__.py").write_text("from .part import NAME\n")
    path = tmp_path / "mine.py"
    path.write_text("import with_init\nfrom without_init.part import NAME\ndef f(): return with_init.NAME, NAME\n")
    assert found(f"{path}:f") == ("with_init", "without_init")


def test_the_standard_library_is_not_replaced(tmp_path):
    """Not by a neighbour, and not by the file itself."""
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "wave.py").write_text("raise RuntimeError('nor this')")
    sys.modules.pop("wave", None)  # not in use yet
    path = tmp_path / "statistics.py"
    path.write_text("import json, statistics, wave\ndef f(): return json, statistics, wave.__file__\n")
    modules = found(f"{path}:f")
    assert modules[:2] == (json, statistics)
    assert not modules[2].startswith(str(tmp_path))


def test_what_is_in_use_is_not_replaced(tmp_path):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "textgym").mkdir()
    (tmp_path / "textgym" / "__init__.py").write_text("raise RuntimeError('nor this')")
    path = tmp_path / "mine.py"
    path.write_text("import numpy, textgym.rewards\ndef f(): return numpy, textgym.rewards\n")
    assert found(f"{path}:f") == (sys.modules["numpy"], sys.modules["textgym.rewards"])


def test_a_failing_neighbour_is_told_and_forgotten(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0")
    (tmp_path / "mine.py").write_text("import bad")
    with pytest.raises(ImportError, match="raised ZeroDivisionError"):
        import_named("reward", f"{tmp_path}/mine.py:f")
    assert "bad" not in sys.modules
    (tmp_path / "bad.py").write_text("GOOD = 7777\n")
    (tmp_path / "mine.py").write_text("import bad\ndef f(): return bad.GOOD\n")
    assert found(f"{tmp_path}/mine.py:f") == 7777


@pytest.mark.parametrize("source", ["leaves.py", "leaves_module"])
def test_leaving_is_an_error(tmp_path, monkeypatch, source):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)")
    (tmp_path / "leaves_module.py").write_text("import sys\nsys.exit(0)")
    text = f"{tmp_path / source}:f" if source.endswith(".py") else f"{source}:f"
    with pytest.raises(ImportError, match="raised SystemExit: 0"):
        import_named("reward", text)
