"""``textgym online``: asking, answering and training at the same time, its repetition, and what bad input says."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.cli import main
from textgym.commands.configs.online import OnlineRewardModelPart
from textgym.commands.online import learner as learner_module
from textgym.commands.online import roles, versions
from textgym.commands.online.check import check_answers
from textgym.commands.online.command import copy_answers
from textgym.commands.online.labeller import RewardLabeller
from textgym.commands.online.schedule import Version
from textgym.commands.train import parse_reward
from textgym.labelling import Answer, LabelStore
from textgym.rewards.labels.labelling import Question
from textgym.rewards.labels.schedules import labels_due
from textgym.types import Prompt

RULES = """
def fives(completions, **_):
    return [float(text.split().count("w5")) for text in completions]

def nothing(completions, **_):
    return [0.0] * len(completions)
"""
SETTINGS = [
    *("--model", "model", "--prompts", "prompts.jsonl", "--labeller", "rules.py:fives", "--max-new-tokens", "6"),
    *("--eval-episodes", "8", "--algorithm", "rloo", "--episodes-per-iteration", "8", "--minibatch-size", "4"),
    *("--learning-rate", "1e-2", "--warmup-iterations", "0", "--total-timesteps", "250", "--checkpoint-every", "1"),
    *("--labels.count", "20", "--labels.completions", "3", "--labels.oversample", "2", "--labels.retrain-after", "4"),
    *("--reward-model.ensemble", "2", "--reward-model.epochs", "2", "--reward-model.learning-rate", "1e-2"),
]
COMMAND = ["online", *SETTINGS]
pytestmark = [
    pytest.mark.usefixtures("unrendered"),
    pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning"),  # fast steps
]


def furnish(folder: Path) -> None:
    tiny_gpt2(n_embd=16, n_layer=1).save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    prompts = [{"prompt": f"w{i} w{i + 1}{end}"} for i in range(8) for end in ("", " w0")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "rules.py").write_text(RULES)


@pytest.fixture(scope="module", autouse=True)
def no_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textgym.runs.training.write_report", lambda out: out / "report.html")
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder after a run in turns, in ``run``."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        furnish(folder)
        main([*COMMAND, "--out", "run"])
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


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(run: Path) -> list[dict[str, float]]:
    """The metrics of each iteration without times."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows(run / "metrics.jsonl")]


def evaluation(run: Path, stage: str) -> dict[str, Any]:
    found = json.loads((run / "evaluation.json").read_text())[stage]
    return {name: value for name, value in found.items() if not name.startswith("time")}


def same_parameters(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "checkpoint" / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- a run in turns ------------------------------------------------------------------------------------------------


def test_a_run_asks_as_scheduled_and_takes_reward_models(whole: Path) -> None:
    run = whole / "run"
    schedule, logged = rows(run / "schedule.jsonl"), metrics(run)
    assert [row["iteration"] for row in schedule] == list(range(len(logged)))
    # Before iteration i the labels are due that are due at its end, if all its responses are as long as they may be.
    tokens = [0, *(row["time/total_timesteps"] for row in rows(run / "metrics.jsonl"))]
    due = [labels_due(20, min(1, (tokens[i] + 8 * 6) / 250)) for i in range(len(schedule))]
    assert [row["asked"] for row in schedule] == due
    assert due[-1] == 20
    with LabelStore(run / "labels.sqlite") as store:
        assert len(store.ids()) == len(store.answers()) == 20
    # In turns each iteration takes a model of all answers, but for fewer than --labels.retrain-after new ones.
    assert all(0 <= row["asked"] - row["answers"] < 4 or row["reward"] == 1 for row in schedule)
    numbers = [row["reward"] for row in schedule]
    assert numbers == sorted(numbers)
    assert numbers[-1] == int((run / "reward" / "CURRENT").read_text()[1:]) > 2
    # Of the versions only those are kept with which the run may go on: there is a checkpoint after each iteration.
    kept = sorted(int(path.name[1:]) for path in (run / "reward").glob("v*"))
    assert kept == list(range(kept[0], numbers[-1] + 1))
    assert numbers[0] < kept[0] <= numbers[-1]
    assert [row["online/reward"] for row in logged] == numbers
    assert {"checkpoint", "config.json", "evaluation.json", "samples.jsonl"} <= {path.name for path in run.iterdir()}


def test_it_repeats_by_its_seed_and_says_what_it_learned(
    whole: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*COMMAND, "--out", "run"])
    assert same_parameters(whole / "run", place / "run")
    assert metrics(whole / "run") == metrics(place / "run")
    told = capsys.readouterr().out
    assert "20 questions asked" in told
    assert "versions in" in told


