"""``textgym pipeline`` from the outside: the loop, its files, its resumption, and what bad input says."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import tiny_gpt2, tiny_t5, word_tokenizer
from tests.test_cli import fails
from textgym.cli import main
from textgym.commands.configs.pipeline import LabelsPart, PipelineConfig
from textgym.commands.pipeline.labels import needed_answers
from textgym.commands.pipeline.plan import plan
from textgym.labelling.store import LabelStore
from textgym.registration import load_task
from textgym.reports.pipeline_stages import SECTIONS, StageRun

RULES = """
def fives(completions, **kwargs):
    return [float(text.split().count("w5")) for text in completions]


def breaks(completions, **kwargs):
    raise RuntimeError("the labeller is ill")
"""
SETTINGS = {
    "model": "model",
    "prompts": "prompts.jsonl",
    "validation": "validation.jsonl",
    "max_new_tokens": 6,
    "eval_episodes": 8,
    "sft": {"demonstrations": "data.jsonl", "epochs": 2, "learning_rate": 3e-3, "batch_size": 4},
    "labels": {"labeller": "rules.py:fives", "prompts": 8, "completions": 3, "temperature": 0.5},
    "reward_model": {"heldout": 0.25, "batch_size": 4},
    "train": {"total_timesteps": 80, "episodes_per_iteration": 8, "minibatch_size": 4, "checkpoint_every": 1},
}
DOCUMENT = Path(__file__).parents[1] / "docs" / "pipeline.md"


def furnish(folder: Path) -> None:
    """A user's folder: a model, prompts, demonstrations, a rule that labels, and settings."""
    tiny_gpt2().save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    write(folder / "prompts.jsonl", [{"prompt": f"w{i} w{i + 1}{end}"} for i in range(8) for end in ("", " w0")])
    write(folder / "validation.jsonl", [{"prompt": f"w{i}"} for i in range(4, 10)])
    write(folder / "data.jsonl", [{"prompt": f"w{i} w{i + 1}", "completion": f"w5 w{i}"} for i in range(10)])
    (folder / "rules.py").write_text(RULES)
    (folder / "loop.yaml").write_text(yaml.safe_dump(SETTINGS))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module", autouse=True)
