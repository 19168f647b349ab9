"""Provenance: digests follow the code and nothing else, and rows of different code are never compared."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from fake_experiment import EXPERIMENT, begun, job

from textgym.benchmarks.runner import provenance
from textgym.benchmarks.runner.jobs import run_jobs
from textgym.benchmarks.runner.provenance import Code, present_code, require_same_code, rooms_of, source_files
from textgym.benchmarks.runner.results_file import read_results, result_line

SOURCE = '''"""Docstring."""

# A comment.
LIMIT = 3


def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number  # doubled
'''

FILES = (
    "__init__.py",
    "numbers.py",
    "cli.py",
    "progress.py",
    "agents/loop/update.py",
    "commands/bench.py",
    "reports/page.py",
    "runs/run.py",
    "tasks/task.py",
    "tasks/mini/stories.py",
    "tasks/diagnostic/emit.py",
    "benchmarks/entries.py",
    "benchmarks/analysis/pairs.py",
    "benchmarks/runner/jobs.py",
    "benchmarks/experiments/mini/__init__.py",
    "benchmarks/experiments/mini/task.py",
    "benchmarks/experiments/mini/score.py",
    "benchmarks/experiments/mini/sweep.py",
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small package, some of whose folders lie elsewhere, as the repository's do."""
    folder = tmp_path / "repository" / "textgym"
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE)
    for room in ("agents", "benchmarks"):
        (folder / room).rename(folder.parent / room)
        (folder / room).symlink_to(Path("..", room))
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    return folder


# --- digests -----------------------------------------------------------------------------------------------------


def changed_rooms(package: Path, file: str, text: str) -> set[str]:
    """Return the rooms whose digests change if a file does."""
    before = present_code().digests
    (package / file).write_text(text)
    after = present_code().digests
    assert before.keys() == after.keys()
    return {room for room in before if before[room] != after[room]}


@pytest.mark.parametrize(
    ("file", "rooms"),
    [
        ("numbers.py", {"textgym"}),
        ("__init__.py", {"textgym"}),
        ("agents/loop/update.py", {"agents"}),
        ("tasks/task.py", {"tasks"}),
        ("tasks/mini/stories.py", {"tasks.mini"}),
        ("benchmarks/entries.py", {"benchmarks"}),
        ("benchmarks/experiments/mini/task.py", {"benchmarks.experiments.mini"}),
        ("benchmarks/experiments/mini/score.py", set()),
        ("benchmarks/experiments/mini/sweep.py", set()),
        ("benchmarks/experiments/mini/__init__.py", set()),
        ("benchmarks/analysis/pairs.py", set()),
        ("benchmarks/runner/jobs.py", set()),
        ("reports/page.py", set()),
        ("commands/bench.py", set()),
        ("runs/run.py", set()),
    ],
)
def test_a_digest_changes_with_the_code_of_its_room_alone(package: Path, file: str, rooms: set[str]) -> None:
    assert changed_rooms(package, file, SOURCE.replace("2 * number", "3 * number")) == rooms


@pytest.mark.parametrize(
    "text",
    [
        SOURCE.replace("Docstring.", "Another docstring."),
        SOURCE.replace('    """Return twice a number."""\n', ""),
        SOURCE.replace("# A comment.\n", "").replace("  # doubled", ""),
        SOURCE.replace("2 * number", "(2\n        * number)"),
    ],
)
def test_no_digest_changes_with_words_and_layout(package: Path, text: str) -> None:
    assert text != SOURCE
    assert changed_rooms(package, "agents/loop/update.py", text) == set()


@pytest.mark.parametrize(
    "text",
    [
        SOURCE.replace("LIMIT = 3", "LIMIT = 4"),
        SOURCE.replace("LIMIT = 3", "LIMIT = '''3'''"),
        SOURCE.replace("number: int", "amount: int").replace("* number", "* amount"),
        SOURCE + "\n\nLIMIT += 1\n",
    ],
)
def test_a_digest_changes_with_every_statement(package: Path, text: str) -> None:
    assert changed_rooms(package, "agents/loop/update.py", text) == {"agents"}


