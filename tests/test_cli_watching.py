"""A run that keeps and tells while it trains: evaluations, checkpoints, early stopping, and services for metrics."""

from __future__ import annotations

import importlib.machinery
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.agents.loop import callbacks
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.kept import numbered, saved_iteration
from textgym.cli import main
from textgym.reports.run import write_report
from textgym.runs import printed_warnings
from textgym.runs.loggers import Samples, run_name
from textgym.runs.services import check_services

REWARD = """
def sevens(completions, **kwargs):
    return [float(text.split().count("w7")) for text in completions]


def constant(completions, **kwargs):
    return [0.5 for _ in completions]
"""
TRAIN = [
    *("train", "--model", "model", "--prompts", "prompts.jsonl", "--max-new-tokens", "6", "--eval-episodes", "8"),
    *("--episodes-per-iteration", "8", "--minibatch-size", "4", "--warmup-iterations", "0"),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model with its tokenizer, prompts, data, and a file of rewards."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_DIR", "WANDB_MODE", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    tiny_gpt2().save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    prompts = [f"w{i} w{i + 1}" for i in range(8)]
    write("prompts.jsonl", [{"prompt": prompt} for prompt in prompts])
    write("shown.jsonl", [{"prompt": prompt, "completion": "w5 w7"} for prompt in prompts])
    write("pairs.jsonl", [{"prompt": prompt, "chosen": " w7 w7", "rejected": " w3"} for prompt in prompts])
    Path("rewards.py").write_text(REWARD)
    for module in ("runs.training", "commands.learner", "commands.reward_model"):
        monkeypatch.setattr(f"textgym.{module}.write_report", lambda out: out / "report.html")
    monkeypatch.setattr("textgym.commands.pipeline.command.write_pipeline_report", lambda out: out / "report.html")
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(*flags: str, out: str = "run", tokens: int = 300, every: int = 2, reward: str = "sevens") -> None:
    settings = ["--reward", f"rewards.py:{reward}", "--total-timesteps", str(tokens), "--checkpoint-every", str(every)]
    main([*TRAIN, *settings, "--out", out, *flags])


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def content(path: str) -> Any:
    return json.loads(Path(path).read_text())


class KilledError(BaseException):
    """As if the process died: nothing but ``finally`` runs."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains as ``train`` does, and is killed before its nth checkpoint is saved."""

    def run(nth: int, *flags: str, **settings: Any) -> None:
        saves = iter(range(1, 1000))
        save = SequenceAlgorithm.save

        def saved(self: Any, *where: Any) -> None:
            if next(saves) == nth:
                raise KilledError
            save(self, *where)

        with monkeypatch.context() as patched:
            patched.setattr(SequenceAlgorithm, "save", saved)
            with pytest.raises(KilledError):
                train(*flags, **settings)

    return run


# --- evaluations and checkpoints ---------------------------------------------------------------------------------

KEEPING = ["--eval-every", "2", "--keep-last", "2", "--keep-best", "score"]


def test_what_is_kept_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    train(*KEEPING)
    printed = capsys.readouterr().out
    evaluations, metrics = rows("run/validation.jsonl"), rows("run/metrics.jsonl")
    last = metrics[-1]["iteration"]
    assert [row["iteration"] for row in evaluations] == sorted({0, *range(2, last, 2), last})
    tokens = {0: 0.0, **{row["iteration"]: row["time/total_timesteps"] for row in metrics}}
    assert all(row["time/total_timesteps"] == tokens[row["iteration"]] for row in evaluations)
    assert [row["iteration"] for row in metrics] == list(range(1, last + 1))  # evaluations left no row there
    measured = content("run/evaluation.json")
    for stage, row in (("before", evaluations[0]), ("after", evaluations[-1])):
        for name, found in measured[stage].items():
            assert (row[f"validation/{name}"], row[f"validation/{name}_sem"]) == (found["mean"], found["sem"])
    best = max(evaluations[1:], key=lambda row: (row["validation/score"], -row["iteration"]))
    note = content("run/best/best.json")
    assert (note["iteration"], note["mean"]) == (best["iteration"], best["validation/score"])
    before = measured["before"]["score"]["mean"]
    assert f"best:       run/best (iteration {note['iteration']}, score {note['mean']:.3f} ±" in printed
    assert f"before training {before:.3f}" in printed
    assert list(numbered(Path("run/checkpoints"))) == list(range(2, last + 1, 2))[-2:]
    page = write_report(Path("run")).read_text()
    assert "On validation prompts" in page
    assert "stopped early" not in page
    assert f"best kept <b>iteration {note['iteration']} (score" in page


def test_the_policy_is_the_same_with_and_without_what_watches() -> None:
    train(out="plain")
    train(*KEEPING, "--stop-score", "1000", out="watched")
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        assert Path("plain/checkpoint", name).read_bytes() == Path("watched/checkpoint", name).read_bytes()
    timed = {"time/fps", "time/time_elapsed"}
    plain, watched = (
        [{name: value for name, value in row.items() if name not in timed} for row in rows(f"{run}/metrics.jsonl")]
        for run in ("plain", "watched")
    )
    assert plain == watched
    assert content("plain/evaluation.json") == content("watched/evaluation.json")


def test_a_killed_run_ends_as_one_that_was_not(cut: Any) -> None:
    flags = [*KEEPING, "--stop-patience", "50"]
    train(*flags, out="whole", every=3)
    kept = [path.name for path in Path("whole/checkpoints").iterdir()]
    for nth in (1, 2, 3):
        out = f"cut-{nth}"
        cut(nth, *flags, out=out, every=3)
        train(*flags, "--resume", out=out, every=3)
        for name in ("validation.jsonl", "evaluation.json", "samples.jsonl", "best/best.json"):
            assert Path(out, name).read_bytes() == Path("whole", name).read_bytes()
        for place in ("checkpoint", "best", *(f"checkpoints/{name}" for name in kept)):
            assert content(f"{out}/{place}/manifest.json") == content(f"whole/{place}/manifest.json")
        assert sorted(p.name for p in Path(out).iterdir()) == sorted(p.name for p in Path("whole").iterdir())


def test_copies_that_a_kill_after_the_last_checkpoint_prevented_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--eval-every", "1", "--keep-last", "1", "--keep-best", "kl"]  # which is highest after the last iteration
    train(*flags, out="whole", tokens=80, every=1)
    with monkeypatch.context() as patched:
        copy = callbacks.copy_checkpoint

        def cut(source: Path, target: Path, note: Any = None) -> None:
            if saved_iteration(source) == saved_iteration(Path("whole/checkpoint")):
                raise KilledError
            copy(source, target, note)

        patched.setattr(callbacks, "copy_checkpoint", cut)
        with pytest.raises(KilledError):
            train(*flags, tokens=80, every=1)
    train(*flags, "--resume", tokens=80, every=1)
    assert [p.name for p in Path("run/checkpoints").iterdir()] == [p.name for p in Path("whole/checkpoints").iterdir()]
    assert content("run/best/best.json") == content("whole/best/best.json")
    assert content("run/best/manifest.json") == content("whole/best/manifest.json")


def test_a_damaged_file_of_evaluations_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    train("--eval-every", "1", tokens=80)
    kept = Path("run/validation.jsonl").read_text().splitlines(keepends=True)
    command = [*TRAIN, "--reward", "rewards.py:sevens", "--total-timesteps", "80", "--checkpoint-every", "2"]
    command += ["--eval-every", "1", "--out", "run", "--resume"]
    Path("run/validation.jsonl").write_text("".join([kept[0], *kept[2:]]))
    assert "validation.jsonl is damaged: the evaluation after iteration 1 is missing" in fails(capsys, *command)
    Path("run/validation.jsonl").write_text("".join(kept)[:-20])
    assert f"validation.jsonl, line {len(kept)} is not JSON" in fails(capsys, *command)


def test_the_best_and_the_numbered_are_models_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    train(*KEEPING, tokens=150)
    name = next(Path("run/checkpoints").iterdir()).name
    for source in ("run/best", f"run/checkpoints/{name}"):
        main(["generate", "--model", source, "--prompt", "w1 w2", "--max-new-tokens", "4"])
        assert "w1 w2" in capsys.readouterr().out
    settings = [flag if flag != "model" else "run/best" for flag in TRAIN]
    main([*settings, "--reward", "length", "--total-timesteps", "30", "--out", "on"])
    assert content("on/config.json")["model"] == "run/best"
    assert content("on/evaluation.json")["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--keep-best", "score"], "keep_best=score looks at evaluations, and there are none; pass --eval-every"),
        (["--stop-score", "1"], "stop_score=1.0 looks at evaluations"),
        (["--stop-kl", "1"], "stop_kl=1.0 looks at evaluations"),
        (["--stop-patience", "1"], "stop_patience=1 looks at evaluations"),
        (
            ["--eval-every", "2", "--keep-best", "gold"],
            "keep_best='gold' is not measured; expected one of score, kl, l",
        ),
        (["--eval-every", "0"], "eval_every=0; expected a whole number, at least 1"),
        (["--keep-last", "0"], "keep_last=0; expected a whole number, at least 1"),
        (["--eval-every", "2", "--stop-kl", "0"], "stop_kl=0.0; expected a finite number, more than 0"),
        (["--eval-every", "2", "--stop-score", "nan"], "stop_score=nan; expected a finite number"),
        (["--eval-every", "2", "--stop-patience", "0"], "stop_patience=0; expected a whole number, at least 1"),
    ],
)
def test_settings_without_meaning_are_refused_before_work(
    capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert said in fails(capsys, *TRAIN, "--reward", "rewards.py:sevens", "--out", "run", *flags)
    assert not Path("run").exists()


# --- early stopping ----------------------------------------------------------------------------------------------

PATIENT = ["--eval-every", "1", "--keep-last", "1", "--stop-patience", "2"]


def test_a_run_that_stopped_early_says_so_and_goes_on_only_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    train(*PATIENT, reward="constant")
    reason = (
        "score on validation prompts was no better than at iteration 1 in 2 evaluations in a row, the last at "
        "iteration 3 (stop_patience=2)"
    )
    assert f"stopped early: {reason}" in capsys.readouterr().out
    assert saved_iteration(Path("run/checkpoint")) == len(rows("run/metrics.jsonl")) == 3
    assert content("run/evaluation.json")["stopped_early"] == reason
    assert f"Training stopped early: {reason}" in write_report(Path("run")).read_text()
    before = Path("run/checkpoint/model.safetensors").read_bytes()

    train(*PATIENT, "--resume", reward="constant")
    assert f"the run stopped early, as {reason}; to train on, pass another --stop-" in capsys.readouterr().out
    assert Path("run/checkpoint/model.safetensors").read_bytes() == before
    assert content("run/evaluation.json")["stopped_early"] == reason

    train(*PATIENT[:4], "--resume", reward="constant")
    train(*PATIENT[:4], out="whole", reward="constant")
    assert "stopped_early" not in content("run/evaluation.json")
    assert content("run/config.json")["stop_patience"] is None
    for name in ("validation.jsonl", "evaluation.json", "checkpoint/model.safetensors"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()


def test_what_may_and_what_may_not_be_other_when_a_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    train("--eval-every", "2", "--keep-best", "score", tokens=100)
    command = [*TRAIN, "--reward", "rewards.py:sevens", "--total-timesteps", "100", "--checkpoint-every", "2"]
    said = fails(capsys, *command, "--out", "run", "--resume", "--eval-every", "3", "--keep-best", "min-kl")
    assert "eval_every: 2 there, 3 here, keep_best: 'score' there, 'min-kl' here" in said
    train("--keep-last", "3", "--resume", tokens=100)  # what is left out is as the run began
    assert content("run/config.json")["keep_last"] == 3
    assert content("run/config.json")["eval_every"] == 2


def test_fine_tuning_stops_early_and_keeps_its_best_epoch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sft", "--model", "model", "--data", "shown.jsonl", "--epochs", "6", "--eval-episodes", "4"]
    command += ["--max-new-tokens", "4", "--reward", "rewards.py:constant", "--stop-patience", "2"]
    main([*command, "--out", "whole"])
    reason = "score on validation prompts was no better than at epoch 1 in 2 evaluations in a row, the last at epoch 3"
    assert f"stopped early: {reason} (stop_patience=2)" in capsys.readouterr().out
    assert content("whole/kept.json") == {"epoch": 1, "by": "score"}
    assert [row["iteration"] for row in rows("whole/metrics.jsonl")] == [0, 1, 2, 3]
    with monkeypatch.context() as patched:
        patched.setattr("textgym.commands.sft.save_learned", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            main([*command, "--out", "parts"])
    main([*command, "--out", "parts", "--resume"])  # which trains no further epoch
    for name in ("metrics.jsonl", "evaluation.json", "kept.json", "checkpoint/model.safetensors"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes()
    assert "stop_patience=0; expected a whole number, at least 1" in fails(capsys, *command[:-1], "0", "--out", "none")


# --- services ----------------------------------------------------------------------------------------------------


class FakeService(ModuleType):
    """Has what our code calls of W&B's and Trackio's clients, and keeps what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self.mode, self.key = "online", True
        self.broken = ""

    def setup(self) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        return self.key

    def init(self, **settings: Any) -> Any:
        if self.broken == "init":
            raise ConnectionError("no network")
        self.begun.append(settings)
        self.step = self._next_step = max((step for step, _ in self.logged), default=-1) + 1
        return self

    def log(self, values: dict[str, Any], *, step: int) -> None:
        if self.broken == "log":
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self, exit_code: int = 0) -> None:
        self.finished += 1
        self.exit_code = exit_code

    @staticmethod
    def Table(columns: list[str], data: list[list[Any]]) -> Any:  # noqa: N802
        return columns, data

    def numbers(self) -> list[tuple[int, dict[str, float]]]:
        """Return what was logged but tables, in order."""
        kept = [(step, {k: v for k, v in values.items() if "samples" not in k}) for step, values in self.logged]
        return [(step, values) for step, values in kept if values]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeService]:
    made = {name: FakeService(name) for name in ("wandb", "trackio")}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def expected(run: str) -> list[tuple[int, dict[str, float]]]:
    """Every row of a run's files, with its step, in order."""
    kept = [*rows(f"{run}/metrics.jsonl"), *rows(f"{run}/validation.jsonl")]
    kept.sort(key=lambda row: (row["time/total_timesteps"], "validation/score" in row))
    told = []
    for row in kept:
        step = int(row["time/total_timesteps"])
        left_out = ("iteration", *(("time/total_timesteps",) if "validation/score" in row else ()))
        told.append((step, {name: value for name, value in row.items() if name not in left_out}))
    return told


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_what_the_files_keep(services: dict[str, FakeService], name: str) -> None:
    train("--log", name, "--eval-every", "2", "--seed", "3", tokens=150)
    service = services[name]
    assert service.numbers() == expected("run")
    (begun,) = service.begun
    id = content("run/loggers.json")["id"]
    assert (begun["project"], begun["resume"]) == ("textgym", "allow")
    assert begun["config"] == content("run/config.json")
    assert begun["config"]["seed"] == 3
    assert (begun["name"], begun.get("id")) == (("run", id) if name == "wandb" else (f"run-{id}", None))
    tables = {key: values[key] for _, values in service.logged for key in values if key.startswith("samples/")}
    assert list(tables) == ["samples/before", "samples/after"]
    columns, data = tables["samples/after"]
    after = [row for row in rows("run/samples.jsonl") if row["stage"] == "after"]
    assert [dict(zip(columns, cells, strict=True)) for cells in data] == [{c: row[c] for c in columns} for row in after]
    assert service.finished == 1
    assert not [module.begun for module in services.values() if module is not service and module.begun]


def test_variables_of_the_clients_win(services: dict[str, FakeService], monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"WANDB_PROJECT": "thesis", "WANDB_NAME": "chapter 3", "WANDB_RUN_ID": "abc", "TRACKIO_PROJECT": "x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    train("--log", "wandb", "trackio", tokens=30)
    begun = services["wandb"].begun[0]
    assert (begun["project"], begun["name"], begun["id"]) == ("thesis", "chapter 3", "abc")
    assert services["trackio"].begun[0]["project"] == "x"


@pytest.mark.parametrize("lost", [0, 3, 9])
def test_a_resumed_run_goes_on_in_its_services(services: dict[str, FakeService], cut: Any, lost: int) -> None:
    flags = ["--log", "wandb", "trackio", "--eval-every", "2"]
    cut(3, *flags)  # with two iterations after the second checkpoint
    assert [service.exit_code for service in services.values()] == [1, 0]  # Trackio knows no failure
    assert len(rows("run/metrics.jsonl")) > (saved_iteration(Path("run/checkpoint")) or 0)
    trackio = services["trackio"]
    del trackio.logged[len(trackio.logged) - lost :]  # which it had in memory only; W&B has a process of its own
    train(*flags, "--resume")
    for service in services.values():
        assert [begun["name"] for begun in service.begun] == [service.begun[0]["name"]] * 2
        # Iterations that were done again are not told again; but for times, they are the same.
        found = [(step, sorted(values)) for step, values in service.numbers()]
        assert found == [(step, sorted(values)) for step, values in expected("run")]
        assert (service.finished, service.exit_code) == (2, 0)


@pytest.mark.parametrize("broken", ["init", "log"])
def test_a_service_that_fails_does_not_end_the_run(
    services: dict[str, FakeService], capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    services["wandb"].broken = broken
    train("--log", "wandb", "trackio", "--eval-every", "2", tokens=100)
    said = capsys.readouterr().err
    assert said.count("warning: log=wandb: ConnectionError: no network") == 1
    assert services["trackio"].numbers() == expected("run")


def test_a_package_that_is_missing_is_named_before_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    command = [*TRAIN, "--reward", "length", "--out", "run", "--log", "trackio"]
    assert "log=trackio: the package trackio is not installed; pip install 'textgym[trackio]'" in fails(
        capsys, *command
    )
    assert not Path("run").exists()
    assert "tensorboard, wandb, trackio" in re.sub("['{}]", "", fails(capsys, *command[:-1], "mlflow")).replace(
        "|", ", "
    )


def test_wandb_without_a_key_is_told_how_before_work(
    services: dict[str, FakeService], capsys: pytest.CaptureFixture[str]
) -> None:
    services["wandb"].key = False
    said = fails(capsys, *TRAIN, "--reward", "length", "--out", "run", "--log", "wandb")
    assert "no API key is configured" in said
    assert all(way in said for way in ("wandb login", "WANDB_API_KEY", "WANDB_MODE=offline"))
    assert not Path("run").exists()
    services["wandb"].mode = "offline"
    check_services(["wandb"])


def test_fine_tuning_dpo_and_reward_models_tell_their_rows(services: dict[str, FakeService]) -> None:
    short = ["--eval-episodes", "4", "--max-new-tokens", "4"]
    commands = {
        "sft": ["--data", "shown.jsonl", "--epochs", "2", *short],
        "dpo": ["--data", "pairs.jsonl", "--epochs", "2", *short],
        "kto": ["--data", "pairs.jsonl", "--epochs", "2", *short],
        "reward-model": ["--data", "pairs.jsonl", "--heldout", "0.25", "--batch-size", "2", "--epochs", "2"],
    }
    for command, flags in commands.items():
        service = services["wandb"]
        service.logged.clear()
        main([command, "--model", "model", *flags, "--out", command, "--log", "wandb"])
        told = [(row.pop("iteration"), row) for row in rows(f"{command}/metrics.jsonl")]
        assert len(told) > 2
        found = service.numbers()
        assert found[: len(told)] == told
        if command == "reward-model":
            evaluation = content("reward-model/evaluation.json")
            last = {f"validation/{name}": evaluation[name] for name in ("loss", "accuracy")}
            assert found[len(told) :] == [(told[-1][0], last)]
        else:
            tables = [name for _, values in service.logged for name in values if name.startswith("samples/")]
            assert tables == ["samples/before", "samples/after"]
            assert len(found) == len(told)
        assert service.begun[-1]["name"] == command
    assert services["wandb"].finished == len(commands)


def test_an_ensemble_tells_its_means(services: dict[str, FakeService]) -> None:
    flags = ["--data", "pairs.jsonl", "--heldout", "0.25", "--batch-size", "3", "--ensemble", "2"]
    main(["reward-model", "--model", "model", *flags, "--out", "rm", "--log", "trackio"])
    told = [(row.pop("iteration"), row) for row in rows("rm/metrics.jsonl")]
    assert services["trackio"].numbers()[: len(told)] == told
    assert "train/loss_member_1" in told[0][1]


def test_epochs_that_are_done_again_are_not_told_again(
    services: dict[str, FakeService], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sft", "--model", "model", "--data", "shown.jsonl", "--epochs", "3", "--eval-episodes", "4"]
    command += ["--max-new-tokens", "4", "--out", "run", "--log", "wandb"]
    with monkeypatch.context() as patched:
        patched.setattr("textgym.commands.sft.save_learned", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            main(command)
    main([*command, "--resume"])
    steps = [step for step, _ in services["wandb"].numbers()]
    assert steps == [row["iteration"] for row in rows("run/metrics.jsonl")]


SMALL = {"episodes_per_iteration": 8, "minibatch_size": 4}


def test_a_pipeline_passes_it_to_its_stages(services: dict[str, FakeService]) -> None:
    loop = {
        "model": "model",
        "prompts": "prompts.jsonl",
        "validation": "prompts.jsonl",
        "max_new_tokens": 6,
        "eval_episodes": 4,
        "log": ["wandb"],
        "sft": {"demonstrations": "shown.jsonl", "epochs": 1, "batch_size": 4},
        "labels": {"labeller": "rewards.py:sevens", "prompts": 6, "completions": 3},
        "reward_model": {"heldout": 0.25, "batch_size": 4},
        "train": {**SMALL, "total_timesteps": 400, "eval_every": 1, "stop_kl": 1e-9},
    }
    Path("loop.yaml").write_text(yaml.safe_dump(loop))
    main(["pipeline", "loop.yaml", "--out", "runs/mine"])
    names = [begun["name"] for begun in services["wandb"].begun]
    assert names == ["mine/sft", "mine/iteration-1/reward_model", "mine/iteration-1/policy"]
    policy = "runs/mine/iteration-1/policy"
    assert len(rows(f"{policy}/metrics.jsonl")) == 1
    assert "stop_kl" in content(f"{policy}/evaluation.json")["stopped_early"]


def test_the_name_of_a_run(place: Path) -> None:
    write("config.json", [{}])  # of something else, above
    (place / "a" / "b").mkdir(parents=True)
    assert run_name(Path("a/b")) == f"{place.name}/a/b"
    Path("config.json").unlink()
    assert run_name(Path("a/b")) == "b"
    write("a/config.json", [{}])
    assert run_name(Path("a/b/../b")) == "a/b"


def test_a_table_of_samples_as_text() -> None:
    row = {"prompt": "a|b\nc", "completion": "d", "score": 0.5, "kl": 1.0, "finish_reason": "stop", "tokens": []}
    assert Samples([row]).markdown().split("\n") == [
        "| prompt | completion | score | kl | finish_reason |",
        "| --- | --- | --- | --- | --- |",
        "| a\\|b c | d | 0.5 | 1.0 | stop |",
    ]


def test_other_warnings_are_shown_as_ever() -> None:
    with printed_warnings(), pytest.warns(UserWarning, match="something else"):
        warnings.warn("something else", UserWarning, stacklevel=1)


# --- TensorBoard, with its own reader ----------------------------------------------------------------------------


def events(out: str) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(f"{out}/tensorboard", size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_shows_each_row_once_also_after_a_kill(cut: Any) -> None:
    pytest.importorskip("tensorboard")
    flags = ["--log", "tensorboard", "--eval-every", "2"]
    cut(2, *flags)
    assert len(rows("run/metrics.jsonl")) > saved_iteration(Path("run/checkpoint"))  # type: ignore[operator]
    train(*flags, "--resume")
    shown = events("run")
    for name in ("rollout/score", "train/entropy", "validation/score", "validation/kl"):
        kept = [(step, pytest.approx(values[name])) for step, values in expected("run") if name in values]
        assert shown[name] == kept


def test_tensorboard_s_package_is_asked_for_when_it_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    said = fails(capsys, *TRAIN, "--reward", "length", "--out", "run", "--log", "tensorboard")
    assert "pip install 'textgym[tensorboard]'" in said
