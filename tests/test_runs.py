"""A run's directory: who may work there, what it replaces, what it was made from, and how it ends early."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults import leftovers, run
from tests.helpers import tiny_gpt2, word_tokenizer
from textgym import files, runs
from textgym.agents import RLOO
from textgym.cli import main
from textgym.files import write_manifest
from textgym.lm.guards import TrainingError, check_trained, moments

pytestmark = pytest.mark.usefixtures("unrendered")

REWARDS = """
import os, pathlib, signal
CALLS = 0
def sevens(completions, **_):
    return [float(t.split().count("w5")) for t in completions]
def raises(completions, **_):
    raise RuntimeError("no service")
def signals(completions, **_):  # as many calls as the file says, then as many signals
    global CALLS
    CALLS += 1
    calls, name, count = pathlib.Path("signal").read_text().split()
    if CALLS == int(calls):
        for _ in range(int(count)):
            os.kill(os.getpid(), getattr(signal, name))
    return sevens(completions)
def huge(completions, **_):
    global CALLS
    CALLS += 1
    return [3e38 if CALLS > 3 else float(len(t)) for t in completions]
"""
TRAIN = [
    *("train", "--model", "model", "--prompts", "prompts.jsonl", "--algorithm", "rloo", "--max-new-tokens", "4"),
    *("--eval-episodes", "4", "--episodes-per-iteration", "8", "--minibatch-size", "4", "--checkpoint-every", "10"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_gpt2(n_layer=1, n_embd=16).save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(6)))
    Path("rewards.py").write_text(REWARDS)
    monkeypatch.setattr("textgym.runs.training.write_report", lambda out: out / "report.html")
    return tmp_path


def train(*flags: str, reward: str = "sevens", tokens: int = 80, out: str = "run") -> None:
    main([*TRAIN, "--reward", f"rewards.py:{reward}", "--total-timesteps", str(tokens), "--out", out, *flags])


def ends(capsys: pytest.CaptureFixture[str], status: int, *flags: str, **settings: Any) -> str:
    """Train, which must end with this status; returns the message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train(*flags, **settings)
    assert stop.value.code == status
    return re.sub(r"\s+", " ", capsys.readouterr().err)


def content(path: str) -> Any:
    return json.loads(Path(path).read_text())


def iterations(out: str) -> list[int]:
    return [json.loads(line)["iteration"] for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def weights(out: str) -> bytes:
    return Path(out, "checkpoint", "model.safetensors").read_bytes()


# --- one process to a directory --------------------------------------------------------------------------------


def hold(out: str, ready: Any) -> None:
    """Hold a run's directory until this process is killed."""
    with runs.held(Path(out), {}, overwrite=False, resume=True):
        ready.send(True)
        signal.pause()


def test_a_second_process_is_refused_and_the_lock_dies_with_the_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tokens=30)
    before = weights("run")
    context = get_context("forkserver")
    ready, theirs = context.Pipe()
    other = context.Process(target=hold, args=(str(place / "run"), theirs))
    other.start()
    assert ready.recv()
    for flags in (["--resume"], ["--overwrite"]):
        assert "out='run' is in use by another process" in ends(capsys, 2, *flags, tokens=60)
    assert weights("run") == before
    other.kill()
    other.join()
    train("--resume", tokens=60)
    assert iterations("run") == sorted(set(iterations("run")))


def test_a_run_that_is_refused_leaves_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends(capsys, 2, "--max-prompt-length", "1", out="deep/er/run")
    assert not Path("deep").exists()


# --- replacing a run -------------------------------------------------------------------------------------------


def everything(out: str) -> dict[str, bytes]:
    files = (path for path in Path(out).rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_the_replaced_run_comes_back_where_the_new_one_never_worked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tokens=30)
    before = everything("run")
    ends(capsys, 1, "--overwrite", reward="raises")
    assert everything("run") == before
    ends(capsys, 2, "--overwrite", "--max-prompt-length", "1")
    assert everything("run") == before
    train("--overwrite", "--seed", "1", tokens=30)
    assert content("run/config.json")["seed"] == 1
    assert leftovers(Path("run")) == []