def test_a_file_that_moves_or_appears_changes_the_digest(package: Path) -> None:
    first = present_code().digests
    (package / "agents/loop/update.py").rename(package / "agents/loop/step.py")
    second = present_code().digests
    (package / "agents/other.py").write_text("")
    third = present_code().digests
    assert len({first["agents"], second["agents"], third["agents"]}) == 3
    assert {**first, "agents": 0} == {**second, "agents": 0} == {**third, "agents": 0}


def test_a_file_that_a_task_reads_is_part_of_its_code(package: Path) -> None:
    (package / "tasks/mini/assets").mkdir()
    (package / "tasks/mini/assets/model.safetensors").write_bytes(b"\x00weights\xff")
    assert changed_rooms(package, "tasks/mini/assets/model.safetensors", "other weights") == {"tasks.mini"}
    (package / "tasks/mini/__pycache__").mkdir()
    for name in ("tasks/mini/__pycache__/stories.cpython-311.pyc", "tasks/mini/.stories.py.swp", "tasks/mini/all.pyi"):
        (package / name).write_text("")
        assert changed_rooms(package, name, "changed") == set()


def test_all_files_are_found_in_linked_folders_too(package: Path) -> None:
    assert {str(path.relative_to(package)) for path in source_files()} == set(FILES)


@pytest.mark.usefixtures("package")
def test_rooms_of_modules_by_hand() -> None:
    modules = {
        "textgym": None,
        "textgym.numbers": "textgym",
        "textgym.cli": None,
        "textgym.progress": None,
        "textgym.agents": "agents",
        "textgym.agents.loop.update": "agents",
        "textgym.tasks.task": "tasks",
        "textgym.tasks.mini": "tasks.mini",
        "textgym.tasks.mini.stories": "tasks.mini",
        "textgym.benchmarks.entries": "benchmarks",
        "textgym.benchmarks.experiments": None,
        "textgym.benchmarks.experiments.mini": None,
        "textgym.benchmarks.experiments.mini.sweep": None,
        "textgym.benchmarks.experiments.mini.task": "benchmarks.experiments.mini",
        "textgym.benchmarks.analysis.pairs": None,
        "textgym.benchmarks.runner.jobs": None,
        "textgym.reports.page": None,
        "textgym.commands.bench": None,
        "textgym_of_somebody.numbers": None,
        "torch.nn": None,
    }
    assert {name: next(iter(rooms_of([name])), None) for name in modules} == modules
    assert rooms_of(modules) == sorted({room for room in modules.values() if room})


def test_the_package_itself_has_a_digest_for_all_that_a_run_imports() -> None:
    code = present_code()
    assert {
        "agents",
        "env",
        "lm",
        "rewards",
        "tasks",
        "tasks.mini",
        "tasks.diagnostic",
        "textgym",
    } <= code.digests.keys()
    assert all(len(digest) == 12 for digest in code.digests.values())
    assert present_code() == code


# --- the commit --------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_says_if_files_were_changed(package: Path) -> None:
    repository = package.parent
    assert provenance.commit() is None, "no repository"
    git(repository, "init", "-q")
    assert provenance.commit() is None, "an environment within somebody else's checkout"
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "First")
    head = git(repository, "rev-parse", "HEAD")
    assert provenance.commit() == head[:12]
    (repository / "results.jsonl").write_text("")
    assert provenance.commit() == head[:12], "a new file that nobody imports"
    (repository / "agents/loop/update.py").write_text("")
    assert provenance.commit() == f"{head[:12]}+"


def test_without_git_there_is_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "First")
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


# --- rows --------------------------------------------------------------------------------------------------------


def row(commit: str, **code: str) -> dict[str, Any]:
    return {"commit": commit, "code": code}


def test_rows_of_two_commits_agree_where_their_code_does() -> None:
    rows = {"a": row("aaa", agents="1", env="2"), "b": row("bbb", agents="1", env="2", lm="3"), "c": row("ccc", lm="3")}
    require_same_code(Path("results.jsonl"), rows)
    require_same_code(Path("results.jsonl"), {"a": None, "b": None})
    told = r"results.jsonl: the code of lm differs between b \(commit bbb\) and d \(commit ddd\); expected runs of"
    with pytest.raises(ValueError, match=told):
        require_same_code(Path("results.jsonl"), {**rows, "d": row("ddd", agents="1", lm="4")})


