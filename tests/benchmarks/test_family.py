"""Algorithms side by side: the grid, the tables by hand, and a tiny run."""

import json
from pathlib import Path
from typing import Any

import pytest

from textgym.benchmarks.family import __main__ as family
from textgym.benchmarks.family.runs import Job, diagnostic_job, gold_job, run
from textgym.benchmarks.family.tables import diagnostic_table, gold_table
from textgym.benchmarks.grid import append_line, job_key


def cells(table: str, row: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def gold_result(before: float, after: float) -> dict[str, Any]:
    stages = {
        stage: {"score": gold, "gold": gold, "grammatical": 1.0, "kl": 2 * gold, "length": 9.0}
        for stage, gold in (("before", before), ("after", after))
    }
    return {**stages, "tokens": 100, "cpu_seconds": 3.0}


def test_the_diagnostic_table_by_hand() -> None:
    scores = {("Emit", 0): 1.0, ("Emit", 1): 0.8, ("Copy", 0): 0.6, ("Copy", 1): 0.4}
    rows = [(Job(task, "ppo", seed), {"score": s, "cpu_seconds": 1.5}) for (task, seed), s in scores.items()]
    # The suite's mean is 0.8 with one seed and 0.6 with the other, between which all resamples lie.
    assert cells(diagnostic_table(rows), "ppo") == ["ppo", "0.90", "0.50", "0.700", "0.600 … 0.800", "6"]


def test_the_gold_table_by_hand() -> None:
    rows = [(Job("Reviews", "rloo", seed, 100), gold_result(0.5, after)) for seed, after in enumerate((0.9, 0.9))]
    expected = ["rloo", "0.500", "0.900", "+0.400", "+0.400 … +0.400", "1.000", "1.80", "9.0", "3"]
    assert cells(gold_table(rows), "rloo") == expected


def test_settings_tell_the_arms_of_an_experiment_apart(tmp_path: Path) -> None:
    jobs = family.grid(family.Experiment("nlpo-mask", tmp_path, seeds=2))
    assert len(jobs) == 4
    rows = [(job, gold_result(0.5, 0.6)) for job in jobs]
    assert cells(gold_table(rows), "nlpo (target_update=1000000000)")


def test_the_command_shows_what_the_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, table = tmp_path / "results.jsonl", tmp_path / "table.md"
    experiment = family.Experiment("reviews", results, ("ppo",), seeds=1)
    (job,) = family.grid(experiment)
    append_line(results, {"job": json.loads(job_key(job)), "result": gold_result(0.5, 0.75)})
    family.main(["reviews", "--out", str(results), "--algorithms", "ppo", "--seeds", "1", "--table", str(table)])
    assert cells(table.read_text(), "ppo")[3] == "+0.250"
    assert table.read_text() in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--algorithms", "pppo"], ["--seeds", "0"]])
def test_bad_input_stops_before_any_run(tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit, match="error: "):
        family.main(["reviews", "--out", str(out), *flags])
    assert not out.exists()


def test_a_run_names_all_that_its_numbers_depend_on() -> None:
    diagnostic, gold = diagnostic_job("Emit", "grpo", 0, n_epochs=2), gold_job("Reviews", "nlpo", 0, 100, top_mask=0.5)
    assert diagnostic.fixed["n_epochs"] == 2
    assert {"episodes", "learning_rate", "clip_range", "scale_by_std"} <= diagnostic.fixed.keys()
    assert gold.fixed["top_mask"] == 0.5
    assert {"learning_rate", "beta", "evaluated", "target_update"} <= gold.fixed.keys()


def test_runs_of_both_kinds() -> None:
    small = {"episodes": 512, "minibatch_size": 64}
    score = run(Job("Emit", "rloo", 0, settings=small))["score"]
    assert 0.05 < score <= 1
    result = run(Job("Reviews", "rloo", 0, 300, {"episodes_per_iteration": 16, "minibatch_size": 8}))
    assert result["tokens"] >= 300
    assert result["before"]["kl"] == pytest.approx(0, abs=1e-6)
    assert 0.35 < result["before"]["gold"] < 0.65