def no_pages() -> Iterator[None]:
    """Pages cost most of the time of such small runs; the demo's test draws them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("runs.training", "commands.learner", "commands.reward_model"):
            patch.setattr(f"textgym.{module}.write_report", lambda out: out / "report.html")
        patch.setattr("textgym.commands.pipeline.command.write_pipeline_report", lambda out: out / "report.html")
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder after two iterations in ``run``."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        furnish(folder)
        main(["pipeline", "loop.yaml", "--iterations", "2", "--out", "run"])
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    return tmp_path


@pytest.fixture
def again(whole: Path, place: Path) -> Path:
    """Return the same folder for a test of its own to change."""
    shutil.copytree(whole / "run", place / "run")
    return place


def test_every_stage_is_a_run(whole: Path) -> None:
    run = whole / "run"
    stages = [(s["name"], s["kind"], s["directory"], s["iteration"]) for s in content(run / "stages.json")]
    rounds = [
        [
            (f"labels {i}", "labels", f"iteration-{i}/labels", i),
            (f"reward model {i}", "reward-model", f"iteration-{i}/reward_model", i),
            (f"policy {i}", "train", f"iteration-{i}/policy", i),
        ]
        for i in (1, 2)
    ]
    assert stages == [("sft", "sft", "sft", 0), *rounds[0], *rounds[1]]
    config = content(run / "config.json")
    assert (config["command"], config["iterations"], config["labels"]["completions"]) == ("pipeline", 2, 3)
    assert {"torch", "textgym"} <= config["versions"].keys()
    for _, kind, directory, _ in stages:
        assert content(run / directory / "config.json")["command"] == kind


def test_comparisons_grow_with_prompts_that_were_not_asked(whole: Path) -> None:
    labels = [whole / "run" / f"iteration-{i}" / "labels" for i in (1, 2)]
    first, second = (read(folder / "rankings.jsonl") for folder in labels)
    assert read(labels[0] / "comparisons.jsonl") == first
    assert read(labels[1] / "comparisons.jsonl") == [*first, *second]
    samples = [[row["prompt"] for row in read(folder / "samples.jsonl")] for folder in labels]
    assert len({*samples[0], *samples[1]}) == 16  # of 16 prompts, 8 an iteration
    for folder, rankings in zip(labels, (first, second), strict=True):
        found = content(folder / "labels.json")
        assert (found["prompts"], found["completions"], found["labeller"]) == (8, 3, "rules.py:fives")
        pairs = [(a, b) for row in rankings for i, a in enumerate(row["ranks"]) for b in row["ranks"][:i]]
        assert found["pairs"] == sum(a != b for a, b in pairs)
        assert len(rankings) + sum(found["dropped"].values()) == 8
        assert 0.5 <= found["ceiling"] < 1
        assert all(len(set(row["completions"])) == len(row["completions"]) for row in rankings)


def test_kl_is_measured_to_the_fine_tuned_model(whole: Path) -> None:
    first, second = (content(whole / "run" / f"iteration-{i}" / "policy" / "evaluation.json") for i in (1, 2))
    assert first["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert first["after"]["kl"]["mean"] > 1e-4
    # The second iteration begins where the first one ended, as far from the reference as that.
    assert second["before"]["kl"]["mean"] == pytest.approx(first["after"]["kl"]["mean"], rel=1e-4)
    assert second["before"]["length"] == first["after"]["length"]
    for i in (1, 2):
        rows = read(whole / "run" / f"iteration-{i}" / "policy" / "samples.jsonl")
        assert {row["prompt"] for row in rows} <= {f"w{n}" for n in range(4, 10)}  # of 'validation'


def result(run: Path) -> dict[str, Any]:
    """What must not depend on interruptions: everything measured, and the last weights."""
    files = [path for path in run.rglob("*") if path.name in ("evaluation.json", "labels.json", "samples.jsonl")]
    assert len(files) == 7
    found = {str(path.relative_to(run)): path.read_text() for path in files}
    return {**found, "weights": (run / "iteration-1/policy/checkpoint/model.safetensors").read_bytes()}


class Killed(BaseException):
    """Nobody catches it."""


CUTS = [
    ("sft/metrics.jsonl", 3),  # after the first epoch
    ("sft/evaluation.json", 1),  # the model stands, what it is worth does not
    ("labels/config.json", 1),
    ("labels/samples.jsonl", 1),
    ("labels/labels.json", 1),  # all is there, but nobody knows
    ("reward_model/metrics.jsonl", 1),
    ("reward_model/reward_model.json", 1),  # all but the model
    ("policy/config.json", 1),
    ("policy/samples.jsonl", 1),  # before training
    ("policy/evaluation.json", 1),
    ("training/state.json", 2),  # while the second checkpoint is written
    ("policy/samples.jsonl", 1),  # after training
]


def test_killed_in_every_stage_it_ends_as_uninterrupted(
    whole: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["pipeline", "loop.yaml", "--out", "run"]
    replace: Callable[..., Path] = Path.replace
    left = list(CUTS)
    seen = 0

    def replaced(path: Path, target: Any) -> Path:
        """As the file system's, until the next cut."""
        nonlocal seen
        made = replace(path, target)
        if left and str(target).endswith(left[0][0]):
            seen += 1
            if seen == left[0][1]:
                left.pop(0)
                seen = 0
                raise Killed
        return made

    monkeypatch.setattr(Path, "replace", replaced)
    for _ in CUTS:
        with pytest.raises(Killed):
            main(command)
        command = ["pipeline", "loop.yaml", "--out", "run", "--resume"]
    main(command)
    shutil.copytree(whole / "run", place / "expected")
    shutil.rmtree(place / "expected" / "iteration-2")  # this run has one
    assert result(place / "run") == result(place / "expected")


