"""A page for each file of ``examples/``: title and text from its docstring, then its code."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts.site_pages.page import ROOT, Made

EXAMPLES = ROOT / "examples"


def tutorial(path: Path) -> Made:
    """Return the page of an example.

    Raises:
        ValueError: the file has no docstring.
    """
    source = path.read_text(encoding="utf-8")
    module = ast.parse(source)
    told = ast.get_docstring(module)
    if told is None:
        raise ValueError(f"{path.name} has no docstring; expected one, since its first line is the page's title")
    title, _, text = told.partition("\n")
    number = path.stem.partition("_")[0]
    heading = f"# {number} {title}" if number.isdigit() else f"# {title}"
    code = "\n".join(source.splitlines()[module.body[0].end_lineno :]).strip()
    listing = f'```python title="examples/{path.name}"\n{code}\n```'
    return Made(f"examples/{path.stem}.md", f"{heading.rstrip('.')}\n\n{text.strip()}\n\n{listing}\n")


def tutorials() -> list[Made]:
    """Return the folder's own page, then those of its files: the numbered lessons first, then the rest by name."""
    listed = [Made(f"examples/{path.name}", path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("README.md")]
    return listed + [tutorial(path) for path in sorted(EXAMPLES.glob("*.py")) if not path.name.startswith("_")]
