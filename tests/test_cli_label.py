"""``textgym label``: its three forms, and what it refuses before anything is served."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.labelling.label_questions import answer, question
from textgym.cli import main
from textgym.labelling import server
from textgym.labelling.server import PageSettings
from textgym.labelling.store import LabelStore
from textgym.rewards.labels.labelling import write_questions
from textgym.rewards.labels.rankings import read_rankings

ASKED = [question(f"q{i}", 3) for i in range(4)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "samples.jsonl", ASKED)
    return tmp_path


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    assert end.value.code == 2
    return capsys.readouterr().err


def people(store: LabelStore, settings: PageSettings, **_: Any) -> bool:
    """Answer in place of people."""
    store.record(answer(ASKED[0], "anna", ranks=(0, 1, 2), seconds=2.0))
    store.record(answer(ASKED[0], "ben", ranks=(0, 2, 1), seconds=3.0))
    store.record(answer(ASKED[1], "ben", skipped="no idea"))
    return False


def test_serve_export_and_report(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "serve_until", people)
    main(["label", "samples.jsonl"])
    assert "label export samples.sqlite --out samples.labelled.jsonl" in capsys.readouterr().out
    main(["label", "serve", "samples.jsonl"])  # goes on: the same answers once more change nothing
    main(["label", "export", "samples.sqlite", "--out", "rankings.jsonl"])
    assert [found.ranks for found in read_rankings("rankings.jsonl")] == [(0, 1, 2), (0, 2, 1)]
    capsys.readouterr()
    main(["label", "report", "samples.sqlite", "--out", "page"])
    told = capsys.readouterr().out
    assert "3 answers of 2 people to 1 questions, 1 skipped; two people order 67 % of pairs alike." in told
    assert "Labeller × labeller" in told
    assert "anna" in (place / "page" / "report.html").read_text("utf-8")
    main(["label", "report", "samples.sqlite", "--json"])
    assert json.loads(capsys.readouterr().out)["between_people"]["pairs"] == 3


def test_flags_become_settings_of_the_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PageSettings] = []
    monkeypatch.setattr(server, "serve_until", lambda _, settings, **__: seen.append(settings))
    flags = "--labeller anna --shared 0.1 --repeat 0.05 --port 0 --axes helpful true harmless --scores --answers a.db"
    main(["label", "samples.jsonl", *flags.split()])
    main(["label", "samples.jsonl", "--watch", "--rate", "5"])
    assert seen == [
        PageSettings(labeller="anna", axes=("helpful", "true", "harmless"), scores=True, shared=0.1, repeat=0.05),
        PageSettings(watch=5.0),
    ]
    assert {path.name for path in place.iterdir()} == {"samples.jsonl", "samples.sqlite", "a.db"}


def test_settings_may_stand_in_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PageSettings] = []
    monkeypatch.setattr(server, "serve_until", lambda _, settings, **__: seen.append(settings))
    (place / "label.yaml").write_text("shared: 0.2\naxes: [true]\n")
    main(["label", "samples.jsonl", "--config", "label.yaml"])
    assert seen[0].shared == 0.2


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "host": (lambda: None, "samples.jsonl --host 0.0.0.0", "host='0.0.0.0' lets other machines connect"),
    "axes": (lambda: None, "samples.jsonl --axes true true", "axes=('true', 'true')"),
    "share": (lambda: None, "samples.jsonl --shared 2", "shared=2"),
    "no file": (lambda: None, "nowhere.jsonl", "nowhere.jsonl"),
    "no answers": (lambda: None, "export nowhere.sqlite --out x.jsonl", "answers='nowhere.sqlite': no such file"),
    "no database": (lambda: None, "report samples.jsonl", "is no database of answers"),
    "empty": (lambda: Path("e.sqlite").touch(), "report e.sqlite", "is empty"),
    "nothing": (lambda: LabelStore(Path("n.sqlite")).close(), "report n.sqlite", "holds no answers yet"),
    "its own file": (lambda: None, "samples.jsonl --answers samples.jsonl", "has the name of its answers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_before_anything_is_served(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, argv, message = REFUSED[case]
    prepare()
    before = {path: path.read_bytes() for path in place.iterdir()}
    assert message in fails(capsys, "label", *argv.split())
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_a_database_of_another_set_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LabelStore(Path("samples.sqlite")) as store:
        store.add([question("another", 2)])
    assert "holds answers to another set" in fails(capsys, "label", "samples.jsonl")
    with LabelStore(Path("samples.sqlite")) as store:
        assert len(store.ids()) == 1


def test_a_port_in_use_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "Address already in use; set another port" in fails(capsys, "label", "samples.jsonl", "--port", port)
