"""The diagnostic experiment: one run, the table, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from textgym.benchmarks.diagnostic.__main__ import main
from textgym.benchmarks.diagnostic.runs import Run, run, run_all
from textgym.benchmarks.diagnostic.score import by_task, interval, score_table
from textgym.benchmarks.diagnostic.settings import Settings
from textgym.tasks import DIAGNOSTIC

TINY = Settings(episodes=128, episodes_per_iteration=32, minibatch_size=32)


def made(task: str, seed: int, score: float) -> Run:
    return Run(task, seed, 0.05, 1.0, 0.0, score, score, 2.0)


def test_a_run_learns_and_repeats() -> None:
    first, second = (
        run(("Emit", 1), Settings(episodes=512, episodes_per_iteration=64, minibatch_size=64)) for _ in "ab"
    )
    assert 0.5 < first.score <= 1
    assert first.score == pytest.approx((first.objective - first.reference) / (first.optimum - first.reference))
    assert first.score == second.score
    assert run_all(["Emit"], 1, TINY, jobs=1)[0].seed == 0


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.md"
    options = ["--episodes", "128", "--episodes-per-iteration", "32", "--minibatch-size", "32"]
    main(["--tasks", "Emit", "--seeds", "1", "--jobs", "1", "--out", str(out), *options])
    printed = capsys.readouterr().out
    assert "| Emit |" in printed
    assert "episodes=128" in printed
    assert out.read_text() in printed


def test_the_table_by_hand() -> None:
    runs = [made("Emit", 0, 1.0), made("Emit", 1, 0.94), made("Copy", 0, 0.2), made("Copy", 1, 0.4)]
    assert list(by_task(runs)) == ["Emit", "Copy"]
    table = score_table(runs)
    assert "| Emit | 0.970 | 0.940 … 1.000 | 0.940 | 2.0 |" in table
    assert "1 of 2 tasks reach a mean score of 0.95 (4 runs, 8 CPU-seconds together, the longest 2.0)" in table
    assert interval([0.5, 0.5], np.random.default_rng(0)) == (0.5, 0.5)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        run(("Emitt", 0), TINY)
    with pytest.raises(ValueError, match="has no beta"):
        run(("Reviews", 0), TINY)
    with pytest.raises(SystemExit, match="seeds=0"):
        main(["--seeds", "0"])
    assert len(DIAGNOSTIC) == 12