def test_another_iteration_can_be_added_and_complete_stages_stay(
    again: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(again / "run" / "iteration-2")
    stages = content(again / "run" / "stages.json")
    (again / "run" / "stages.json").write_text(json.dumps(stages[:4]))
    kept = (again / "run" / "iteration-1" / "policy" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    main(["pipeline", "loop.yaml", "--out", "run", "--resume"])
    printed = capsys.readouterr().out
    assert [len(re.findall(rf"{name}: complete; ", printed)) for name in ("sft", "policy 1")] == [1, 1]
    assert (again / "run" / "iteration-1" / "policy" / "checkpoint" / "model.safetensors").stat().st_mtime_ns == kept
    assert "exists and is a run" in fails(capsys, "pipeline", "loop.yaml", "--out", "run")
    said = fails(capsys, "pipeline", "loop.yaml", "--out", "run", "--overwrite", "--model", "run/sft")
    assert "'run/sft' lies in out='run', which --overwrite removes" in said


@pytest.mark.parametrize(
    ("file", "flags", "message"),
    [
        ("iteration-1/labels/rankings.jsonl", [], "stage 'labels 1' in 'run/iteration-1/labels' wrote iteration-1/"),
        (
            "sft/checkpoint/config.json",
            [],
            "stage 'sft' in 'run/sft' wrote sft/checkpoint/config.json, which is another",
        ),
        ("../data.jsonl", [], "stage 'sft' in 'run/sft' read data.jsonl, which is another file now"),
        ("../rules.py", [], "stage 'labels 1' in 'run/iteration-1/labels' read rules.py"),
        (None, ["--sft.learning-rate", "0.1"], "stage 'sft' in 'run/sft' {} (learning_rate: 0.003 there, 0.1 here)"),
        (
            None,
            ["--labels.temperature", "1"],
            "stage 'labels 1' in 'run/iteration-1/labels' {} (temperature: 0.5 there",
        ),
        (None, ["--train.beta", "0.7"], "stage 'policy 1' in 'run/iteration-1/policy' {} (beta: 0.05 there, 0.7"),
    ],
)
def test_what_another_configuration_made_is_refused(
    again: Path, capsys: pytest.CaptureFixture[str], file: str | None, flags: list[str], message: str
) -> None:
    if file is not None:
        path = again / "run" / file
        path.write_text(path.read_text() + " \n")
    before = (again / "run" / "stages.json").stat().st_mtime_ns
    said = fails(capsys, "pipeline", "loop.yaml", "--iterations", "2", "--out", "run", "--resume", *flags)
    assert message.format("was made with other settings") in said
    assert (again / "run" / "stages.json").stat().st_mtime_ns == before


def test_the_code_of_a_labeller_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_rules.py").write_text(RULES)
    labels = LabelsPart(labeller="my_rules:fives,0.5 rm:other other.py:rule gold absent:rule")
    read = plan(PipelineConfig(Path("run"), task="Reviews", labels=labels))[1].inputs
    assert {*read[1:]} == {tmp_path / "my_rules.py", Path("other"), Path("other.py")}


def test_people_label(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pipeline", "loop.yaml", "--labels.labeller", "file", "--sft.no-enabled", "--out", "run"]
    main(command)
    path = Path("run/iteration-1/labels/to_label.jsonl")
    assert f"in every row of {path}" in capsys.readouterr().out
    rows = read(path)
    assert all(row["ranks"] is None for row in rows)
    main([*command, "--resume"])  # nobody has begun
    assert "people's turn" in capsys.readouterr().out
    filled = [{**row, "ranks": list(range(len(row["completions"])))} for row in rows]
    write(path, [*filled[:-1], rows[-1]])
    assert f"to_label.jsonl, row {len(rows)}: ranks is null" in fails(capsys, *command, "--resume")
    write(path, filled)
    main([*command, "--resume"])
    assert read(Path("run/iteration-1/labels/rankings.jsonl")) == filled
    assert content(Path("run/iteration-1/policy/evaluation.json"))["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert "policy 1" in capsys.readouterr().out


class Person(threading.Thread):
    """Someone who ranks on the page by the number of times that a text has w5, and leaves after some answers."""

    def __init__(self, port: int, answers: int) -> None:
        super().__init__(daemon=True)
        self.port, self.answers, self.given = port, answers, list[dict[str, Any]]()

    def asked(self, name: str, **body: Any) -> dict[str, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            headers = {"content-type": "application/json", "authorization": "Bearer drawn"}
            connection.request("POST", f"/api/{name}", json.dumps({"labeller": "anna", **body}), headers)
            return json.loads(connection.getresponse().read())

    def run(self) -> None:
        for _ in range(600):
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
                    connection.request("GET", "/?token=drawn")
                break
            except OSError:
                time.sleep(0.1)
        for _ in range(self.answers):
            question = self.asked("next")["question"]
            counts = [text.split().count("w5") for text in question["completions"]]
            ranks = [sum(other > own for other in counts) for own in counts]
            given = {"question": question["id"], "order": question["order"], "repeat": question["repeat"]}
            self.given.append({**question, "ranks": ranks})
            self.asked("answer", **given, ranks=ranks, seconds=2.0)


@pytest.mark.parametrize(
    ("share", "questions", "needed"), [(0.55, 100, 55), (0.07, 100, 7), (0.5, 3, 2), (1.0, 4, 4), (1e-12, 5, 1)]
)
def test_a_share_of_questions_is_rounded_up_but_not_for_rounding(share: float, questions: int, needed: int) -> None:
    assert needed_answers(share, questions) == needed


def test_people_rank_on_a_page_and_the_loop_goes_on_by_itself(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textgym.labelling.server.secrets.token_urlsafe", lambda _: "drawn")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = ["pipeline", "loop.yaml", "--labels.labeller", "page", "--labels.enough", "0.5", "--sft.no-enabled"]
    command += ["--labels.page.port", str(port), "--out", "run"]

    # The page is closed after one answer, which is kept.
    person = Person(port, 1)
    person.start()
    stopping = threading.Thread(target=lambda: (person.join(), signal.raise_signal(signal.SIGINT)))
    stopping.start()
    main(command)
    stopping.join()
    assert "Give the same command with --resume to open it again" in capsys.readouterr().out
    assert not Path("run/iteration-1/labels/rankings.jsonl").exists()

    asked = len(LabelStore(Path("run/iteration-1/labels/labels.sqlite")).ids())
    another = Person(port, -(-asked // 2) - 1)
    another.start()
    main([*command, "--resume"])
    another.join(60)
    given = {question["id"]: question for question in (*person.given, *another.given)}
    assert len(given) == -(-asked // 2)
    rankings = read(Path("run/iteration-1/labels/rankings.jsonl"))
    untied = [question for question in given.values() if len(set(question["ranks"])) > 1]
    assert len(rankings) == len(untied) > 0
    by_text = {
        question["prompt"][0]["text"]: dict(zip(question["completions"], question["ranks"], strict=True))
        for question in untied
    }
    for row in rankings:
        assert dict(zip(row["completions"], row["ranks"], strict=True)) == by_text[row["prompt"]]
    quality = content(Path("run/iteration-1/labels/labels.json"))["quality"]
    assert list(quality["labellers"]) == ["anna"]
    assert quality["seconds"] == 2.0
    entry = next(entry for entry in content(Path("run/stages.json")) if entry["kind"] == "labels")
    assert ("seconds an answer", "2.0") in SECTIONS["labels"](StageRun.read(Path("run"), entry))["figures"]
    assert "policy 1" in capsys.readouterr().out


def test_a_labeller_errs_and_is_indifferent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All scores are below the threshold, so only errors rank: the ceiling is then that of chance."""
    monkeypatch.setattr("textgym.commands.pipeline.command.run_reward_model", lambda _: fail("stop here"))

    def fail(why: str) -> None:
        raise RuntimeError(why)

    noise = ["--labels.temperature", "0", "--labels.threshold", "100", "--labels.error-rate", "0.9"]
    with pytest.raises(RuntimeError, match="stop here"):
        main(["pipeline", "loop.yaml", "--sft.no-enabled", *noise, "--out", "run"])
    labels = content(Path("run/iteration-1/labels/labels.json"))
    assert labels["ceiling"] == pytest.approx(0.5)
    assert labels["rankings"] + sum(labels["dropped"].values()) == 8
    assert all(len({*row["ranks"]}) == len(row["ranks"]) for row in read(Path("run/iteration-1/labels/rankings.jsonl")))


def test_an_ill_labeller_is_named_with_its_prompt(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(
        capsys, "pipeline", "loop.yaml", "--labels.labeller", "rules.py:breaks", "--sft.no-enabled", "--out", "r"
    )
    assert "breaks" in said
    assert re.search(r"prompt.*w\d w\d", said)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.betta", "1"], "--train.betta"),
        (["--task", "textgym/Waiter-v0"], "has a world"),
        (["--config", "unknown.yaml"], "--labels.labeler"),
        (["--labels.completions", "1"], "completions=1; expected a whole number, at least 2"),
        (["--labels.prompts", "99"], "labels.prompts=99, but there are 16 prompts"),
        (["--labels.labeller", "gold"], "labels.labeller='gold' is a task's true reward"),
        (["--labels.labeller", "rules.py:sixes"], "'sixes'"),
        (["--labels.temperature", "-1"], "temperature=-1"),
        (["--labels.error-rate", "1.5"], "error_rate=1.5"),
        (["--labels.threshold", "-0.1"], "threshold=-0.1"),
        (["--iterations", "0"], "iterations=0"),
        (["--sft.count", "99"], "count=99, but there are"),
        (["--sft.demonstrations", "none.jsonl"], "none.jsonl"),
        (["--sft.no-enabled", "--sft.demonstrations", "none.jsonl"], "none.jsonl"),
        (["--sft.no-enabled", "--model", "t5"], "encoder"),
        (["--sft.epochs", "0"], "epochs=0"),
        (["--reward-model.heldout", "1"], "heldout=1"),
        (["--train.algorithm", "pppo"], "'ppo'"),
        (["--train.minibatch-size", "9"], "minibatch_size=9"),
        (["--train.pretraining", "blank.txt"], "'blank.txt' has no text"),
        (["--train.value-from-reward-model", "--reward-model.ensemble", "2"], "single reward model"),
        (["--validation", "long.jsonl"], "long.jsonl, row 1: the prompt has 5 tokens"),
        (["--validation", "None"], "pass --validation FILE"),
        (["--out", "my run"], "without spaces"),
        (["--max-new-tokens", "61"], "make 64 tokens, to which reward models add an end token"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (place / "unknown.yaml").write_text("labels: {labeler: gold}")
    (place / "blank.txt").write_text(" \n")
    write(place / "long.jsonl", [{"prompt": "w1 w2 w3 w4 w5"}])
    tiny_t5().save_pretrained(place / "t5")
    word_tokenizer().save_pretrained(place / "t5")
    files = sorted(place.iterdir())
    first = [] if "--config" in flags else ["loop.yaml"]
    assert message in fails(capsys, "pipeline", *first, "--out", "run", *flags)
    assert sorted(place.iterdir()) == files


def example(number: int) -> dict[str, Any]:
    """Return a file of settings as the documentation shows it."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(blocks[number])
    return found


def test_the_documented_example_on_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reviews.yaml").write_text(yaml.safe_dump(example(0)))
    small = ["--iterations", "1", "--eval-episodes", "8", "--sft.count", "8", "--sft.epochs", "1"]
    small += ["--labels.prompts", "8", "--train.total-timesteps", "100", "--train.episodes-per-iteration", "8"]
    main(["pipeline", "reviews.yaml", "--out", "run", *small, "--train.minibatch-size", "8"])
    printed = capsys.readouterr().out
    sft, policy = (content(Path("run", name, "evaluation.json")) for name in ("sft", "iteration-1/policy"))
    # One set of prompts and random streams measures all models.
    assert policy["before"]["gold"]["mean"] == pytest.approx(sft["after"]["gold"]["mean"])
    for model, column in ((sft["before"], 0), (sft["after"], 1), (policy["after"], 2)):
        (line,) = re.findall(r"^gold .*", printed, re.MULTILINE)
        assert re.findall(r"(\d\.\d+) ±", line)[column] == f"{model['gold']['mean']:.3f}"
    heldout = {prompt.text for prompt in load_task("Reviews").prompts("validation")}
    assert {row["prompt"] for row in read(Path("run/iteration-1/policy/samples.jsonl"))} <= heldout
    found = content(Path("run/iteration-1/labels/labels.json"))
    gold = [value for row in read(Path("run/iteration-1/labels/samples.jsonl")) for value in row["gold"]]
    assert found["gold_mean"] == pytest.approx(sum(gold) / len(gold))


def test_the_documented_example_on_ones_own_data_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textgym import cli

    seen: list[Any] = []
    monkeypatch.setattr(cli, "run_command", seen.append)
    monkeypatch.setattr(cli, "check_early", lambda _: None)
    (place / "own.yaml").write_text(yaml.safe_dump(example(1)))
    main(["pipeline", "own.yaml", "--out", "run", "--train.beta", "0.4"])
    assert seen[0].labels.labeller == "file"
    assert seen[0].train.hyperparameters.beta == 0.4  # flags win
