"""``textgym kto``, and IPO by ``textgym dpo``, from the outside: what stands on disk, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_cli import fails
from tests.test_cli_dpo import PAIRS, place, write
from textgym.agents.offline.preference_loop import Learning
from textgym.cli import main

pytestmark = pytest.mark.usefixtures("unrendered")

__all__ = ["place"]  # the fixture: a user's folder with a model and comparisons

LABELS = [
    {"prompt": f"w{i} w{i + 1}", "completion": f"w{i} {'w7' if good else 'w3'}", "label": good}
    for i in range(12)
    for good in (True, False)
]
KTO = ["kto", "--model", "model", "--data", "labels.jsonl", "--eval-episodes", "8", "--max-new-tokens", "6"]
FILES = ("checkpoint/model.safetensors", "metrics.jsonl", "evaluation.json", "samples.jsonl")


@pytest.fixture(autouse=True)
def labels(place: Path) -> None:
    write("labels.jsonl", LABELS)


def result(name: str) -> tuple[bytes, ...]:
    return tuple(Path(name, file).read_bytes() for file in FILES)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]


def test_from_labels_to_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    write("more.jsonl", LABELS[:6])
    flags = ["--learning-rate", "1e-2", "--batch-size", "4", "--epochs", "3", "--validation", "more.jsonl"]
    main([*KTO, *flags, "--out", "run"])
    found = rows("run")
    assert [row["iteration"] for row in found] == [0, 1, 2, 3]
    assert (found[0]["validation/loss"], found[0]["validation/accuracy"], found[0]["validation/margin"]) == (
        0.5,
        0.5,
        0,
    )
    assert found[-1]["validation/margin"] > 0
    assert (found[-1]["validation/prompts"], found[-1]["validation/completions"]) == (3, 6)
    printed = capsys.readouterr().out
    assert "held-out accuracy" in printed
    assert "over 3 prompts" in printed
    page = Path("run/report.html").read_text()
    assert "KTO" in page.partition("</title>")[0]
    assert "3 held-out prompts with 6 completions" in page
    assert "A pair is a desirable and an undesirable completion" in page
    config = json.loads(Path("run/config.json").read_text())
    assert (config["command"], config["algorithm"], config["settings"]["desirable_weight"]) == ("kto", "kto", 1.0)
    main(["generate", "--model", "run", "--prompt", "w1 w2", "--max-new-tokens", "4"])
    assert "--overwrite" in fails(capsys, *KTO, "--out", "run")


@pytest.mark.parametrize(
    "flags",
    [[*KTO], ["dpo", "--loss", "ipo", "--model", "model", "--data", "pairs.jsonl", *KTO[5:]]],
    ids=["kto", "ipo"],
)
def test_resume_ends_as_an_uninterrupted_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    flags = [*flags, "--epochs", "3", "--learning-rate", "1e-2", "--batch-size", "4"]
    main([*flags, "--out", "whole"])
    whole_epoch = Learning.epoch

    def fused(self: Any, number: int) -> Any:
        if number:
            raise ValueError("the fuse blew")
        return whole_epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Learning, "epoch", fused)
        assert "the fuse blew" in fails(capsys, *flags, "--out", "parts")
    assert len(rows("parts")) == 2
    assert "other settings" in fails(capsys, *flags, "--beta", "0.3", "--out", "parts", "--resume")
    capsys.readouterr()
    main([*flags, "--out", "parts", "--resume"])
    assert "starts from the beginning" not in capsys.readouterr().out
    assert result("parts") == result("whole")


def test_pairs_are_labels_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A pair gives a good and a bad completion; the same labels in JSON Lines, Parquet and pairs teach the same."""
    rows = [row for pair in PAIRS for row in both(pair)]
    write("labels.jsonl", rows)
    main([*KTO, "--out", "labels"])
    main([*KTO, "--data", "pairs.jsonl", "--out", "pairs"])
    pq.write_table(pa.Table.from_pylist(rows), "labels.parquet")
    main([*KTO, "--data", "labels.parquet", "--out", "parquet"])
    assert result("labels") == result("pairs") == result("parquet")


