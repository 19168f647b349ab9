"""``textgym train --pretraining`` from the outside: what is learned, what is measured, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.agents.offline import alignment_tax as forgetting
from textgym.agents.offline.data import Demonstration
from textgym.cli import main
from textgym.lm.files.loading import load_lm
from textgym.lm.trunk import Trunk
from textgym.reports.before_after import changes_of
from textgym.runs import alignment_tax
from textgym.runs.pretraining_texts import read_texts
from textgym.tasks.mini.arithmetic import ARITHMETIC
from textgym.tasks.mini.base_model import LANGUAGES
from textgym.tasks.mini.miniature import BASE_MODEL, Miniature, shared_tokenizer
from textgym.types import Prompt

TEXTS = [f"w{i % 14} w{i // 14} w{(i * 3) % 14}" for i in range(20)]
TRAIN = [
    *("train", "--model", "model", "--prompts", "prompts.jsonl", "--reward", "length", "--max-new-tokens", "6"),
    *("--eval-episodes", "8", "--episodes-per-iteration", "8", "--minibatch-size", "8", "--total-timesteps", "60"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model with its tokenizer, prompts, and texts."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    Path("prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) for i in range(6)))
    Path("texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    Path("texts.txt").write_text("\n\n".join(TEXTS))
    return tmp_path


def test_text_is_learned_and_the_tax_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pretraining", "texts.jsonl", "--ptx-coef", "2", "--ptx-batch-size", "4", "--checkpoint-every", "1"]
    main([*TRAIN, *flags, "--learning-rate", "3e-3", "--out", "run"])
    printed = capsys.readouterr().out
    evaluation = json.loads((place / "run" / "evaluation.json").read_text())
    before, after = (evaluation[stage]["ptx_loss"]["mean"] for stage in ("before", "after"))
    assert after < before
    assert f"alignment tax: {after - before:+.4f} nats per token" in printed
    assert "ptx_loss" in printed
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["train/ptx_loss"] > 0 for row in rows)
    state = json.loads((place / "run" / "checkpoint" / "training" / "state.json").read_text())
    assert state["pretraining"]["coefficient"] == 2
    assert state["pretraining"]["n_texts"] == 18  # of 20, a tenth measures
    assert "ptx_coef" in fails(capsys, *TRAIN, *flags, "--ptx-coef", "3", "--out", "run", "--resume")
    main([*TRAIN, *flags, "--learning-rate", "3e-3", "--out", "run", "--resume"])


def test_lines_of_a_plain_file_are_texts(place: Path) -> None:
    assert read_texts(place / "texts.txt") == read_texts(place / "texts.jsonl") == TEXTS


@pytest.mark.parametrize("source", ["task", "mini"])
def test_a_task_and_the_mini_tasks_give_texts(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from textgym.commands import train
    from textgym.registration import load_task
    from textgym.runs import pretraining_texts

    task = load_task("textgym/Reviews-v0")
    few = {split: prompts[:24] for split, prompts in task.splits.items()}
    monkeypatch.setattr(train, "load_task", lambda _: type(task)(**{**vars(task), "splits": few}))
    monkeypatch.setattr(pretraining_texts, "MINI_TEXTS", 24)
    monkeypatch.setattr(pretraining_texts, "MOST_HELD_OUT", 16)
    monkeypatch.setattr(forgetting, "REFERENCES", 4)
    flags = ["--total-timesteps", "100", "--eval-episodes", "8", "--episodes-per-iteration", "8"]
    main(["train", "--task", "textgym/Reviews-v0", "--minibatch-size", "8", "--pretraining", source, "--algorithm",
          "grpo", *flags, "--out", str(tmp_path / "run")])  # fmt: skip
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    before, after = ({name: one["mean"] for name, one in evaluation[s].items()} for s in ("before", "after"))
    assert 0 < before["ptx_loss"] < 4  # the base model knows these languages
    others = [f"loss/{language.name}" for language in LANGUAGES if language.name != "Reviews"]
    assert sorted([*others, "loss/others"]) == sorted(name for name in before if name.startswith("loss/"))
    assert before["loss/others"] == pytest.approx(sum(before[name] for name in others) / 7)
    assert before["loss/Arithmetic"] == pytest.approx(base_loss(ARITHMETIC, 4), rel=1e-4)
    table, tax = capsys.readouterr().out.split("alignment tax: ")
    assert "loss/others" in table
    assert "loss/Arithmetic" not in table
    assert f"{after['loss/others'] - before['loss/others']:+.4f} of the other mini tasks' references" in tax
    assert f"Arithmetic {after['loss/Arithmetic'] - before['loss/Arithmetic']:+.3f}" in tax


@torch.no_grad()
def base_loss(language: Miniature, count: int) -> float:
    """−log p per token of the base model's on reference texts, text by text, by transformers' own loss."""
    tokenizer, model = shared_tokenizer(), load_lm(BASE_MODEL)
    rng = np.random.default_rng(0)
    losses, tokens = 0.0, 0
    for example in [language.draw(rng) for _ in range(count)]:
        prompt, whole = (tokenizer(text)["input_ids"] for text in (example.prompt, example.prompt + example.reference))
        ids = torch.tensor([[*whole, tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[0, : len(prompt)] = -100
        n = ids.shape[1] - len(prompt)
        losses, tokens = losses + float(model(ids, labels=labels).loss) * n, tokens + n
    return losses / tokens


def test_what_a_model_cannot_read_is_left_out() -> None:
    short = tiny_gpt2(positions=8)
    first = Prompt("w1", "w1", (3,))
    texts = {"loss/a": [Demonstration(first, (4,) * 7)], "loss/b": [Demonstration(first, (4,) * n) for n in (2, 8)]}
    assert forgetting.fitting(Trunk(short), texts).keys() == {"loss/a"}


def test_the_report_shows_the_mean_over_tasks_alone(tmp_path: Path) -> None:
    losses = {"ptx_loss": 1.0, "loss/Stories": 0.4, "loss/Captions": 0.6, "loss/others": 0.5}
    stages = {"before": 0.0, "after": 0.25}
    evaluation = {
        stage: {"score": {"mean": 0.5, "sem": 0.1}, **{n: {"mean": v + rise, "sem": 0.01} for n, v in losses.items()}}
        for stage, rise in stages.items()
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    rows = changes_of(evaluation)
    assert [row.name for row in rows] == ["score", "ptx_loss", "loss/others"]
    assert [row.verdict for row in rows] == ["unclear", "worse", "worse"]
    assert alignment_tax(tmp_path) == (
        "alignment tax: +0.2500 nats per token of held-out pretraining text; "
        "+0.2500 of the other mini tasks' references (Stories +0.250, Captions +0.250)"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pretraining", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--pretraining", "empty.jsonl"], "'empty.jsonl' has no text"),
        (["--pretraining", "blank.txt"], "'blank.txt' has no text"),
        (["--pretraining", "one.txt"], "'one.txt' has a single text"),
        (["--pretraining", "bare.jsonl"], "bare.jsonl, row 2: no field 'text'; got the fields ['prompt']"),
        (["--pretraining", "hollow.jsonl"], "hollow.jsonl, row 2: text is ' '"),
        (["--pretraining", "torn.jsonl"], "torn.jsonl, line 2"),
        (["--pretraining", "task"], "pass --task"),
        (["--pretraining", "texts.txt", "--ptx-coef", "-1"], "ptx_coef=-1"),
        (["--pretraining", "texts.txt", "--ptx-batch-size", "0"], "batch_size=0"),
        (["--ptx-coef", "1"], "pass --pretraining"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    Path("empty.jsonl").write_text("")
    Path("blank.txt").write_text("\n \n")
    Path("one.txt").write_text("w1 w2\nw1 w2\n")
    Path("bare.jsonl").write_text('{"text": "w1 w2"}\n{"prompt": "w1"}\n')
    Path("hollow.jsonl").write_text('{"text": "w1 w2"}\n{"text": " "}\n')
    Path("torn.jsonl").write_text('{"text": "w1 w2"}\n{"text": "w\n')
    assert message in fails(capsys, *TRAIN, *flags, "--out", "run")
    assert not (place / "run").exists()
