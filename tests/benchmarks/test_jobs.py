"""The runner and its results file: nothing lost, nothing done twice, no result that does not belong there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import fake_experiment
import numpy as np
import pytest
from fake_experiment import EXPERIMENT, begun, job

from textgym.benchmarks.runner import jobs as runner
from textgym.benchmarks.runner.experiment import Job
from textgym.benchmarks.runner.jobs import run_jobs
from textgym.benchmarks.runner.results_file import cut_torn_line, experiment_of, read_results, result_line
from textgym.files import append_line


def squares(path: Path) -> dict[int, int]:
    return {job.seed: result["square"] for job, result in read_results(path)}


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "out" / "results.jsonl"
    jobs = [job(log, seed) for seed in range(4)]
    run_jobs(EXPERIMENT, jobs[:2], path)
    found = run_jobs(EXPERIMENT, [*jobs, jobs[0]], path, processes=2)
    assert [(done.seed, result["square"]) for done, result in found] == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert sorted(begun(log)) == [0, 1, 2, 3]
    assert squares(path) == {0: 0, 1: 1, 2: 4, 3: 9}
    assert len({os.getpid(), *(result["process"] for _, result in found)}) == 5, "a run shared its process"


def test_warnings_that_are_gathered_are_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tmp_path / "log", seed, name) for seed, name in enumerate(("plain", "far", "far"))]
    found = run_jobs(EXPERIMENT, jobs, tmp_path / "results.jsonl", gathered=(RuntimeWarning,))
    assert [result.keys() for _, result in found] == [{"square", "process"}] * 3
    shown = capsys.readouterr().err
    assert "warning in 2 of 3 runs, first in far on Square, seed 1, log " in shown
    assert shown.count("moves far") == 1
    assert "and farther" not in shown
    monkeypatch.setattr(runner, "_in_fresh_process", lambda run, one, _: run(one))
    with pytest.warns(UserWarning, match="something else"):  # others are shown by the run
        run_jobs(EXPERIMENT, jobs[1:2], tmp_path / "here.jsonl", gathered=(RuntimeWarning,))


def test_a_row_says_what_made_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    run_jobs(EXPERIMENT, [job(tmp_path / "log", 2)], path)
    row = json.loads(path.read_text())
    assert row.keys() == {"experiment", "version", "job", "result", "origin"}
    assert row["job"] == {
        "task": "Square",
        "algorithm": "plain",
        "seed": 2,
        "arm": {"log": str(tmp_path / "log")},
        "settings": {"seconds": 0.0},
    }
    assert experiment_of(path) == row["experiment"] == "fake"


def start(log: Path, path: Path, count: int) -> "subprocess.Popen[bytes]":
    """Return a runner in a process of its own, which does two runs at once."""
    program = f"import fake_experiment; fake_experiment.main({str(log)!r}, {str(path)!r}, {count}, 2)"
    folder = Path(fake_experiment.__file__).parent
    return subprocess.Popen([sys.executable, "-c", program], cwd=folder, stderr=subprocess.DEVNULL)


def test_killed_at_random_it_loses_and_repeats_nothing(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    rng = np.random.default_rng(0)
    count = 40
    for _ in range(10):
        kept, before = whole_lines(path), begun(log)
        runner = start(log, path, count)
        enough = len(before) + int(rng.integers(1, 4))
        while len(begun(log)) < enough and runner.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        last = json.loads(log.read_text().splitlines()[-1])["process"]
        wait_for_end(last)
        assert whole_lines(path)[: len(kept)] == kept
        assert not {json.loads(line)["job"]["seed"] for line in kept} & set(begun(log)[len(before) :])
    assert 0 < len(whole_lines(path)) < count, "the kills came too early or too late to show anything"
    runner = start(log, path, count)
    assert runner.wait() == 0
    assert squares(path) == {seed: seed**2 for seed in range(count)}


def test_two_runners_do_not_share_a_file(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    runner = start(log, path, 200)
    while not begun(log):
        assert runner.poll() is None
        time.sleep(0.002)
    other = tmp_path / "other"
    with pytest.raises(ValueError, match=r"another runner writes to .*results.jsonl; wait for its end, or choose"):
        run_jobs(EXPERIMENT, [job(other, 0, seconds=0.01)], path)
    assert runner.poll() is None
    assert begun(other) == []
    runner.kill()
    runner.wait()
    cut_torn_line(path)
    run_jobs(EXPERIMENT, [job(other, 0, seconds=0.01)], path)  # the lock ended with its holder
    assert begun(other) == [0]


def whole_lines(path: Path) -> list[str]:
    return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []


def wait_for_end(process: int) -> None:
    """A run ends when its runner was killed; without that, the next runner would meet it at work."""
    for _ in range(1000):
        state = Path(f"/proc/{process}/stat")
        try:
            if " Z " in state.read_text():
                return
        except (FileNotFoundError, ProcessLookupError):  # it may end while it is read
            return
        time.sleep(0.01)
    raise AssertionError(f"process {process} outlived its runner")


def test_a_torn_last_line_is_done_again(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    jobs = [job(log, seed) for seed in range(3)]
    run_jobs(EXPERIMENT, jobs, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.warns(UserWarning, match=r"results.jsonl: the last line is torn.*\"experiment\": \"fake\""):
        assert len(read_results(path)) == 2
    assert path.read_bytes() == whole[:-7], "reading changed the file"
    with pytest.warns(UserWarning, match="torn"):
        run_jobs(EXPERIMENT, jobs, path)
    assert len(begun(log)) == 4
    assert squares(path) == {0: 0, 1: 1, 2: 4}


def test_results_of_another_version_are_used_and_named(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    row = json.loads(result_line("fake", job(log, 0), {"square": 0}))
    append_line(path, json.dumps({**row, "version": "0.0.9"}))
    with pytest.warns(UserWarning, match=r"results.jsonl: 1 results are of textgym 0.0.9"):
        run_jobs(EXPERIMENT, [job(log, 0)], path)
    without = {"job": {**row["job"], "seed": 1, "of_tomorrow": True}, "result": {"square": 1}}
    append_line(path, json.dumps(without))
    with pytest.warns(UserWarning, match=r"0.0.9|unknown"):
        assert squares(path) == {0: 0, 1: 1}
    assert begun(log) == []


def test_a_results_file_of_0_1_0_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(
        '{"experiment": "mini", "version": "0.1.0", "job": {"task": "Reviews", "algorithm": "ppo", "seed": 3, '
        '"arm": {}, "settings": {"tokens": 40000, "beta": 0.05}}, "result": {"after": {"gold": 0.75}, '
        '"curve": [[1000, 0.5], [40000, 0.75]]}}\n'
    )
    monkeypatch.setattr(metadata, "version", lambda _: "0.2.0")
    with pytest.warns(UserWarning, match="1 results are of textgym 0.1.0, this is 0.2.0; they are used as they are"):
        ((read, result),) = read_results(path, "mini")
    assert read == Job("Reviews", "ppo", 3, {}, {"tokens": 40_000, "beta": 0.05})
    assert result == {"after": {"gold": 0.75}, "curve": [[1000, 0.5], [40_000, 0.75]]}


GRPO_THEN = {"n_epochs": 4, "kl_in_loss": True, "clip_range": 0.2, "scale_by_std": True}


def test_a_row_from_before_the_estimators_is_one_of_k3(tmp_path: Path) -> None:
    """The KL in the loss was k3 then, and the deviation had the divisor k: published GRPO, not today's default."""
    path = tmp_path / "results.jsonl"
    old = [Job("Square", name, 0, settings=GRPO_THEN) for name in ("grpo", "gspo", "module:Own")]
    old.append(Job("Square", "ppo", 0, settings={"kl_in_loss": False}))
    old.append(Job("Square", "module:Plain", 0, settings={"kl_in_loss": True}))
    for one in old:
        append_line(path, result_line("fake", one, {"square": 0}))
    grpo, gspo, own, ppo, plain = (job for job, _ in read_results(path))
    then = {**GRPO_THEN, "kl_estimator": "k3", "bessel": False}
    assert [dict(job.settings) for job in (grpo, gspo, own)] == [then] * 3
    assert [job.algorithm for job in (grpo, gspo, own)] == ["grpo-published", "gspo", "module:Own"]
    assert dict(ppo.settings) == {"kl_in_loss": False}
    assert dict(plain.settings) == {"kl_in_loss": True, "kl_estimator": "k3"}
    labels = [job.label for job in (grpo, gspo, own, ppo, plain)]
    assert labels == ["grpo-published", "gspo (k3)", "module:Own (k3)", "ppo", "module:Plain (k3)"]