def both(pair: dict[str, str]) -> list[dict[str, Any]]:
    """Return a pair as two labelled completions."""
    prompt = {"prompt": pair["prompt"]}
    return [{**prompt, "completion": pair[side], "label": side == "chosen"} for side in ("chosen", "rejected")]


def test_ipo_is_named_and_aims_at_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    """The loss begins at 1/(4β²) = 6.25 for β = 0.2."""
    flags = ["--model", "model", "--data", "pairs.jsonl", "--learning-rate", "1e-2", "--batch-size", "4", *KTO[5:]]
    main(["dpo", "--loss", "ipo", "--beta", "0.2", "--epochs", "20", *flags, "--out", "run"])
    assert rows("run")[0]["validation/loss"] == pytest.approx(6.25)
    assert rows("run")[-1]["validation/margin"] == pytest.approx(0.5, abs=0.15)
    assert rows("run")[-1]["validation/loss"] < 0.6
    assert "IPO" in Path("run/report.html").read_text().partition("</title>")[0]
    assert json.loads(Path("run/config.json").read_text())["algorithm"] == "ipo"
    assert "loss" in fails(capsys, "dpo", "--loss", "hinge", *flags, "--out", "other")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "w1", "completion": "w2", "label": "yes"}, "label: expected true or false (or 1 or 0), got 'yes'"),
        ({"prompt": "w1", "completion": "w2", "label": 2}, "label: expected true or false (or 1 or 0), got 2"),
        ({"prompt": "w1", "completion": "w2", "label": 1.0}, "label: expected true or false (or 1 or 0), got 1.0"),
        ({"prompt": "w1", "completion": "w2", "label": None}, "label: expected true or false (or 1 or 0), got None"),
        ({"prompt": "w1", "completion": "w2"}, "expected the fields"),
        ({"prompt": "w1", "label": True}, "expected the fields"),
        ({"prompt": "w1", "completion": " ", "label": True}, "completion is ' '"),
        ({"prompt": "", "completion": "w2", "label": True}, "prompt is ''"),
        ({"prompt": "w1", "completion": "w2 " * 70, "label": True}, "prompt, completion and end token have"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], row: dict[str, Any], message: str
) -> None:
    write("bad.jsonl", [*LABELS[:2], row])
    said = fails(capsys, *KTO, "--data", "bad.jsonl", "--out", "run")
    assert "bad.jsonl, row 3: " in said
    assert message in said
    assert "--skip-bad 1" in said
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "good.jsonl"], "good.jsonl: all 12 completions are labelled true; expected some of each label"),
        (["--data", "bad.jsonl"], "bad.jsonl: all 12 completions are labelled false; expected some of each label"),
        (["--validation", "good.jsonl"], "good.jsonl: all 12 completions are labelled true"),
        (["--data", "one.jsonl"], "one.jsonl has one prompt, and a part of the prompts is held out"),
        (["--data", "rare.jsonl"], "prompts are held out whole, and the held-out part has 0 labelled true and 0 "),
        (["--data", "mixed.jsonl"], "mixed.jsonl, row 3: a file holds comparisons or labels of single texts, not both"),
        (["--batch-size", "1"], "batch_size=1; expected at least 2"),
        (["--beta", "0"], "beta=0"),
        (["--undesirable-weight", "0"], "undesirable_weight=0"),
        (["--max-new-tokens", "80"], "context of 64"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    write("good.jsonl", [row for row in LABELS if row["label"]])
    write("bad.jsonl", [row for row in LABELS if not row["label"]])
    write("one.jsonl", LABELS[:2])
    write("rare.jsonl", [LABELS[0], LABELS[3]])
    write("mixed.jsonl", [*LABELS[:2], *PAIRS])
    assert message in fails(capsys, *KTO, *flags, "--out", "run")
    assert not Path("run").exists()
