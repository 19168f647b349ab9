"""The results file: nothing lost, nothing done twice."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from textgym.benchmarks.grid import append_line, job_key, read_results, run_grid


@dataclass(frozen=True)
class Square:
    number: int
    log: str


def square(job: Square) -> dict[str, int]:
    """Notes that it ran, in a file that all processes share."""
    append_line(Path(job.log), {"number": job.number})
    return {"square": job.number**2, "process": os.getpid()}


def ran(log: Path) -> list[int]:
    return sorted(json.loads(line)["number"] for line in log.read_text().splitlines())


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    log, results = tmp_path / "log", tmp_path / "out" / "results.jsonl"
    jobs = [Square(number, str(log)) for number in range(4)]
    run_grid(jobs[:2], square, results)
    found = run_grid([*jobs, jobs[0]], square, results, processes=2)
    assert [result["square"] for result in found] == [0, 1, 4, 9, 0]
    assert ran(log) == [0, 1, 2, 3]
    assert set(read_results(results)) == {job_key(job) for job in jobs}
    assert os.getpid() not in {result["process"] for result in found}


def test_a_torn_last_line_is_cut_off_and_done_again(tmp_path: Path) -> None:
    log, results = tmp_path / "log", tmp_path / "results.jsonl"
    jobs = [Square(number, str(log)) for number in range(3)]
    run_grid(jobs, square, results)
    whole = results.read_bytes()
    results.write_bytes(whole[:-7])
    with pytest.warns(UserWarning, match=r"results.jsonl: the last line is torn"):
        run_grid(jobs, square, results)
    assert len(ran(log)) == 4
    assert set(read_results(results)) == {job_key(job) for job in jobs}


def test_a_failed_job_keeps_what_was_done(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    fine, broken = Square(1, str(tmp_path / "log")), Square(2, str(tmp_path / "no" / "\0"))
    with pytest.raises(ValueError, match="null"):
        run_grid([fine, broken], square, results)
    assert set(read_results(results)) == {job_key(fine)}


def test_a_failed_job_calls_off_those_that_wait(tmp_path: Path) -> None:
    log = tmp_path / "log"
    broken = Square(0, str(tmp_path / "no" / "\0"))
    with pytest.raises(ValueError, match="null"):
        run_grid([broken, *(Square(number, str(log)) for number in range(1, 40))], square, tmp_path / "results.jsonl")
    assert not log.exists() or len(ran(log)) < 10


@pytest.mark.parametrize("line", ["{", '{"job": 1}', "[]"])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"job": {{}}, "result": {{}}}}\n{line}\n')
    with pytest.raises(ValueError, match=r"results.jsonl:2: expected a job and its result"):
        read_results(path)


def test_two_results_of_one_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"job": {"a": 1}, "result": {}}\n' * 2)
    with pytest.raises(ValueError, match=r"results.jsonl:2: this run has a result above"):
        read_results(path)
