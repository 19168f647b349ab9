"""The command answers before torch is loaded: counted in modules, as seconds depend on the machine."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import textgym

HEAVY = (
    "torch",
    "transformers",
    "stable_baselines3",
    "sb3_contrib",
    "scipy",
    "matplotlib",
    "datasets",
    "evaluate",
    "peft",
)
MOST = 700  # modules; torch, transformers and stable-baselines3 together bring some 3,000

COUNT = """
import json, sys
from textgym.cli import main
status = 0
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code or 0
print(json.dumps([status, len(sys.modules), [name for name in {heavy!r} if name in sys.modules]]), file=sys.stderr)
"""


def answered(place: Path, code: str, *argv: str) -> tuple[str, str]:
    """Return what a fresh process prints to standard output, and the last line of standard error."""
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--help"], 0, "reward-model"),
        (["train", "--help"], 0, "--beta"),
        (["train", "--algorithm", "grpo", "--help"], 0, "--scale-by-std"),
        (["train", "--algorithm", "grop"], 2, "did you mean 'grpo'"),
        (["train", "--out", "run", "--vf-coef", "1", "--algorithm", "rloo"], 2, "belongs to ppo, nlpo, a2c and trpo"),
        (["pipeline", "--train.algorithm", "trpo", "--help"], 0, "--train.cg-steps"),
        (["--version"], 0, f"textgym {metadata.version('textgym')}\npython {platform.python_version()}\ntorch "),
        (["sft", "--help"], 0, "--residual-dropout"),
        (["dpo", "--help"], 0, "--loss"),
        (["kto", "--help"], 0, "--undesirable-weight"),
        (["kto", "--out", "run", "--data", "data.jsonl", "--batch-size", "1"], 2, "batch_size=1; expected at least 2"),
        (["distill", "--help"], 0, "--teacher-share"),
        (["reward-model", "--help"], 0, "--ensemble"),
        (["pipeline", "--help"], 0, "--labels.completions"),
        (["generate", "--help"], 0, "--temperature"),
        (["play", "--help"], 0, "--parameters"),
        (["optimum", "--help"], 0, "--policy"),
        (["bench", "run", "--help"], 0, "--seeds"),
        (["demo", "--help"], 0, "--tiny"),
        (["compare", "--help"], 0, "Directories of the runs"),
        (["compare", "full", "nowhere", "--out", "page"], 2, "runs='nowhere': no such file"),
        (["train", "--out", "run", "--betta", "1"], 2, "--beta"),
        (["train", "--out", "run", "--prompts", "nowhere.jsonl"], 2, "prompts='nowhere.jsonl': no such file"),
        (["train", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["train", "--preset", "rl4lms/imdb-pppo"], 2, "did you mean 'rl4lms/imdb-ppo'"),
        (["migrate", "--help"], 0, "trl-ppo"),
        (["sft", "--out", "full", "--model", "m", "--data", "data.jsonl"], 2, "out='full' exists and is not a run"),
    ],
)
def test_answers_before_anything_heavy_is_imported(tmp_path: Path, argv: list[str], status: int, said: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "data.jsonl").write_text("{}")
    text, last = answered(tmp_path, COUNT.format(heavy=HEAVY), *argv)
    found, modules, heavy = json.loads(last)
    assert (found, heavy) == (status, [])
    assert said in text
    assert modules < MOST


@pytest.mark.parametrize("package", ["textgym", "textgym.agents", "textgym.rewards", "textgym.lm", "textgym.runs"])
def test_packages_import_nothing_heavy_before_a_name_is_asked_for(tmp_path: Path, package: str) -> None:
    code = f"import sys, {package}; print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    assert answered(tmp_path, code)[1] == "[]"


def test_the_version_stands_in_one_place() -> None:
    """A checkout whose metadata is older than its code would write the older version into every result."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "textgym.__version__"}
    assert textgym.__version__ == metadata.version("textgym")


def test_every_public_name_can_be_imported() -> None:
    import textgym.agents
    import textgym.lm
    import textgym.rewards
    import textgym.runs

    for package in (textgym.agents, textgym.lm, textgym.rewards, textgym.runs):
        assert package.__all__
        for name in package.__all__:
            assert getattr(package, name) is not None