def test_each_version_has_mean_0_and_deviation_1_on_the_first_policys_samples(whole: Path) -> None:
    """Ziegler 2019; the scores are computed here from the saved members, one text at a time."""
    run = whole / "run"
    texts = rows(run / "reference.jsonl")
    assert len(texts) == 256
    number = rows(run / "schedule.jsonl")[-1]["reward"]
    ensemble = versions.open_version(run, versions.read_version(run, number))
    read = [(t["prompt"], t["completion"], t["ended"]) for t in texts]
    members = torch.tensor([[m.raw_scores([m.encode(*t)]).item() for t in read] for m in ensemble.members]).double()
    own = (members - members.mean(1, keepdim=True)) / members.std(1, keepdim=True, correction=0)
    combined = own.mean(0)
    expected = (combined - combined.mean()) / combined.std(correction=0)

    from textgym.rewards.models.normalised import normalise

    made = normalise(ensemble, *([t[name] for t in texts] for name in ("prompt", "completion", "ended")))
    columns = {"finish_reason": ["stop" if t["ended"] else "length" for t in texts]}
    ids: list[list[int]] = [[]] * 256
    scores = made([t["prompt"] for t in texts], [t["completion"] for t in texts], completion_ids=ids, **columns)
    assert torch.tensor(scores).double() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("where", ["asking", "answering", "training", "noting", "learning"])
