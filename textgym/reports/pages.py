"""HTML pages from the templates beside this file, which share style, macros and filters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from textgym.env.rendering import DEEPEST_TINT, hue, printable
from textgym.files import write_text
from textgym.reports.formatting import number


def write_page(template: str, contents: Mapping[str, Any], path: Path) -> Path:
    """Fill a template, write the page to ``path`` and return the path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("textgym.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals.update(full_loss=css_tint(-1.0), full_gain=css_tint(1.0))
    page = environment.get_template(template).render(**contents)
    write_text(path, printable(page))  # a model may write characters that reverse the text direction
    return path


def css_tint(level: float) -> str:
    """Return a strength in [−1, 1] as a translucent colour, which suits light and dark paper."""
    red, green, blue = hue(level)
    return f"rgba({red},{green},{blue},{DEEPEST_TINT * abs(level):.2f})"
