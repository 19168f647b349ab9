"""Links of Markdown files, and the pages that the site makes; `make site` checks the rest, with warnings as errors."""

from __future__ import annotations

import ast
import json
import posixpath
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from scripts.site_pages.page import readable
from scripts.site_pages.pictures import equation, learning_curves
from scripts.site_pages.results import results
from scripts.site_pages.tutorials import tutorial, tutorials
from textgym.agents.registry import ALGORITHMS

ROOT = Path(__file__).parents[1]
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]+)?\)")
EXAMPLE = '''"""Say hello.

More of :class:`~textgym.env.TokenEnv`, as in::

    python hello.py
"""

print("hello")
'''


def without_listings(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site both name them."""
    headings = re.findall(r"^#+ (.+)$", without_listings(path), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(without_listings(path)):
        file = path.parent / target if target else path
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target + anchor


def test_pictures_of_the_readme_are_small() -> None:
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert shown == [
        "docs/figures/report.png",
        "docs/figures/episode.png",
        "benchmarks/results/report/mini-2-all-pairs.svg",
    ]
    assert all((ROOT / path).stat().st_size < 200_000 for path in shown)


def test_a_page_of_docs_is_in_the_navigation_once() -> None:
    """Entries are Markdown files; those that `docs/` lacks are generated."""
    navigation = re.findall(r"[\w/]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    docs = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(set(navigation)) == len(navigation)
    assert set(navigation) - docs == {"README.md", "results.md"}
    assert docs <= set(navigation)


def test_an_example_is_title_text_and_code(tmp_path: Path) -> None:
    file = tmp_path / "101_hello.py"
    file.write_text(EXAMPLE, "utf-8")
    made = tutorial(file)
    assert made.uri == "examples/101_hello.md"
    assert made.content == (
        "# 101 Say hello\n\nMore of :class:`~textgym.env.TokenEnv`, as in::\n\n    python hello.py\n\n"
        '```python title="examples/101_hello.py"\nprint("hello")\n```\n'
    )
    file.write_text("print()", "utf-8")
    with pytest.raises(ValueError, match=r"101_hello\.py has no docstring"):
        tutorial(file)


def test_every_example_has_a_page() -> None:
    files = {path.stem for path in (ROOT / "examples").glob("*.py") if ast.get_docstring(ast.parse(path.read_bytes()))}
    assert {posixpath.basename(page.uri) for page in tutorials()} - {"README.md"} == {f"{stem}.md" for stem in files}


def test_the_page_of_results_has_every_figure_once() -> None:
    """Also of sections whose names begin alike, such as mini, mini-untuned and mini search."""
    report = ROOT / "benchmarks" / "results" / "report"
    page = str(results()[0].content)
    shown = re.findall(r"!\[.*?\]\(benchmarks/results/report/([\w-]+\.svg)\)", page)
    assert sorted(shown) == sorted(path.name for path in report.glob("*.svg"))


def published_curves(file: str) -> dict[str, list[str]]:
    """Return the task of each curve in a results file, by what was run: its GSPO of before is none of today's."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "benchmarks" / "results" / file).read_text("utf-8").splitlines():
        row = json.loads(line)
        k3 = row["job"]["algorithm"] == "gspo" and row["job"]["settings"]["kl_estimator"] == "k3"
        if row["result"].get("curve"):
            found.setdefault("gspo (k3)" if k3 else row["job"]["algorithm"], []).append(row["job"]["task"])
    return found


def test_an_algorithm_has_the_published_curves() -> None:
    """Those of the diagnostic suite: five seeds on each of twelve tasks. Of losses that it lacks, all there are."""
    suite, losses = published_curves("diagnostic-v0.jsonl"), published_curves("losses.jsonl")
    assert {len(tasks) for tasks in suite.values()} == {60}
    assert suite.keys() - ALGORITHMS.keys() == {"gspo (k3)"}
    for algorithm in ALGORITHMS:
        tasks = suite.get(algorithm) or losses.get(algorithm)
        drawn = learning_curves(algorithm)
        assert (drawn is None) == (tasks is None), algorithm
        if drawn is not None and tasks is not None:
            assert drawn.count("stroke-width: 0.7") == len(tasks), algorithm
            assert drawn.count("stroke-width: 2;") == len({*tasks}), algorithm


def test_an_equation_is_a_picture_that_is_read_out() -> None:
    assert equation(r"J = E[R] - \beta\,KL").startswith('<svg role="img" aria-label="J = E[R] - \\beta\\,KL"')
    with pytest.raises(ValueError, match="Unknown symbol"):
        equation(r"\nosuchsymbol")


def test_marks_of_docstrings_become_links_and_code() -> None:
    env = '<autoref optional identifier="textgym.env.TokenEnv">{}</autoref>'.format
    assert readable(":class:<code>~textgym.env.TokenEnv</code>") == env("<code>TokenEnv</code>")
    assert readable(":class:<code>textgym.env.TokenEnv</code>") == env("<code>textgym.env.TokenEnv</code>")
    assert readable("as :meth:<code>Slots.judge</code> does") == "as <code>Slots.judge</code> does"
    assert readable('<p>as in::</p>\n<div class="highlight">') == '<p>as in:</p>\n<div class="highlight">'
    assert readable("<p>a::</p>\n<p>b: <code>c</code></p>") == "<p>a::</p>\n<p>b: <code>c</code></p>"


def test_an_algorithm_s_page_has_its_objective_once_and_a_meaning_for_each_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = pytest.importorskip("scripts.site_pages.algorithms", reason="the extra docs is missing")
    monkeypatch.setattr(pages, "learning_curves", lambda _: None)  # which take long to draw, and have a test
    made = pages.algorithms()
    assert [page.uri for page in made] == [f"algorithms/{kind.__name__}.md" for kind in ALGORITHMS.values()]
    for page, kind in zip(made, ALGORITHMS.values(), strict=True):
        assert len(re.findall(r"^    L(?:\(θ\))? +=", page.content, re.MULTILINE)) == 1, page.uri
        rows = [line.strip("| ").split(" | ") for line in page.content.splitlines() if line.startswith("| `")]
        assert {name.strip("`") for name, _, _ in rows} == {field.name for field in fields(kind.settings_class)}
        assert all(meaning.endswith((".", ".)")) for _, _, meaning in rows), page.uri


def test_links_of_the_repository_lead_to_the_same_pages_of_the_site() -> None:
    relinked = pytest.importorskip("scripts.site_pages.hooks", reason="the extra docs is missing").relinked
    assert (
        relinked("[a](docs/rates.md#x) ![b](docs/figures/b.png)", "README.md") == "[a](rates.md#x) ![b](figures/b.png)"
    )
    assert relinked("[a](examples/101_hello.py)", "README.md") == "[a](examples/101_hello.md)"
    assert (
        relinked("[a](101_hello.py) [b](../docs/rates.md)", "examples/README.md")
        == "[a](101_hello.md) [b](../rates.md)"
    )
    assert relinked("[a](../CONTRIBUTING.md)", "rates.md") == "[a](CONTRIBUTING.md)"
    assert relinked("[a](../tasks.md) [b](#c) [d](https://e.org/f)", "tasks/Emit.md") == (
        "[a](../tasks.md) [b](#c) [d](https://e.org/f)"
    )
