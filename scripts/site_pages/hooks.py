"""Hooks for mkdocs: generated pages join the files of ``docs/``, and links follow."""

from __future__ import annotations

import posixpath
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs runs this file as a module of its own

from scripts.site_pages.algorithms import algorithms
from scripts.site_pages.page import ROOT, Made, readable
from scripts.site_pages.pictures import equation, frames
from scripts.site_pages.reference import reference
from scripts.site_pages.results import results
from scripts.site_pages.tutorials import tutorials

PROJECT = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md")
"""Pages that stand at the root of the repository; the first is the start page."""

EPISODE = """![The last frame of an episode of {name}]({name}.png)

*Made by `gym.make("textgym/{name}-v0", render_mode="rgb_array")`, played by the policy before training. Below, another
episode as text.*
"""


@cache
def sections() -> dict[str, list[Made]]:
    """Return what is generated, by the section of the navigation that lists it."""
    return {
        "Tutorials": tutorials(),
        "Algorithms": algorithms(),
        "Tasks": frames(),
        "Results": results(),
        "API": reference(),
        "Project": [Made(name, (ROOT / name).read_text("utf-8")) for name in PROJECT if (ROOT / name).is_file()],
    }


def on_config(config: Any) -> Any:
    """Add the generated pages to the navigation; one that ``mkdocs.yml`` names already stays where it is."""
    written = str(config.nav)
    for entry in config.nav:
        ((title, pages),) = entry.items()
        if isinstance(pages, list):
            made = (one.uri for one in sections().get(title, []) if one.uri.endswith(".md"))
            pages += [uri for uri in made if uri not in written]
    config.nav = [entry for entry in config.nav if any(entry.values())]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated files."""
    for made in (one for section in sections().values() for one in section):
        files.append(File.generated(config, made.uri, content=made.content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Draw equations, show a task's picture, and let links that lead out of ``docs/`` end in the site."""
    uri = page.file.src_uri
    if uri in {one.uri.replace(".png", ".md") for one in sections()["Tasks"]}:
        markdown = markdown.replace("## An episode\n", f"## An episode\n\n{EPISODE.format(name=Path(uri).stem)}\n", 1)
    return drawn(relinked(markdown, uri))


def on_page_content(html: str, **_: Any) -> str:
    """Turn what docstrings say in reStructuredText into links and code; references are resolved after this."""
    return readable(html)


def drawn(markdown: str) -> str:
    """Return a page whose ``math`` listings are pictures."""

    def picture(found: re.Match[str]) -> str:
        return f'<div class="equation">{equation(found[1])}</div>'

    return re.sub(r"^```math\n(.*?)^```$", picture, markdown, flags=re.DOTALL | re.MULTILINE)


def relinked(markdown: str, uri: str) -> str:
    """Return a page whose links, written for the repository, lead to the same places in the site."""
    folder = posixpath.dirname(uri if uri in PROJECT or uri.startswith("examples/") else f"docs/{uri}")

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1])).removeprefix("docs/")
        if target.startswith("examples/") and target.endswith(".py"):
            target = target.removesuffix(".py") + ".md"
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}"

    return re.sub(r"\]\((?!\w+:|#|/)([^)#\s]+)", link, markdown)