def test_killed_anywhere_it_ends_as_uninterrupted(
    whole: Path, place: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The third visit dies; what was asked, answered and trained by then stands."""

    class Killed(BaseException):
        pass

    target = {
        "asking": (LabelStore, "add"),
        "answering": (LabelStore, "record"),
        "training": (versions.RewardTrainer, "train"),
        "noting": (learner_module, "write_schedule"),
        "learning": (learner_module.SequenceAlgorithm, "train"),
    }[where]
    act, calls = getattr(*target), 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        found = act(*args, **kwargs) if where != "noting" else None
        if calls == 3:
            raise Killed
        return found if where != "noting" else act(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(*target, dies)
        with pytest.raises(Killed):
            main([*COMMAND, "--out", "run"])
    main([*COMMAND, "--out", "run", "--resume"])
    assert same_parameters(whole / "run", place / "run")
    assert metrics(whole / "run") == metrics(place / "run")
    assert rows(whole / "run" / "schedule.jsonl") == rows(place / "run" / "schedule.jsonl")
    with LabelStore(whole / "run" / "labels.sqlite") as one, LabelStore(place / "run" / "labels.sqlite") as other:
        assert one.answers() == other.answers()


def test_a_finished_run_can_be_extended(again: Path) -> None:
    main([*COMMAND, "--total-timesteps", "300", "--out", "run", "--resume"])
    assert len(rows(again / "run" / "schedule.jsonl")) == len(metrics(again / "run"))


# --- asynchronous, and replayed ------------------------------------------------------------------------------------


def test_an_asynchronous_run_and_its_replay_are_equal_bit_for_bit(
    whole: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward trainer and the labeller are processes of their own, and iterations last a tenth of a second."""
    slow = learner_module.OnlineLearner.settle

    def settle(self: Any, iteration: int) -> bool:
        time.sleep(0.1)
        return slow(self, iteration)

    more = [*COMMAND, "--total-timesteps", "2500", "--labels.retrain-after", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(learner_module.OnlineLearner, "settle", settle)
        main([*more, "--background", "--out", "live"])
    schedule = rows(place / "live" / "schedule.jsonl")
    assert len({row["reward"] for row in schedule}) > 2  # it did change on the way
    main([*more, "--replay", "live", "--out", "again"])
    assert same_parameters(place / "live", place / "again")
    assert metrics(place / "live") == metrics(place / "again")
    assert rows(place / "again" / "schedule.jsonl") == schedule
    for stage in ("before", "after"):
        assert evaluation(place / "live", stage) == evaluation(place / "again", stage)
    assert not same_parameters(place / "live", whole / "run")


def test_the_beginning_of_a_run_is_replayed_and_then_ends(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was killed has a schedule without an end."""
    schedule = (again / "run" / "schedule.jsonl").read_text().splitlines(keepends=True)
    (again / "run" / "schedule.jsonl").write_text("".join(schedule[:4]))
    main([*COMMAND, "--replay", "run", "--out", "again"])
    assert "the replayed schedule ends after iteration 4" in capsys.readouterr().out
    assert metrics(again / "again") == metrics(again / "run")[:4]
    assert evaluation(again / "again", "before") == evaluation(again / "run", "before")


def test_a_run_that_goes_on_while_it_is_copied_is_copied_whole(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first four iterations, with their answers, are there at first; then all are, whose answers come first."""
    early = again / "early"
    shutil.copytree("run", early)
    (again / "copy").mkdir()
    lines = (early / "schedule.jsonl").read_text().splitlines(keepends=True)[:4]
    (early / "schedule.jsonl").write_text("".join(lines))
    with closing(sqlite3.connect(early / "labels.sqlite")) as database, database:
        for table in ("answers", "questions"):
            database.execute(f"DELETE FROM {table} WHERE number > ?", (json.loads(lines[-1])["asked"],))
    copy = shutil.copyfile

    def goes_on(source: Path, target: Path) -> None:
        for name in ("labels.sqlite", "schedule.jsonl"):
            copy(again / "run" / name, early / name)
        copy(source, target)

    monkeypatch.setattr("shutil.copyfile", goes_on)
    copy_answers(early, again / "copy")
    check_answers(again / "copy")


def test_roles_end_with_the_learner(place: Path) -> None:
    """Also where it is killed without a word: their standard input closes."""
    command = [
        sys.executable,
        "-m",
        "textgym.cli",
        *COMMAND,
        "--background",
        "--total-timesteps",
        "100000",
        "--out",
        "run",
    ]
    learner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_that((place / "run" / "schedule.jsonl").is_file)
        assert roles_of(place / "run")
    finally:
        learner.kill()
        learner.wait()
    await_that(lambda: not roles_of(place / "run"))


def await_that(condition: Any, seconds: float = 300) -> None:
    over = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < over, "waited in vain"
        time.sleep(0.1)


def roles_of(run: Path) -> list[str]:
    """Return the roles that play in a run's directory, told apart by their working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes().decode().split("\0")
            if "textgym.commands.online" in told and (process / "cwd").resolve() == run.parent.resolve():
                found.append(told[3])
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_a_role_that_fails_ends_the_run(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "rules.py").write_text(RULES + "\ndef ill(completions, **_):\n    raise RuntimeError('ill')\n")
    said = fails(capfd, *COMMAND, "--labeller", "rules.py:ill", "--background", "--out", "run")
    assert "the labeller of 'run' has ended with status 1" in said
    assert "ill" in said


# --- the page ------------------------------------------------------------------------------------------------------


def test_people_answer_on_a_page_that_the_command_serves(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a thread answers in the place of people, through the database alone."""
    pytest.importorskip("textgym.labelling.server")
    over = threading.Event()

    def person() -> None:
        await_that((place / "run" / "labels.sqlite").is_file)
        with LabelStore(place / "run" / "labels.sqlite") as store:
            while not over.wait(0.05):
                done = {answer.question for answer in store.answers()}
                for which, question in store.asked().items():
                    if which not in done:
                        k = len(question.completions)
                        store.record(Answer(which, "anna", tuple(range(k)), tuple(reversed(range(k)))))

    answering = threading.Thread(target=person)
    answering.start()
    try:
        main([*COMMAND, "--labeller", "page", "--out", "run"])
    finally:
        over.set()
        answering.join()
    assert roles.ROLES.keys() == {"reward trainer", "labeller", "page"}
    assert rows(place / "run" / "schedule.jsonl")[0]["labels"] >= 2


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--reward-model.ensemble", "1"],
            "acquisition='disagreement' compares the members of an ensemble, and there is 1",
        ),
        (
            ["--labels.acquisition", "information", "--reward-model.ensemble", "1"],
            "acquisition='information' compares the members",
        ),
        (["--labels.count", "200"], "labels.count=200 asks 46 questions at once"),
        (["--labels.count", "0"], "count=0"),
        (["--labels.completions", "1"], "completions=1"),
        (["--labels.error-rate", "2"], "error_rate=2"),
        (["--labeller", "gold"], "labeller='gold' is a task's true reward"),
        (["--labeller", "page", "--labels.error-rate", "0.1"], "people, who bring their own noise"),
        (["--labeller", "rules.py:sixes"], "'sixes'"),
        (["--replay", "model"], "replay='model' is not a run of textgym online"),
        (["--replay", "nowhere"], "replay='nowhere': no such file or directory"),
        (["--algorithm", "distill", "--reference", "model"], "learns from a teacher"),
        (["--max-new-tokens", "61"], "make 64 tokens, to which reward models add an end token"),
        (["--task", "textgym/Waiter-v0", "--labeller", "gold"], "has a world"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    files = sorted(place.iterdir())
    given = [*COMMAND, "--out", "run"]
    if "--task" in flags:
        given = [*given[:1], *given[5:]]
    assert message in fails(capsys, *given, *flags)
    assert sorted(path for path in place.iterdir() if path.name != "__pycache__") == files


def test_an_ensemble_of_one_may_ask_at_random(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no candidate is scored."""
    monkeypatch.setattr(learner_module, "member_scores", None)
    main([*COMMAND, "--labels.acquisition", "random", "--reward-model.ensemble", "1", "--out", "run"])
    assert rows(place / "run" / "schedule.jsonl")[-1]["asked"] == 20


def test_what_does_not_belong_to_a_replay_is_named(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay = [*COMMAND, "--replay", "run", "--out", "again"]
    assert "has other settings (beta: 0.05 there, 0.1 here)" in fails(capsys, *replay, "--beta", "0.1")
    prompts = Path("prompts.jsonl").read_text()
    Path("prompts.jsonl").write_text(prompts.replace("w7", "w6"))
    assert "'prompts.jsonl' (SHA-256" in fails(capsys, *replay)
    Path("prompts.jsonl").write_text(prompts)
    kept = Path("run/config.json").read_text()
    Path("run/config.json").write_text(json.dumps({**json.loads(kept), "extended_from": [200]}))
    assert "was extended from 200 to 250 tokens" in fails(capsys, *replay)
    Path("run/config.json").write_text(kept)
    assert "lies in out='run'" in fails(capsys, *COMMAND, "--replay", "run", "--out", "run", "--overwrite")
    assert Path("run/config.json").read_text() == kept
    with closing(sqlite3.connect("run/labels.sqlite")) as database, database:
        database.execute("DELETE FROM answers WHERE number > 3")
    assert "holds 3 answers" in fails(capsys, *replay)
    with LabelStore(Path("other.sqlite")) as store:
        assert store.count() == 0
    shutil.copyfile("other.sqlite", "run/labels.sqlite")
    for name in ("labels.sqlite-wal", "labels.sqlite-shm"):
        Path("run", name).unlink(missing_ok=True)
    assert "holds other questions than the 20" in fails(capsys, *replay)
    assert "holds other questions than the 20" in fails(capsys, *COMMAND, "--out", "run", "--resume")
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, "versions": {**config["versions"], "torch": "1.0"}}))
    assert "was made by other versions (torch 1.0 there" in fails(capsys, *replay)
    assert not Path("again").exists()


def test_changed_answers_do_not_replay(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One answer is turned round; the reward model that is trained on it is another."""
    with closing(sqlite3.connect("run/labels.sqlite")) as database, database:
        ((content,),) = database.execute("SELECT content FROM answers WHERE number = 1").fetchall()
        order, ranks, *rest = json.loads(content)
        turned = [max(ranks) - rank for rank in ranks]
        database.execute("UPDATE answers SET content = ? WHERE number = 1", (json.dumps([order, turned, *rest]),))
    said = fails(capsys, *COMMAND, "--replay", "run", "--out", "again")
    assert "has other weights" in said


def test_where_nothing_is_ranked_it_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, *COMMAND, "--labeller", "rules.py:nothing", "--out", "run")
    assert "the first 2 answers rank nothing, as all are ties or were skipped; raise labels.count" in said


def test_where_people_rank_nothing_it_asks_up_to_the_count(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here somebody ties all completions of each question while the learner waits."""
    asked: list[int] = []

    @contextmanager
    def tying(roles: object, run: Path) -> Iterator[Callable[[], None]]:
        with LabelStore(run / "labels.sqlite") as store:

            def answer() -> None:
                done = {answer.question for answer in store.answers()}
                for which, question in store.asked().items():
                    if which not in done:
                        k = len(question.completions)
                        store.record(Answer(which, "anna", tuple(range(k)), (0,) * k))
                asked.append(len(store.ids()))
                assert len(asked) < 9

            yield answer

    monkeypatch.setattr("textgym.commands.online.command.started_roles", tying)
    monkeypatch.setattr(learner_module, "POLL", 0.0)
    said = fails(capsys, *COMMAND, "--labeller", "page", "--labels.count", "5", "--out", "run")
    assert asked == [1, 2, 3, 4, 5]
    assert "the first 5 answers rank nothing, as all are ties or were skipped" in said


# --- the roles, one by one -----------------------------------------------------------------------------------------

QUESTIONS = [Question(("w5", "w1", f"w{i}"), Prompt(f"w{i}", f"w{i}", ())) for i in range(6, 10)]


def test_questions_that_come_while_a_labeller_reads_do_not_disturb_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process may add some between any two looks into the database."""
    labeller = RewardLabeller(
        parse_reward("rules.py:fives", None).bind(word_tokenizer()), word_tokenizer(), (0.0, 0.0, 0.0), 0, "fives"
    )
    with LabelStore(place / "labels.sqlite") as store:
        read, new = LabelStore.rows, list(QUESTIONS)

        def disturbed(self: LabelStore, *args: Any, **kwargs: Any) -> Any:
            found = read(self, *args, **kwargs)
            if new:
                self.add([new.pop()])
            return found

        monkeypatch.setattr(LabelStore, "rows", disturbed)
        for _ in range(5):
            labeller.answer(store)
        assert {answer.question: answer.ranks for answer in store.answers()} == dict.fromkeys(store.ids(), (0, 1, 1))
        assert len(store.ids()) == 4


def test_roles_look_again_only_after_a_change(place: Path) -> None:
    over = threading.Event()
    with LabelStore(place / "labels.sqlite") as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles, "POLL", 0.01)
        looks = roles.changes(store, over)
        assert next(looks) == 0
        store.add(QUESTIONS[:1])
        assert next(looks) == 0
        store.record(Answer(store.ids()[0], "anna", (0, 1, 2), (0, 1, 2)))
        assert next(looks) == 1
        threading.Timer(0.2, over.set).start()
        assert list(looks) == []


def test_a_version_is_due_after_new_rankings_and_once_at_the_end(place: Path) -> None:
    """Four questions, and a version after two new rankings; skipped ones, ties and undoings are none."""
    trainer = versions.RewardTrainer(
        run=place,
        lm=None,  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        settings=OnlineRewardModelPart(),
        special_tokens="parse",
        seed=0,
        retrain_after=2,
        total=4,
        initial=1,
    )
    with LabelStore(place / "labels.sqlite") as store:
        store.add(QUESTIONS)
        ids = store.ids()

        def answer(number: int, ranks: tuple[int, ...] | None, name: str = "anna") -> None:
            store.record(Answer(ids[number], name, (0, 1, 2), ranks, None if ranks else "unclear"))

        def is_due(after: int) -> bool:
            return trainer.is_due(store, Version(1, after, 1, ""), store.count())

        answer(0, (0, 1, 2))
        assert trainer.is_due(store, None, store.count())
        answer(1, None)
        answer(2, (0, 0, 0))
        store.undo("anna")
        assert store.count() == 4
        assert not is_due(1)  # three events, and nothing to learn
        answer(2, (0, 1, 1))
        assert not is_due(1)  # one new ranking of two
        answer(3, (0, 1, 1))
        assert is_due(1)
        assert is_due(5)  # only one is new, and all questions are answered
        answer(3, (0, 1, 1), "bert")
        assert not is_due(6)  # all were answered then, too
        answer(2, (0, 1, 1), "bert")
        assert is_due(6)


@pytest.mark.parametrize("meanwhile", ["ended", "replaced"])
def test_a_trainer_whose_learner_is_gone_writes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """While it trains, the learner ends; or the run's files are moved aside for a new run, as with --overwrite."""
    run, over = place / "run", threading.Event()
    run.mkdir()

    class Member:
        def save(self, path: Path) -> None:
            raise AssertionError("it was to be saved")

    def member(*_: Any) -> Member:
        if meanwhile == "ended":
            over.set()
        else:
            (run / "reward").rename(run / "old")
            (run / "reward").mkdir()
        return Member()

    monkeypatch.setattr(roles, "POLL", 0.01)
    monkeypatch.setattr(versions.RewardTrainer, "is_due", lambda *_: True)
    monkeypatch.setattr(versions.RewardTrainer, "_member", member)
    monkeypatch.setattr(versions, "usable", lambda *_: ["a ranking"])
    config = {
        "task": None,
        "parameters": None,
        "model": "model",
        "special_tokens": "parse",
        "seed": 0,
        "labels": {"count": 4, "retrain_after": None},
        "reward_model": asdict(OnlineRewardModelPart(ensemble=1)),
    }
    with pytest.raises(SystemExit):
        roles.train_rewards(run, config, over)
    assert not list((run / "reward").glob("[vC]*"))


def test_all_roles_are_told_to_end_before_one_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ignores its standard input, and the second ends with it."""
    deaf, polite = (subprocess.Popen(command, stdin=subprocess.PIPE) for command in (["sleep", "60"], ["cat"]))
    wait, told = deaf.wait, list[bool]()

    def noting(seconds: float | None = None) -> int:
        assert polite.stdin is not None
        told.append(polite.stdin.closed)
        return wait(seconds)

    monkeypatch.setattr(deaf, "wait", noting)
    monkeypatch.setattr(roles, "PATIENCE", 2.0)
    roles.end_processes([deaf, polite])
    assert told[0]
    assert (deaf.poll(), polite.poll()) == (-signal.SIGTERM, 0)
