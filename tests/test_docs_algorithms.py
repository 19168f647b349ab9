"""The listings of docs/algorithms.md and of its neighbours do what the pages say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from textgym.agents.registry import ALGORITHMS
from textgym.agents.settings import SETTINGS, setting_names

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")


def listings(page: str) -> list[str]:
    """Every Python listing of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def executed(page: str, listing: str) -> dict[str, Any]:
    """Return the names that a listing leaves behind."""
    names_of_listing: dict[str, Any] = {"__name__": "listing"}
    exec(compile(listing, page, "exec", dont_inherit=True), names_of_listing)
    return names_of_listing


def test_the_listing_runs_and_is_short() -> None:
    (listing,) = listings("docs/algorithms.md")
    assert len(listing.splitlines()) < 40
    assert executed("docs/algorithms.md", listing)["score"] > 0.8


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_table_has_the_samples_and_epochs_of_each_algorithm(name: str) -> None:
    kind = ALGORITHMS[name]
    (row,) = re.findall(rf"^\| `{kind.__name__}` \| (.*) \|$", PAGE, re.MULTILINE)
    samples, *_, epochs = row.split(" | ")
    shown = [int(re.match(r"\d+", cell)[0]) for cell in (samples, epochs)]  # type: ignore[index]
    settings = kind.settings_class()
    assert shown == [settings.samples_per_prompt, settings.n_epochs]


@pytest.mark.parametrize("listing", listings("docs/policies.md"))
def test_the_listings_on_policies_run(listing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = executed("docs/policies.md", listing)
    (trained,) = (found[name] for name in ("algorithm", "student", "stock") if name in found)
    assert trained.num_timesteps >= 128


def test_the_listing_on_the_optimum_runs() -> None:
    page = "docs/diagnostic.md"
    listing, _ = listings(page)
    short = re.sub(r"learn\([\d_]+\)", "learn(64)", listing)
    found = executed(page, short)
    assert short != listing
    assert found["value"].objective < found["best"].value


def test_the_listing_on_the_front_runs() -> None:
    page = "docs/diagnostic.md"
    front = executed(page, listings(page)[1])["front"]
    assert len(front.values) == 5
    assert front.first[0] < front.first[-1]


@pytest.mark.parametrize("name", [name for name, kind in SETTINGS.items() if kind().kl_in_loss])
def test_a_loss_has_its_command(name: str) -> None:
    assert re.search(rf"`(textgym train --algorithm )?{re.escape(name)}`", PAGE), name


def test_every_loss_of_trl_has_a_name_here() -> None:
    """TRL 1.16 has these types of loss; what stands beside each is a name of ours, with settings that there are."""
    types = {"grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"}
    for page in (PAGE, (ROOT / "docs" / "coming_from.md").read_text("utf-8")):
        rows = re.findall(r"^\| `loss_type=\"(\w+)\".*\| `([\w+-]+)`(?: with `(\w+)=)?", page, re.MULTILINE)
        assert {kind for kind, _, _ in rows} == types
        for _, name, setting in rows:
            assert setting in ("", *setting_names(SETTINGS[name])), (name, setting)


def test_the_table_names_every_algorithm() -> None:
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert named == {kind.__name__ for kind in ALGORITHMS.values()}
