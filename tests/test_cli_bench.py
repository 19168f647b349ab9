"""``textgym bench``: what it runs, keeps, shows and refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from textgym.benchmarks import experiments
from textgym.benchmarks.experiments.diagnostic.sweep import DIAGNOSTIC_PLAN, diagnostic_jobs
from textgym.benchmarks.runner.experiment import Plan
from textgym.benchmarks.runner.same_settings import require_comparable
from textgym.cli import main, with_yaml
from textgym.files import append_line

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"
CURRENT = metadata.version("textgym")
TINY = ["--settings", "episodes", "64", "episodes-per-iteration", "32", "minibatch-size", "32"]


def keep_results(
    path: Path, algorithms: tuple[str, ...], seeds: int, version: str = CURRENT, episodes: int = 4096
) -> None:
    """A results file of the diagnostic suite, as if its runs had been done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for job in diagnostic_jobs(
        Plan(algorithms, range(seeds), ("Emit", "Copy"), {**DIAGNOSTIC_PLAN.settings, "episodes": episodes})
    ):
        score = 0.9 - 0.1 * job.seed - 0.2 * (job.algorithm == "rloo")
        result = {"beta": 0.05, "optimum": 1, "reference": 0, "objective": score, "score": score, "cpu_seconds": 1}
        append_line(
            path, json.dumps({"experiment": "diagnostic", "version": version, "job": asdict(job), "result": result})
        )


def measured(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        json.dumps(row["job"], sort_keys=True): {k: v for k, v in row["result"].items() if k != "cpu_seconds"}
        for row in rows
    }


def test_a_users_file_takes_part_and_jobs_change_no_number(tmp_path: Path) -> None:
    """In a process of its own, whose server of processes has imported nothing yet but what the runs need."""
    listing = PAGE.read_text("utf-8").split("```python\n")[1].split('task = "textgym/Emit-v0"')[0]
    (tmp_path / "ranked.py").write_text(listing)
    flags = ["bench", "run", "diagnostic", "--algorithms", "ppo", "ranked.py:Ranked", "--tasks", "Emit", *TINY]
    calls = [[*flags, "--seeds", "1", "--jobs", jobs, "--out", f"{jobs}.jsonl"] for jobs in "12"]
    program = f"from textgym.cli import main\nif __name__ == '__main__':\n    [main(call) for call in {calls!r}]\n"
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    one, two = (measured(tmp_path / f"{jobs}.jsonl") for jobs in "12")
    assert one == two
    assert len(one) == 2
    assert "ranked.py:Ranked" in done.stdout
    assert "Loading weights" not in done.stderr


def test_what_is_done_is_shown_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "diagnostic.jsonl"
    keep_results(results, ("ppo", "rloo"), 3)
    before = results.read_bytes()
    flags = ["--algorithms", "ppo", "rloo", "--tasks", "Emit", "Copy", "--seeds", "3", "--out", str(results)]
    main(["bench", "run", "diagnostic", *flags])
    shown = capsys.readouterr().out
    assert "ppo leads" in shown
    assert "0.800" in shown, "the mean of 0.7, 0.7, 0.8, 0.8, 0.9, 0.9"
    assert results.read_bytes() == before


def test_the_report_holds_a_section_for_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, out = tmp_path / "all.jsonl", tmp_path / "few.jsonl", tmp_path / "out"
    keep_results(first, ("ppo", "rloo"), 3)
    keep_results(second, ("ppo",), 1, version="0.0.9")
    with pytest.warns(UserWarning, match=r"few.jsonl: 2 results are of textgym 0.0.9"):
        main(["bench", "report", str(first), str(second), "--out", str(out)])
    page = (out / "report.html").read_text()
    assert "all" in page
    assert "few" in page
    assert list(out.glob("*.csv"))
    tables = (out / "report.md").read_text()
    assert "## few\n\nppo reaches a mean score" in tables
    assert "| ppo | Emit | 0.900 |" in tables
    shown = capsys.readouterr().out
    assert "few: ppo reaches a mean score of 0.95 on 0 of 2 tasks" in shown
    assert re.search(r"^ppo +Emit +0.900 ", shown, re.MULTILINE), "the section's first table"
    assert re.search(r"^rloo +0.6", shown, re.MULTILINE), "the mean of 0.5, 0.6 and 0.7, twice each"


