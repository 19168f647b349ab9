"""The house: one import name for every module, its figure, and nothing that binds the repository to one machine."""

import ast
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ["agents", "rewards", "benchmarks"]

# Put together here, so that this file does not hold what it forbids.
FORBIDDEN = [
    "/".join(["", "work", ""]),
    "-".join(["index", "url"]),
    ".".join(["pypi", "org"]),
    ".".join(["pythonhosted", "org"]),
    ".".join(["download", "pytorch", "org"]),
    ".".join(["anaconda", "org"]),
    ".".join(["npmjs", "org"]),
]


def modules() -> list[Path]:
    """Every module that can be imported, under its one name."""
    found = (
        Path(folder, name)
        for folder, _, names in os.walk(ROOT / "textgym", followlinks=True)
        for name in names
        if name.endswith(".py")
    )
    return sorted(path.relative_to(ROOT) for path in found)


def tracked_files() -> list[Path]:
    """What git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("name", LINKED)
def test_a_bare_import_is_refused(name: str) -> None:
    command = [sys.executable, "-c", f"import {name}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"ImportError: import this package as textgym.{name}" in result.stderr


@pytest.mark.parametrize("name", LINKED)
def test_a_linked_package_is_found_under_textgym(name: str) -> None:
    spec = importlib.util.find_spec(f"textgym.{name}")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parts[-3:] == ("textgym", name, "__init__.py")
    assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative(name: str) -> None:
    assert (ROOT / "textgym" / name).readlink() == Path("..", name)


def test_every_public_module_says_what_it_is() -> None:
    public = [path for path in modules() if path.name == "__init__.py" or not path.name.startswith("_")]
    silent = [str(path) for path in public if not ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8")))]
    assert silent == []


def test_modules_import_each_other_under_the_one_name() -> None:
    def foreign_names(path: Path) -> set[str]:
        nodes = list(ast.walk(ast.parse((ROOT / path).read_text("utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
        return {name for name in names if name.split(".")[0] in (*LINKED, "")}

    assert {str(path): names for path in modules() if (names := foreign_names(path))} == {}


def test_the_figure_names_the_floors_and_rooms_of_the_contracts() -> None:
    """Names are bold in the figure; rooms follow the floor that they are in."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    floors = next(one["layers"] for one in contracts if "containers" not in one)
    rooms = {one["containers"][0]: one["layers"] for one in contracts if "containers" in one}
    assert rooms.keys() <= set(floors)
    expected = [
        line.replace("textgym.", "").replace(" | ", ", ") for floor in floors for line in (floor, *rooms.get(floor, []))
    ]
    texts = ElementTree.parse(ROOT / "docs" / "figures" / "house.svg").iter("{http://www.w3.org/2000/svg}text")
    assert [text.text for text in texts if "font-weight: 700" in text.get("style", "")] == expected


def test_no_file_names_this_machine_or_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked_files()
        for word in FORBIDDEN
        if word.encode() in path.read_bytes()
    ]
    assert found == []
