"""``textgym dpo`` from the outside: what a user types, what stands on disk afterwards, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.agents.offline.preference_loop import Learning
from textgym.cli import main

pytestmark = pytest.mark.usefixtures("unrendered")

PAIRS = [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i} w7", "rejected": f"w{i} w3"} for i in range(12)]
DPO = ["dpo", "--model", "model", "--data", "pairs.jsonl", "--eval-episodes", "8", "--max-new-tokens", "6"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model with its tokenizer, and comparisons."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    write("pairs.jsonl", PAIRS)
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows))


def test_from_comparisons_to_a_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rankings = [{"prompt": "w1 w9", "completions": ["w3", "w7", "w3 w3"], "ranks": [1, 0, 1]}]
    write("more.jsonl", rankings)
    flags = ["--learning-rate", "1e-2", "--batch-size", "4", "--epochs", "2", "--validation", "more.jsonl"]
    main([*DPO, *flags, "--out", "run"])
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert rows[-1]["validation/margin"] > 0 == rows[0]["validation/margin"]
    assert "held-out accuracy" in capsys.readouterr().out
    assert (place / "run" / "report.html").is_file()
    opened = AutoModelForCausalLM.from_pretrained(place / "run" / "checkpoint")
    assert not torch.equal(opened(torch.tensor([[3, 4]])).logits, tiny_gpt2()(torch.tensor([[3, 4]])).logits)
    main(["generate", "--model", "run", "--prompt", "w1 w2", "--max-new-tokens", "4"])
    assert "--overwrite" in fails(capsys, *DPO, "--out", "run")
    main([*DPO, "--out", "run", "--overwrite"])


def test_resume_ends_as_an_uninterrupted_run(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*DPO, "--epochs", "3", "--learning-rate", "1e-2", "--batch-size", "4"]
    main([*flags, "--out", "whole"])
    whole_epoch = Learning.epoch
    epochs_left = [1]

    def fused(self: Any, number: int) -> Any:
        if not epochs_left:
            raise ValueError("the fuse blew")
        epochs_left.pop()
        return whole_epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Learning, "epoch", fused)
        assert "the fuse blew" in fails(capsys, *flags, "--out", "parts")
    assert len((place / "parts" / "metrics.jsonl").read_text().splitlines()) == 2  # it blew in the second epoch
    assert "other settings" in fails(capsys, *flags, "--beta", "0.3", "--out", "parts", "--resume")
    main([*flags, "--out", "parts", "--resume"])

    def result(name: str) -> tuple[bytes, ...]:
        files = ("checkpoint/model.safetensors", "metrics.jsonl", "evaluation.json", "samples.jsonl")
        return tuple((place / name / file).read_bytes() for file in files)

    assert result("parts") == result("whole")
    assert not (place / "parts" / "training").exists()
    main([*flags, "--out", "parts", "--resume"])  # nothing is left to do
    assert result("parts") == result("whole")


def test_a_task_judges_on_its_own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textgym.commands import train
    from textgym.registration import load_task
    from textgym.tasks.mini.concepts import CONCEPTS

    rng = np.random.default_rng(0)
    rows = []
    for example in (CONCEPTS.draw(rng) for _ in range(16)):
        rows.append({"prompt": example.prompt, "chosen": example.reference, "rejected": " It is a day."})
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", rows)
    task = load_task("textgym/Concepts-v0")
    few = {split: prompts[:16] for split, prompts in task.splits.items()}
    monkeypatch.setattr(train, "load_task", lambda _: type(task)(**{**vars(task), "splits": few}))
    main(["dpo", "--task", "textgym/Concepts-v0", "--data", "pairs.jsonl", "--eval-episodes", "8", "--out", "run"])
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"score", "grammatical", "kl"} <= evaluation["after"].keys()
    assert evaluation["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert evaluation["after"]["kl"]["mean"] > 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "w1", "chosen": "w2", "rejected": "w2"}, "bad.jsonl, row 2: chosen and rejected are the same"),
        ({"prompt": "w1", "chosen": "w2", "rejected": ""}, "bad.jsonl, row 2: rejected is ''"),
        ({"prompt": "w1", "chosen": "w2"}, "bad.jsonl, row 2: expected the fields"),
        ({"prompt": "w1", "completions": ["w2", "w3"], "ranks": [0, 0]}, "bad.jsonl, row 2: all ranks are tied"),
        (
            {"prompt": "w1", "completions": ["w2", "w3", "w2"], "ranks": [0, 1, 2]},
            "bad.jsonl, row 2: two completions of",
        ),
        ({"prompt": "w1", "chosen": "w2 " * 70, "rejected": "w2"}, "bad.jsonl, row 2: prompt, completion and end"),
        ({"prompt": "", "chosen": "w2", "rejected": "w3"}, "bad.jsonl, row 2: prompt is ''"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], message: str
) -> None:
    write("bad.jsonl", [PAIRS[0], row])
    assert message in fails(capsys, *DPO, "--data", "bad.jsonl", "--out", "run")
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "labels.jsonl"], "labels of single completions"),
        (["--data", "one.jsonl"], "one.jsonl has one prompt, and a part of the prompts is held out"),
        (["--beta", "0"], "beta=0"),
        (["--eval-episodes", "0"], "eval_episodes=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--max-new-tokens", "80"], "context of 64"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    write("labels.jsonl", [{"prompt": "w1", "completion": "w2", "label": True}])
    write("one.jsonl", PAIRS[:1])
    assert message in fails(capsys, *DPO, *flags, "--out", "run")
    assert not (place / "run").exists()