def test_unequal_budgets_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    keep_results(results, ("ppo",), 1, episodes=9999)
    before = results.read_bytes()
    flags = ["--algorithms", "rloo", "--seeds", "1", "--tasks", "Emit", "--out", str(results)]
    with pytest.raises(SystemExit):
        main(["bench", "run", "diagnostic", *flags])
    told = "results.jsonl: episodes is 9999 for ppo on Emit, seed 0, and 4096 for rloo on Emit, seed 0"
    assert told in capsys.readouterr().err
    assert results.read_bytes() == before
    keep_results(results, ("rloo",), 1)
    with pytest.raises(SystemExit):
        main(["bench", "report", str(results), "--out", str(tmp_path / "out")])
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        keep_results(tmp_path / folder / "same.jsonl", ("ppo",), 1)
    files = [str(tmp_path / folder / "same.jsonl") for folder in ("a", "b")]
    with pytest.raises(SystemExit):
        main(["bench", "report", *files, "--out", str(tmp_path / "out")])
    assert "several results files would be called same" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_does_not_depend_on_the_order_of_the_results(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    keep_results(results, ("ppo", "rloo"), 3)
    main(["bench", "report", str(results), "--out", str(tmp_path / "a")])
    results.write_text("".join(reversed(results.read_text().splitlines(keepends=True))))
    main(["bench", "report", str(results), "--out", str(tmp_path / "b")])
    pages = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert pages[0] == pages[1]


def test_the_list_tells_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "list"])
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines() if not line.startswith(" ")] == [*experiments.EXPERIMENTS]
    assert "tokens=8000, budgets=2" in shown
    assert "    tuned on instances: Concepts 1000, Translation 1000\n" in shown
    tuned = [name for name in experiments.EXPERIMENTS if experiments.find_experiment(name).tuning is not None]
    assert shown.count("tuned on") == len(tuned)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_plans_runs_that_differ(name: str) -> None:
    experiment = experiments.find_experiment(name)
    jobs = experiment.sweep(experiment.plan)
    assert experiment.name == name
    assert experiment.question.endswith("?")
    assert len({job.key for job in jobs}) == len(jobs) > 0
    for setting, value in experiment.plan.settings.items():
        if not isinstance(value, str):  # −1 is outside of every limit
            with pytest.raises(ValueError, match=rf"^{setting}=-1; expected"):
                experiment.sweep(replace(experiment.plan, settings={**experiment.plan.settings, setting: -1}))
    require_comparable(Path("sweep"), jobs, experiment.shared)
    budgets = {job.arm.get("tokens") for job in jobs} if name == "mini" else {None}  # the largest budget comes first
    for tokens in budgets:
        seeds = [job.seed for job in jobs if tokens in (None, job.arm.get("tokens"))]
        assert seeds == sorted(seeds), "seed by seed"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["diagnostik"], "experiment='diagnostik' is unknown; did you mean 'diagnostic'?"),
        (["mini", "--algorithms", "pppo"], "algorithm='pppo' is unknown; did you mean 'ppo'?"),
        (["mini", "--algorithms", "my_file.py:Mine"], "there is no file 'my_file.py'"),
        (["mini", "--algorithms"], "algorithms or tasks are empty"),
        (["mini", "--tasks", "Review"], "did you mean 'Reviews'?"),
        (["mini", "--settings", "token", "10"], "mini has no setting 'token'; did you mean 'tokens'?"),
        (["throughput"], "run 'python -m textgym.benchmarks.throughput'"),
        (["mini", "--algorithms", "ppo", "rloo", "ppo"], "algorithms: ppo is given more than once"),
        (["mini", "--tasks", "Reviews", "Reviews"], "tasks: Reviews is given more than once"),
        (["mini", "--settings", "tokens", "-5"], "tokens=-5; expected a whole number, at least 1"),
        (["mini", "--settings", "evaluated", "0"], "evaluated=0; expected a whole number, at least 1"),
        (["mini", "--settings", "slots", "12.5"], "slots=12.5; expected a whole number, at least 1"),
        (["mini", "--settings", "learning-rate", "-1"], "learning_rate=-1; expected a finite number, more than 0"),
        (["mini", "--settings", "learning-rate", "nan"], "learning_rate=nan; expected a finite number"),
        (["mini", "--settings", "beta", "-0.1"], "beta=-0.1; expected a finite number, at least 0"),
        (["diagnostic", "--settings", "episodes", "0"], "episodes=0; expected a whole number, at least 1"),
        (["diagnostic", "--settings", "vf-coef", "inf"], "vf_coef=inf; expected a finite number"),
        (["kl_frontier", "--settings", "tokens", "0"], "tokens=0; expected"),
        (["reward_noise", "--settings", "tokens", "0"], "tokens=0; expected"),
        (["nlpo_mask", "--settings", "tokens", "0"], "tokens=0; expected"),
        (["alignment_tax", "--settings", "tokens", "-1"], "tokens=-1; expected"),
        (["overoptimization", "--settings", "pool", "4"], "pool=4; expected a whole number, at least 8"),
        (["ensembles", "--settings", "prompts", "1000000"], "prompts=1000000; expected 1 to 500, one for each valid"),
        (["ensembles", "--settings", "labels", "9001"], "labels=9001; expected 1 to 9000, one for each train prompt"),
        (["ensembles", "--settings", "size", "3"], "size=3; expected one of tiny, fresh, base"),
        (["mini", "--seeds", "0"], "seeds=0; expected a whole number, at least 1"),
        (["mini", "--jobs", "0"], "jobs=0; expected a whole number, at least 1"),
    ],
)
def test_bad_input_stops_before_any_run(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "run", *flags, "--out", str(out)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for files, message in (([str(tmp_path / "no.jsonl")], "there is no results file"), ([], "no results files")):
        with pytest.raises(SystemExit):
            main(["bench", "report", *files, "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_settings_file_serves_a_command_of_several_words(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("seeds: 2\nsettings: [tokens, 100]\n")
    expected = ["bench", "run", "mini", "--seeds", "2", "--settings", "tokens", "100", "--jobs", "2"]
    assert with_yaml(["bench", "run", "mini", "--config", str(path), "--jobs", "2"]) == expected