def test_rows_that_say_nothing_do_not_stand_beside_others() -> None:
    rows = {"a": row("aaa", agents="1"), "b": None, "c": None}
    with pytest.raises(ValueError, match=r"results.jsonl: 2 of 3 runs do not say which code made them, such as b; exp"):
        require_same_code(Path("results.jsonl"), rows)


def keep(path: Path, *origins: dict[str, Any] | None) -> None:
    lines = [result_line("fake", job("log", seed), {"square": 0}, origin) for seed, origin in enumerate(origins)]
    path.write_text("".join(f"{line}\n" for line in lines))


def test_a_file_of_two_commits_is_read_if_their_code_agrees(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    keep(path, row("aaa", agents="1"), row("bbb", agents="1"))
    assert len(read_results(path)) == 2
    keep(path, row("aaa", agents="1"), row("bbb", agents="2"))
    told = (
        r"agents differs between plain on Square, seed 0, log log \(commit aaa\) and plain on Square, seed 1, log log"
    )
    with pytest.raises(ValueError, match=told):
        read_results(path)
    keep(path, row("aaa", agents="1"), None)
    with pytest.raises(
        ValueError, match="1 of 2 runs do not say which code made them, such as plain on Square, seed 1"
    ):
        read_results(path)


def test_a_row_says_which_code_and_machine_made_it(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    run_jobs(EXPERIMENT, [job(log, 0)], path)
    origin = json.loads(path.read_text())["origin"]
    assert origin.keys() == {"commit", "code", "python", "torch", "transformers", "cpu", "threads"}
    assert origin["torch"] == metadata.version("torch")
    assert origin["transformers"] == metadata.version("transformers")
    assert origin["cpu"] == provenance.cpu() != ""
    # None unless torch was imported, as by a server of processes that an earlier test has begun.
    assert origin["threads"] is None or origin["threads"] >= 1
    code = present_code()
    assert origin["commit"] == code.commit
    assert {"textgym", "agents"} <= origin["code"].keys() <= code.digests.keys()
    assert origin["code"] == {room: code.digests[room] for room in origin["code"]}
    assert not {"tasks.mini", "benchmarks.experiments.mini"} & origin["code"].keys(), "rooms that the run did not enter"


def test_threads_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert provenance.machine()["threads"] == 7


def test_a_file_of_other_code_is_not_continued(tmp_path: Path) -> None:
    """Nothing is run then; what is there may still be read, and code that made none of it may change."""
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    run_jobs(EXPERIMENT, [job(log, 0)], path)
    made = json.loads(path.read_text())
    other = {**made["origin"], "commit": "0ddba11", "code": {**made["origin"]["code"], "agents": "another"}}
    path.write_text(json.dumps({**made, "origin": other}) + "\n")
    told = r"the code of agents differs between run 1 of the file \(commit 0ddba11\) and this checkout \(commit "
    with pytest.raises(ValueError, match=told):
        run_jobs(EXPERIMENT, [job(log, 0), job(log, 1)], path)
    assert begun(log) == [0]
    ((_, result),) = run_jobs(EXPERIMENT, [job(log, 0)], path)
    assert result["square"] == 0
    agreeing = {**made["origin"], "commit": "0ddba11"}
    path.write_text(json.dumps({**made, "origin": agreeing}) + "\n")
    run_jobs(EXPERIMENT, [job(log, 0), job(log, 1)], path)
    assert begun(log) == [0, 1]


def test_a_file_without_provenance_is_read_but_not_continued(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    path.write_text(result_line("fake", job(log, 0), {"square": 0}) + "\n")
    assert len(run_jobs(EXPERIMENT, [job(log, 0)], path)) == 1
    with pytest.raises(ValueError, match="1 of 2 runs do not say which code made them"):
        run_jobs(EXPERIMENT, [job(log, 1)], path)
    assert begun(log) == []


def test_a_room_that_is_gone_differs() -> None:
    code = Code("abc", {"agents": "1"})
    rows = {"a": row("aaa", agents="1", gone="2"), "now": code.origin({}, ["agents", "gone"])}
    with pytest.raises(ValueError, match="the code of gone differs"):
        require_same_code(Path("results.jsonl"), rows)
