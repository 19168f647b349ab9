"""The tables and sentences of docs/people.md are those of the published runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from scripts import human_signals
from textgym.files import read_json_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "people.md").read_text("utf-8")


def rows(name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(ROOT / "benchmarks" / "results" / "people" / name)]


def test_gold_by_number_of_human_signals() -> None:
    found = rows("human_signals.jsonl")
    assert human_signals.table(found) in PAGE
    assert len(found) == len(human_signals.JOBS)
    assert f"all runs took {sum(row['cpu_seconds'] for row in found):.0f} CPU seconds" in PAGE


def interval(way: str, signals: int) -> tuple[float, float]:
    gold = [row["gold"] for row in rows("human_signals.jsonl") if (row["way"], row["signals"]) == (way, signals)]
    low, high = stats.t.interval(0.95, len(gold) - 1, np.mean(gold), stats.sem(gold))
    return float(low), float(high)


@pytest.mark.parametrize("way", ["tamer", "coach"])
def test_presses_teach_more_than_rankings_where_there_are_many(way: str) -> None:
    assert "With 1,024 signals presses teach more than rankings" in PAGE
    assert interval(way, 1024)[0] > interval("rankings", 1024)[1]
    assert "with 64 and 256 the intervals overlap" in PAGE
    for signals in (64, 256):
        assert interval(way, signals)[0] < interval("rankings", signals)[1]