def test_a_row_of_now_is_called_by_its_algorithm_and_by_another_estimator_than_its_own(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    named = {"exact": "grpo", "k3": "grpo (k3)", "k3-corrected": "grpo (k3-corrected)"}
    for seed, estimator in enumerate(named):
        job = Job("Square", "grpo", seed, {"kl": estimator}, {**GRPO_THEN, "kl_estimator": estimator, "bessel": True})
        append_line(path, result_line("fake", job, {"square": 0}))
    assert [job.label for job, _ in read_results(path)] == [*named.values()]
    assert {job.algorithm for job, _ in read_results(path)} == {"grpo"}


def test_results_of_another_experiment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_line(path, result_line("fake", job("log", 0), {}))
    append_line(path, result_line("mini", job("log", 1), {}))
    with pytest.raises(ValueError, match=r"results.jsonl:2: a result of 'mini'; expected one of 'fake'"):
        read_results(path)
    other = replace(EXPERIMENT, name="mini")
    with pytest.raises(ValueError, match=r"results.jsonl:1: a result of 'fake'; expected one of 'mini'"):
        run_jobs(other, [job("log", 0)], path)


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    run_jobs(EXPERIMENT, [job(log, 0)], path)
    with pytest.raises(
        ValueError, match=r"plain on Square, seed 0, with other settings \(seconds: 0.0 there, 0.5 here"
    ):
        run_jobs(EXPERIMENT, [job(log, 1), job(log, 0, seconds=0.5)], path)
    assert begun(log) == [0], "something ran before the refusal"
    with pytest.raises(ValueError, match="two jobs differ in their settings alone"):
        run_jobs(EXPERIMENT, [job(log, 2), job(log, 2, seconds=0.5)], path)


def test_unequal_budgets_are_refused(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    run_jobs(EXPERIMENT, [job(log, 0)], path)
    told = (
        r"results.jsonl: seconds is 0.0 for plain on Square, seed 0, log \S+, and 0.5 for other on Square, seed 1, log "
        r"\S+; expected the same for all runs"
    )
    with pytest.raises(ValueError, match=told):
        run_jobs(EXPERIMENT, [job(log, 1, "other", seconds=0.5)], path)
    assert begun(log) == [0], "something ran before the refusal"
    without = replace(job(log, 0, "sampled"), settings={"pool": 8})
    run_jobs(EXPERIMENT, [without], path)  # it has no budget that could differ


def test_an_algorithm_has_the_same_settings_for_all_seeds_of_an_arm(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"

    def clipped(seed: int, clip: float, **changes: Any) -> Job:
        return replace(job(log, seed), settings={"seconds": 0.0, "clip": clip}, **changes)

    run_jobs(EXPERIMENT, [clipped(0, 0.1)], path)
    for other in (clipped(1, 0.2), clipped(0, 0.2, task="Cube"), job(log, 1)):
        with pytest.raises(
            ValueError, match=r"clip is 0.1 for plain on Square, seed 0, log \S+, and (0.2|None) for plain"
        ):
            run_jobs(EXPERIMENT, [other], path)
    assert begun(log) == [0]
    arm = {"log": str(log), "β": 1}
    run_jobs(EXPERIMENT, [clipped(0, 0.2, arm=arm), clipped(2, 0.2, algorithm="other"), clipped(3, 0.1)], path)
    assert begun(log) == [0, 0, 2, 3]


def test_a_failed_run_keeps_what_others_did_and_calls_off_those_that_wait(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    jobs = [
        job(log, 1, seconds=0.2),
        job(log, 0, "broken", seconds=0.2),
        *(job(log, seed, seconds=0.2) for seed in range(2, 40)),
    ]
    with pytest.raises(ValueError, match="this run is broken"):
        run_jobs(EXPERIMENT, jobs, path, processes=2)
    started = set(begun(log))
    assert len(started) < 20
    assert set(squares(path)) == started - {0}


@pytest.mark.parametrize("line", ["{", '{"job": 1}', "[]", '{"job": {"task": "a"}, "result": {}}'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{result_line('fake', job('log', 0), {})}\n{line}\n")
    with pytest.raises(
        ValueError, match=r"results.jsonl:2: expected a job and its result, got " + re.escape(repr(line))
    ):
        read_results(path)


def test_two_results_of_one_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for seconds, square in ((0.0, 1), (0.5, 2)):
        append_line(path, result_line("fake", job("log", 0, seconds=seconds), {"square": square, "curve": [[1, 2]]}))
    told = r"jsonl:2: this run has a result above.*differ \(result square: 1 above, 2 here, setting seconds: 0.0 above"
    with pytest.raises(ValueError, match=told):
        read_results(path)


def test_a_line_that_stands_there_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{result_line('fake', job('log', 0), {'square': float('nan')})}\n" * 2)
    ((done, result),) = read_results(path)
    assert done == job("log", 0)
    assert np.isnan(result["square"])


def test_a_file_that_names_no_experiment_has_no_report(tmp_path: Path) -> None:
    empty = tmp_path / "results.jsonl"
    with pytest.raises(FileNotFoundError, match="there is no results file"):
        experiment_of(empty)
    empty.touch()
    with pytest.raises(ValueError, match="no result that names its experiment"):
        experiment_of(empty)