def test_a_link_a_mount_point_and_the_current_folder_can_be_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them can be renamed; what they hold can."""
    train(tokens=30)
    Path("link").symlink_to("run")
    train("--overwrite", "--seed", "1", tokens=30, out="link")
    assert content("run/config.json")["seed"] == 1
    for name in ("model", "prompts.jsonl", "rewards.py"):
        Path("run", name).symlink_to(place / name)  # inputs are refused inside; links lead out
    assert Path("link").is_symlink()


OVERWRITE = [*TRAIN, "--reward", "rewards.py:sevens", "--total-timesteps", "30", "--out", "run", "--overwrite"]


@pytest.mark.parametrize("fault", ["SIGKILL", "full"])
def test_an_old_run_stands_until_the_new_one_was_evaluated_once(place: Path, fault: str) -> None:
    """At every eighth operation up to there: the old weights are in the directory, and ``--overwrite`` then works."""
    train("--seed", "7", tokens=30)
    shutil.copytree("run", "old")
    whole = run(place, OVERWRITE)
    assert whole.status == 0, whole.text
    new = weights("run")
    first = next(i for i, name in enumerate(whole.operations, 1) if "os.rename run/.evaluation.json" in name)
    for at in range(1, first + 1, 8):
        shutil.rmtree("run")
        shutil.copytree("old", "run")
        run(place, OVERWRITE, fault, at)
        kept = [path.read_bytes() for path in Path("run").rglob("model.safetensors")]
        assert weights("old") in kept, f"operation {at}: {whole.operations[at - 1]}"
        again = run(place, OVERWRITE)
        assert again.status == 0, again.text
        assert (weights("run"), leftovers(Path("run"))) == (new, [])


# --- inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["prompts.jsonl", "rewards.py", "model/model.safetensors"])
def test_resume_refuses_inputs_that_have_changed(place: Path, capsys: pytest.CaptureFixture[str], changed: str) -> None:
    train(tokens=30)
    assert set(content("run/config.json")["inputs"]) == {"prompts.jsonl", "rewards.py", "model"}
    os.utime(changed, (1, 1))  # an older date is no other content
    train("--resume", tokens=30)
    if changed.endswith("safetensors"):
        tensors = load_file(changed)
        tensors["transformer.wte.weight"] += 1
        save_file(tensors, changed, metadata={"format": "pt"})
    else:
        with open(changed, "a") as file:
            file.write("\n")
    said = ends(capsys, 2, "--resume", tokens=30)
    assert f"{changed.split('/')[0]!r} (SHA-256 " in said
    assert "has changed since the run began" in said


def test_a_reward_model_and_a_module_are_inputs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textgym.runs.inputs import named_paths

    monkeypatch.syspath_prepend(str(place))
    Path("my_rewards.py").write_text(REWARDS)
    Path("judge,v2").mkdir()
    found = named_paths({"reward": "rm:judge,v2,0.5 my_rewards:sevens gold,2", "model": "model", "value": "trunk"})
    assert found == [Path("judge,v2"), place / "my_rewards.py", Path("model")]
    Path("trunk").mkdir()  # a folder of that name is not what the setting says
    assert named_paths({"value": "trunk", "pretraining": "mini", "algorithm": "model"}) == []


# --- going on for longer ---------------------------------------------------------------------------------------


def test_more_tokens_are_allowed_on_resume_and_the_rate_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--learning-rate", "0.01", "--warmup-iterations", "0", tokens=60)
    done = iterations("run")[-1]
    tokens = content("run/checkpoint/training/state.json")["counters"]["num_timesteps"]
    assert tokens >= 60
    capsys.readouterr()
    flags = ("--resume", "--learning-rate", "0.01", "--warmup-iterations", "0")
    train(*flags, tokens=200)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    rate = 0.01 * (1 - tokens / 200)
    assert f"60 tokens in all become 200, of which {tokens} are done" in said
    assert f"continues at {rate:.3g} instead of 0," in said
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[done]["train/learning_rate"] == pytest.approx(rate)
    assert iterations("run") == list(range(1, len(rows) + 1))
    assert content("run/config.json")["total_timesteps"] == 200
    assert content("run/config.json")["extended_from"] == [60]
    train(*flags, tokens=200)  # which is no other setting
    assert "total_timesteps may grow, not shrink" in ends(capsys, 2, *flags, tokens=100)


# --- signals ---------------------------------------------------------------------------------------------------


@contextmanager
def untouched_handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_keeps_the_last_complete_iteration(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, status: int
) -> None:
    """Long before the next periodic checkpoint: every tenth iteration. Call 1 is of the evaluation before."""
    Path("signal").write_text("1000 SIGTERM 1")
    train(reward="signals", tokens=150, out="whole")
    Path("signal").write_text(f"4 {name} 1")
    with untouched_handlers():
        said = ends(capsys, status, reward="signals", tokens=150)
    assert f"{name}: the run was stopped; what was complete is in 'run', and --resume goes on from there" in said
    assert content("run/checkpoint/training/state.json")["counters"]["iteration"] == len(iterations("run")) == 3
    assert leftovers(Path("run")) == []
    assert "after" not in content("run/evaluation.json")
    Path("signal").write_text("1000 SIGTERM 1")
    train("--resume", reward="signals", tokens=150)
    assert weights("run") == weights("whole")
    assert content("run/evaluation.json") == content("whole/evaluation.json")


def test_a_signal_that_is_ignored_stays_ignored(place: Path) -> None:
    """As SIGINT is in what a shell runs in the background."""
    Path("signal").write_text("3 SIGINT 1")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(reward="signals", tokens=80)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "after" in content("run/evaluation.json")


def test_a_second_signal_ends_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("signal").write_text("3 SIGTERM 2")
    ends(capsys, 143, reward="signals", tokens=150)
    assert not Path("run/checkpoint").exists()  # of the iterations before, none was to be kept
    assert len(iterations("run")) == 1


def test_a_signal_outside_of_training_ends_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("signal").write_text("1 SIGTERM 1")
    assert "SIGTERM" in ends(capsys, 143, reward="signals")
    Path("signal").write_text("1000 SIGTERM 1")
    train("--resume", reward="signals")
    assert leftovers(Path("run")) == []


# --- numbers that are not finite -------------------------------------------------------------------------------


def test_training_that_diverges_keeps_the_last_checkpoint_the_reason_and_the_batch(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.jsonl").write_text('{"prompt": "w9 w9"}\n{"prompt": "w8 w8"}\n')  # fewer, and others
    flags = ("--beta", "0", "--checkpoint-every", "1", "--algorithm", "ppo", "--validation", "other.jsonl")
    said = ends(capsys, 1, *flags, reward="huge", tokens=400)
    stopped = content("run/stopped.json")
    assert "training diverged" in stopped["reason"]
    assert stopped["reason"] in said
    assert stopped["iteration"] == len(iterations("run")) + 1
    rows = [json.loads(line) for line in Path("run/stopped_batch.jsonl").read_text().splitlines()]
    assert len(rows) == 8  # the iteration's responses
    assert all(math.isclose(sum(row["rewards"]), 3e38, rel_tol=1e-3) for row in rows)
    asked = {json.loads(line)["prompt"] for line in Path("prompts.jsonl").read_text().splitlines()}
    assert {row["prompt"] for row in rows} <= asked  # those that were trained on, not those that are measured on
    assert all(len(row["ids"]) == len(row["log_probs"]) == len(row["rewards"]) for row in rows)
    saved = load_file("run/checkpoint/model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_moments_of_the_optimiser_are_never_saved_broken() -> None:
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    check_trained(layer, 0.1, optimizer)
    next(iter(moments(optimizer))).fill_(math.inf)
    with pytest.raises(TrainingError, match="not finite"):
        check_trained(layer, 0.1, optimizer)


@pytest.mark.parametrize("command", ["sft", "dpo", "kto", "reward-model"])
def test_what_learns_from_files_stops_with_its_batch(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textgym.commands.learner.write_report", lambda out: out / "report.html")
    prompts = [{"prompt": f"w{i} w{i + 1}"} for i in range(12)]
    answers = {"completion": "w5 w7"} if command == "sft" else {"chosen": "w7", "rejected": "w3"}
    kept = [{**row, **answers} for row in prompts]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    own = ["--eval-episodes", "4", "--max-new-tokens", "4"] if command != "reward-model" else []
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *(command, "--model", "model", "--data", "data.jsonl", "--out", "run", "--epochs", "4"),
                *("--batch-size", "2", "--learning-rate", "1e30", *own),
            ]
        )
    assert stop.value.code == 1
    assert "diverged" in capsys.readouterr().err
    stopped = content("run/stopped.json")
    assert "diverged" in stopped["reason"]
    assert stopped["iteration"] == (None if command == "reward-model" else 1)
    assert "stopped" in Path("run/report.html").read_text().partition("</title>")[0]
    batch = [json.loads(line) for line in Path("run/stopped_batch.jsonl").read_text().splitlines()]
    assert len(batch) == 2
    assert not Path("run/checkpoint").exists()


@pytest.mark.parametrize("command", ["sft", "dpo", "kto"])
def test_divergence_in_the_last_step_is_found_too(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step an epoch: its loss is finite, and the weights after it are not."""
    monkeypatch.setattr("textgym.commands.learner.write_report", lambda out: out / "report.html")
    answers = {"completion": "w5 w7"} if command == "sft" else {"chosen": "w7", "rejected": "w3"}
    rows = [{"prompt": f"w{i} w{i + 1}", **answers} for i in range(9)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--epochs", "1", "--batch-size", "16", "--learning-rate", "1e30", "--eval-episodes", "4"]
    with pytest.raises(SystemExit) as stop:
        main([command, "--model", "model", "--data", "data.jsonl", "--out", "run", "--max-new-tokens", "4", *flags])
    assert stop.value.code == 1
    assert "diverged" in capsys.readouterr().err
    assert "diverged" in content("run/stopped.json")["reason"]
    assert len(Path("run/stopped_batch.jsonl").read_text().splitlines()) == (
        16 if command == "kto" else 8
    )  # a tenth is held out


# --- damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluation.json", '{"before" '),
        ("evaluation.json", "[" * 200_000),
        ("evaluation.json", "[1]"),
        ("samples.jsonl", "[" * 200_000 + "\n"),
        ("samples.jsonl", "[1]\n"),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", '{"iteration": 1}\n{"iteration": 7}\n'),
        ("metrics.jsonl", '{"iteration": 1}\n{"itera'),
        ("checkpoint/training/state.json", "{}"),
        ("checkpoint/manifest.json", "[]"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    train(tokens=60)
    assert len(iterations("run")) >= 2
    Path("run", name).write_text(text)
    assert name in ends(capsys, 2, "--resume", tokens=60)


def test_a_half_written_line_after_the_checkpoint_is_cut(place: Path) -> None:
    train(tokens=60)
    whole = Path("run/metrics.jsonl").read_text()
    Path("run/metrics.jsonl").write_text(whole + '{"iteration": 3, "rollo')
    train("--resume", tokens=60)
    assert Path("run/metrics.jsonl").read_text() == whole


def test_a_planted_checkpoint_that_is_not_whole_is_not_taken(place: Path) -> None:
    train(tokens=30)
    before = weights("run")
    shutil.move("run/checkpoint", "run/.checkpoint.0123abcd.scratch")
    Path("run/.checkpoint.0123abcd.scratch/manifest.json").unlink()
    inner = Path("run/.checkpoint.0123abcd.scratch")
    shutil.move(str(inner), "inner")
    inner.mkdir()
    shutil.move("inner", inner / "new")
    train("--resume", tokens=30)  # begins anew
    assert weights("run") == before
    write_manifest(Path("run/checkpoint"))
    assert leftovers(Path("run")) == []


# --- readers beside the run, and ends of runs that replace others ----------------------------------------------


def test_reading_a_checkpoint_while_it_is_replaced_disturbs_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--checkpoint-every", "1", out="alone")
    write, read = files.write_manifest, []

    def read_meanwhile(directory: Path) -> None:
        if Path("run/checkpoint").is_dir():
            read.append(RLOO.load("run/checkpoint").iteration)
        write(directory)

    monkeypatch.setattr("textgym.files.write_manifest", read_meanwhile)
    train("--checkpoint-every", "1")
    assert read == list(range(1, len(read) + 1))
    assert read
    assert weights("run") == weights("alone")
    assert leftovers(Path("run")) == []


ABOUT = {"command": "train", "seed": 1}


def begun(*, samples: bool, overwrite: bool = True, resume: bool = False, begin: bool = True) -> BaseException:
    """Hold the directory, begin a run, perhaps draw its first samples, and fail; returns the failure."""

    def fail() -> None:
        with runs.held(Path("run"), ABOUT, overwrite, resume):
            if begin:
                runs.begin_run(Path("run"), ABOUT, overwrite)
            if samples:
                Path("run/stage").mkdir()
                Path("run/stage/samples.jsonl").write_text("{}\n")
            raise ValueError("a typing error")

    with pytest.raises(ValueError, match="a typing error") as failed:
        fail()
    return failed.value


def test_a_new_run_that_has_measured_something_is_kept(place: Path) -> None:
    with runs.held(Path("run"), ABOUT, overwrite=False, resume=False):
        runs.begin_run(Path("run"), {**ABOUT, "seed": 0})
    assert "has been restored" in "".join(begun(samples=False).__notes__)
    assert content("run/config.json")["seed"] == 0
    assert not hasattr(begun(samples=False, begin=False), "__notes__")  # nothing was moved
    assert not hasattr(begun(samples=True), "__notes__")
    assert content("run/config.json")["seed"] == 1
    assert leftovers(Path("run")) == []


def test_a_resumed_run_never_goes_for_the_one_that_it_replaces(place: Path) -> None:
    with runs.held(Path("run"), ABOUT, overwrite=False, resume=False):
        runs.begin_run(Path("run"), {**ABOUT, "seed": 0})
    with runs.held(Path("run"), ABOUT, overwrite=True, resume=False):
        runs.begin_run(Path("run"), ABOUT, overwrite=True)  # as after a kill, the older one lies beside it
    Path("run/to_label.jsonl").write_text("years of work")
    begun(samples=False, overwrite=False, resume=True, begin=False)
    begun(samples=False, overwrite=False, resume=True)  # a pipeline writes its settings again
    assert Path("run/to_label.jsonl").read_text() == "years of work"
    assert content("run/.replaced/config.json")["seed"] == 0


def test_a_signal_before_anything_is_measured_says_which_run_stands(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tokens=30)
    Path("signal").write_text("1 SIGTERM 1")
    said = ends(capsys, 143, "--overwrite", reward="signals")
    assert "stopped before it had measured anything; the run that was to be replaced has been restored in 'run'" in said
    assert content("run/config.json")["reward"] == "rewards.py:sevens"


def test_a_run_that_trains_on_has_no_result_of_its_end_yet(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("signal").write_text("1000 SIGTERM 1")
    train(reward="signals", tokens=60)
    assert {"before", "after"} <= set(content("run/evaluation.json"))
    Path("signal").write_text("1 SIGTERM 1")
    ends(capsys, 143, "--resume", reward="signals", tokens=400)
    assert "after" not in content("run/evaluation.json")
    stages = {json.loads(line)["stage"] for line in Path("run/samples.jsonl").read_text().splitlines()}
    assert stages == {"before"}
