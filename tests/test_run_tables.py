"""Results in the terminal: intervals that are Student's, and no number that nobody measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from textgym.runs import comparison_table, interval, sample_pairs


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({"mean": 0.5, "sem": 0.1, "n": 8}, "0.500 ± 0.236"),  # t of 7 degrees of freedom is 2.365
        ({"mean": 0.5, "sem": 0.1}, "0.500 ± 0.196"),  # of a file that tells no number
        ({"mean": 0.5, "sem": 0.0, "n": 1}, "0.500"),
        ({"mean": -0.0001, "sem": 0.0, "n": 8}, "0.000 ± 0.000"),
    ],
)
def test_an_interval_by_hand(measured: dict[str, float], told: str) -> None:
    assert interval(measured) == told


def test_the_table_says_what_its_intervals_are_over(tmp_path: Path) -> None:
    stage = {name: {"mean": 1.0, "sem": 0.1, "n": 8} for name in ("kl", "length")}
    (tmp_path / "evaluation.json").write_text(json.dumps({"before": stage, "after": stage}))
    lines = comparison_table(tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["before", "kl", "length", "±:"]
    assert lines[-1] == "±: 95 % intervals over 8 episodes of this run"


def test_samples_that_nobody_judged_have_no_score(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"stage": stage, "prompt": "p", "completion": stage, **({} if stage == "before" else {"score": 0.5})}
        for stage in ("before", "after")
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sample_pairs(tmp_path, 3) == "p\n  before: before\n  after  (+0.50): after"
