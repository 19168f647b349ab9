"""The tables of docs/gradients.md: rows for all algorithms, numbers that are measured again, and their writer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.gradient_table import (
    BETAS,
    ESTIMATED,
    ESTIMATORS,
    FAMILIES,
    GROUP,
    Row,
    losses,
    measure,
    table,
    task,
    write,
)
from textgym.agents.registry import ALGORITHMS
from textgym.exact.gradients import Alignment

PAGE = Path(__file__).parents[1] / "docs" / "gradients.md"


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of each row of a table of the page, by the row's name."""
    section = PAGE.read_text("utf-8").split(f"### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    found = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {name.strip("`"): cells for name, *cells in found}


def numbers(cells: list[str]) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", " ".join(cells))]


def test_every_algorithm_has_a_row() -> None:
    without_reward = {"distill"}
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(ALGORITHMS.keys() - without_reward)
    assert {heading: list(rows(heading)) for heading in losses()} == {
        heading: list(settings) for heading, settings in losses().items()
    }


@pytest.mark.parametrize("name", ["reinforce", "remax", "ppo"])
def test_a_row_is_what_is_measured(name: str) -> None:
    printed = table([[measure(name, beta, {}) for beta in BETAS]]).splitlines()[-1].split("|")[2:-1]
    assert numbers(rows("One response to a prompt")[name]) == pytest.approx(numbers(printed), abs=0.011)


def test_a_row_of_groups_is_what_is_measured() -> None:
    beta = BETAS[-1]
    printed = table([[measure("rloo", beta, {})]]).splitlines()[-1].split("|")[2:-1]
    assert numbers(rows("Groups, KL in the reward")["rloo"][5:]) == pytest.approx(numbers(printed), abs=0.011)


def test_without_divisors_the_exact_kl_stands_at_the_gradient_but_for_its_price() -> None:
    """The group's mean holds the response itself, which leaves (k − 1)/k of the reward: β'/β is k/(k − 1)."""
    least, _, price, best, _ = rows("Groups, KL in the loss")["dr-grpo"][5:]
    assert float(price) == pytest.approx(GROUP / (GROUP - 1), abs=0.005)
    assert best == "1.00000"
    assert numbers([least])[0] > 0.999


@pytest.mark.parametrize("name", ESTIMATED)
def test_the_default_estimator_is_the_nearest_where_the_page_says_so(name: str) -> None:
    found = rows("Estimators of the KL in the loss")
    for place in (0, 5):
        cosines = {e: numbers([found[f"{name} kl_estimator={e}"][place]])[0] for e in ESTIMATORS}
        is_corrected = place == 0 and name in ("dapo", "maxrl")
        assert max(cosines, key=lambda e: cosines[e]) == ("k3-corrected" if is_corrected else "exact"), cosines


def test_scores_of_the_task_deviate_by_1() -> None:
    reward = task(0).rewards.rewards[0]
    ids = [[0, 0, 1], [0, 2, 2], [1], [2, 1]]
    scores = reward(prompts=[], completions=[], completion_ids=ids)  # type: ignore[call-arg, arg-type]
    assert min(scores) >= 0
    assert max(scores) > 0.5


def test_tables_are_written_under_their_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# T\n\n### One\n\nText.\n\n|\n\nAfter.\n\n### Two\n\n| old |\n| row |\n\nEnd.\n", "utf-8")
    measured = Row("ppo", 0.5, (Alignment(0.5, 2.0, 1.0, 1.0), Alignment(0.7, 4.0, 0.5, 1.0)), (1.0, 2.0))
    made = table([[measured]])
    assert made.splitlines()[-1] == "| `ppo` | 0.600 (0.500) | 3.00 | 1.50 | 1.00000 | 1.5 |"
    write(page, {"One": made, "Two": "| new |"})
    assert page.read_text("utf-8") == f"# T\n\n### One\n\nText.\n\n{made}\n\nAfter.\n\n### Two\n\n| new |\n\nEnd.\n"
    with pytest.raises(ValueError, match="0 tables under the heading '### Three'; expected 1"):
        write(page, {"Three": "| new |"})
