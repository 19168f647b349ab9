"""Files for those who contribute, cite and release: they can be read, and say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import textgym

ROOT = Path(__file__).parents[1]
YAML = [ROOT / "CITATION.cff", ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*.yml"))]


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_file_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_the_citation_has_what_the_format_requires_and_the_newest_version() -> None:
    """Required keys: the schema of the Citation File Format 1.2.0."""
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == textgym.__version__
    released = re.search(r"^## \[(.+?)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released is not None
    assert released.groups() == (citation["version"], str(citation["date-released"]))


def test_the_hooks_are_those_of_make_lint() -> None:
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert [hook["entry"] for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"]] == commands


@pytest.mark.parametrize("form", ["bug", "wrong_result"])
def test_a_form_asks_for_what_repeats_a_run(form: str) -> None:
    """A form needs a name, a description and a body whose parts have a type; ids differ (GitHub's form schema)."""
    read_form = read(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= read_form.keys()
    ids = [part["id"] for part in read_form["body"]]
    assert len(set(ids)) == len(ids)
    assert {"bug": {"versions", "config"}, "wrong_result": {"seed", "line"}}[form] <= set(ids)
    assert all(part["type"] in {"input", "textarea"} and part["attributes"]["label"] for part in read_form["body"])


def test_workflows_call_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    called = {
        name
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for name in re.findall(r"run: make ([\w-]+)", path.read_text("utf-8"))
        if not name.endswith("-")  # followed by a value of the matrix
    }
    assert {"test", "site"} <= called <= targets
