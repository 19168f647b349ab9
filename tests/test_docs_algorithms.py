"""The listing of docs/algorithms.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from textgym.agents import names

PAGE = (Path(__file__).parents[1] / "docs" / "algorithms.md").read_text(encoding="utf-8")


def test_the_listing_runs_and_is_short() -> None:
    (listing,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(listing.splitlines()) < 40
    names_of_listing: dict[str, Any] = {"__name__": "listing"}
    exec(compile(listing, "docs/algorithms.md", "exec", dont_inherit=True), names_of_listing)
    assert names_of_listing["score"] > 0.8


def test_the_table_names_every_algorithm() -> None:
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert named == {kind.__name__ for kind in names.ALGORITHMS.values()}
