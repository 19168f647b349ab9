"""Random command lines end with status 0, 1 or 2, with a message, and write nothing where the input is bad."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

from tests.command_lines import ESCAPE, FLAGS, GOOD, place, run, run_many, standing
from textgym.cli import COMMANDS


def check(count: int, seed: int, directory: Path) -> Counter[int]:
    """Return how often each status came; fails with the command lines that went wrong."""
    told = io.StringIO()
    tally = run_many(count, seed, directory, told)
    assert not tally.faults, "\n\n".join(tally.faults)
    assert sum(tally.statuses.values()) == count
    statuses: Counter[int] = Counter()
    for (_, status), times in tally.statuses.items():
        statuses[status] += times
    return statuses


def test_some_random_command_lines(tmp_path: Path) -> None:
    assert check(60, 0, tmp_path)[2] >= 30


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_many_random_command_lines(seed: int, tmp_path: Path) -> None:
    statuses = check(500, seed + 1, tmp_path)
    assert statuses[0] >= 25
    assert statuses[2] >= 200


def test_every_flag_is_tried() -> None:
    """The flags are those of the settings, not a list that somebody must keep."""
    assert set(FLAGS) == set(COMMANDS)
    names = {command: {flag.name for flag in flags} for command, flags in FLAGS.items()}
    assert {"out", "beta", "total-timesteps", "resume"} <= names["train"]
    assert {"labels.completions", "train.beta", "sft.epochs"} <= names["pipeline"]
    assert {"jobs", "seeds", "tasks"} <= names["bench"]


def test_the_harness_sees_a_traceback_a_leftover_and_an_escape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: a command that does all of it is told on each time."""

    def wrong(argv: list[str]) -> None:
        Path("left").touch()
        print(ESCAPE)
        if number.pop():
            raise KeyError("a bug")
        raise SystemExit(2)

    number = [False, True]
    monkeypatch.setattr("tests.command_lines.main", wrong)
    tally = run_many(2, 0, tmp_path)
    assert [kind in "\n".join(tally.faults) for kind in ("KeyError: 'a bug'", "and left ['left']", "an escape")] == [
        True
    ] * 3
    assert standing(tmp_path) == standing(tmp_path) - {"left"}


@pytest.mark.parametrize("command", ["generate", "train", "optimum", "migrate"])
def test_the_good_command_lines_are_good(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a random flag, and nothing else, is what is tried."""
    place(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run([command, *GOOD[command]])[0] == 0
