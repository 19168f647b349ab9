"""The measures of scripts/house.py, on a small checkout whose numbers are counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.house import code_and_comments, main

FILES = {
    "agents/loop/a.py": '''"""What the loop does."""

LIMIT = 3  # one comment


def read(path):
    """Return the rows."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _private(): ...
''',
    "agents/loop/b.py": '''"""The rest."""

# a comment
LIMIT = 4


class Run:
    """A run."""

    def read(self):
        """Whether it was read."""
        return parse_json(text, "x")  # parses, but cuts no lines
''',
    "rewards/c.py": '"""Rewards."""\n\n\ndef read(): ...\n',
    "benchmarks/d.py": "",
    "textgym/e.py": "x, Run = 1, 2\n",
    "tests/test_a.py": "def test_one(): ...\n\n\nclass TestTwo:\n    def test_two(self): ...\n\n\ndef helper(): ...\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a checkout, with the package's link to its agents."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "textgym" / "agents").symlink_to("../agents")
    return tmp_path


def test_measures_of_a_small_checkout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--root", str(root), "--no-walk", "--names"])
    shown = capsys.readouterr().out
    table = dict(line.rsplit("  ", 1) for line in shown.partition("\n\n")[0].splitlines())
    measures = {name.strip(): value.strip() for name, value in table.items()}
    assert measures == {
        "modules": "5",  # the link is not followed
        "lines": str(sum(content.count("\n") for name, content in FILES.items() if not name.startswith("tests"))),
        "lines of code": "10",  # 4 of a.py, 4 of b.py, 1 of c.py, 1 of e.py: no docstrings, no comments
        "comments per 100 lines of code": "30.0",  # 1 of a.py, 2 of b.py
        "files in the largest folder": "2 (agents/loop)",
        "docstrings that begin with a wh-word": "33.3 %",  # What and Whether, of six
        "public functions and classes defined in two modules or more": "1",  # read; Run is a class in b.py alone
        "public names, constants included, defined in two modules or more": "3",  # LIMIT, Run, read
        "readers of JSON Lines": "1",  # read in a.py
        "test functions": "2",
    }
    assert "  read: agents/loop/a.py, rewards/c.py" in shown
    assert "  agents/loop/b.py:10" in shown.partition("wh-docstrings")[2]


def test_a_line_of_code_with_a_comment_counts_as_both() -> None:
    assert code_and_comments('"""Doc."""\nx = 1  # why\n# alone\ny = """a\nb"""\n') == (3, 2)
