"""``textgym sft`` from the outside: what a user types, what stands on disk afterwards, and what bad input says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSeq2SeqLM

from tests.helpers import tiny_bart, tiny_gpt2, tiny_t5, word_tokenizer
from textgym.cli import main
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.sft import gather_demonstrations
from textgym.lm.files.loading import load_causal_lm

pytestmark = pytest.mark.usefixtures("unrendered")

REWARD = '''
from pathlib import Path


def fives(completions, **kwargs):
    """As TRL has it."""
    return [float(text.split().count("w5")) for text in completions]


def fused(completions, **kwargs):
    epochs = Path("parts/metrics.jsonl")
    if Path("fuse").exists() and epochs.exists() and len(epochs.read_text().splitlines()) == 2:
        raise RuntimeError("the fuse blew")
    return [float(text.split().count("w5")) for text in completions]
'''
ROWS = [{"prompt": f"w{i} w{i + 1}", "completion": f"w5 w{i}"} for i in range(10)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model with its tokenizer, demonstrations, and a file of rewards."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    write("data.jsonl", ROWS)
    (tmp_path / "rewards.py").write_text(REWARD)
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows))


SFT = [
    *("sft", "--model", "model", "--data", "data.jsonl", "--epochs", "3", "--learning-rate", "3e-3"),
    *("--batch-size", "4", "--eval-episodes", "8", "--residual-dropout", "0.2"),
]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must end with a message; the message."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code in (1, 2)
    return re.sub(r"\s+", " ", capsys.readouterr().err)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_from_demonstrations_to_a_model_that_train_goes_on_with(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SFT, "--reward", "rewards.py:fives", "--out", "run"])
    printed = capsys.readouterr().out
    rows = metrics(place / "run")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["validation/loss"] < rows[0]["validation/loss"]
    best = max(rows[1:], key=lambda row: row["validation/score"])
    assert json.loads((place / "run" / "kept.json").read_text()) == {"epoch": best["iteration"], "by": "score"}
    assert re.search(rf"^ +{best['iteration']} .*  kept, by score$", printed, re.MULTILINE)
    evaluation = json.loads((place / "run" / "evaluation.json").read_text())
    # The same prompts, the same random streams: the kept model is measured as it was after its epoch.
    assert evaluation["before"]["score"]["mean"] == pytest.approx(rows[0]["validation/score"])
    assert evaluation["after"]["score"]["mean"] == pytest.approx(best["validation/score"])
    assert evaluation["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    config = json.loads((place / "run" / "config.json").read_text())
    assert config["command"] == "sft"
    assert {"transformers", "accelerate"} <= config["versions"].keys()
    stages = {json.loads(line)["stage"] for line in (place / "run" / "samples.jsonl").read_text().splitlines()}
    assert stages == {"before", "after"}
    assert (place / "run" / "report.html").is_file()
    assert not (place / "run" / "training").exists()
    assert load_causal_lm(place / "run" / "checkpoint").config.use_cache

    main(["generate", "--model", "run", "--prompt", "w1 w2", "--max-new-tokens", "4"])
    write("prompts.jsonl", [{"prompt": row["prompt"]} for row in ROWS])
    flags = ["--max-new-tokens", "4", "--episodes-per-iteration", "4", "--minibatch-size", "4", "--eval-episodes", "4"]
    main(
        [
            *("train", "--model", "run/checkpoint", "--prompts", "prompts.jsonl", "--reward", "length", *flags),
            *("--total-timesteps", "20", "--out", "ppo"),
        ]
    )


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_an_encoder_decoder_learns_from_demonstrations_to_training(place: Path, make: Any) -> None:
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    make().save_pretrained("model")
    tokenizer.save_pretrained("model")
    main([*SFT, "--reward", "rewards.py:fives", "--out", "run"])
    rows = metrics(place / "run")
    assert rows[-1]["validation/loss"] < rows[0]["validation/loss"]
    kept = json.loads((place / "run" / "kept.json").read_text())["epoch"]
    # The kept model, opened by transformers alone: its loss on the held-out rows is the one that was written down.
    model = AutoModelForSeq2SeqLM.from_pretrained("run/checkpoint")
    held = gather_demonstrations(SFTConfig(out=Path("x"), model="model", data=Path("data.jsonl"))).validation
    losses, counts = [], []
    for one in held:
        labels = torch.tensor([one.response_ids])
        losses.append(model(input_ids=torch.tensor([one.prompt.ids]), labels=labels).loss.item())
        counts.append(labels.numel())
        assert one.prompt.ids[-1] == 1  # closed, as T5 expects
    assert np.average(losses, weights=counts) == pytest.approx(rows[kept]["validation/loss"], abs=1e-5)

    main(["generate", "--model", "run", "--prompt", "w1 w2", "--max-new-tokens", "4"])
    write("prompts.jsonl", [{"prompt": row["prompt"]} for row in ROWS])
    flags = ["--max-new-tokens", "4", "--episodes-per-iteration", "4", "--minibatch-size", "4", "--eval-episodes", "4"]
    train = ("train", "--model", "run", "--prompts", "prompts.jsonl", "--reward", "length", *flags)
    main([*train, "--total-timesteps", "20", "--out", "ppo"])


def test_without_a_reward_the_loss_chooses(place: Path) -> None:
    write("held.jsonl", ROWS[:3])
    main([*SFT, "--validation", "held.jsonl", "--out", "run"])
    rows = metrics(place / "run")
    best = min(rows[1:], key=lambda row: row["validation/loss"])
    assert json.loads((place / "run" / "kept.json").read_text()) == {"epoch": best["iteration"], "by": "loss"}
    assert "validation/score" not in rows[0]


def test_resume_ends_as_an_uninterrupted_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*SFT, "--reward", "rewards.py:fused"]
    main([*flags, "--out", "whole"])
    (place / "fuse").touch()
    said = fails(capsys, *flags, "--out", "parts")
    assert "the fuse blew" in said
    assert len(metrics(place / "parts")) == 2  # it blew when the second epoch was judged
    (place / "fuse").unlink()
    assert "--resume" in fails(capsys, *flags, "--out", "parts")
    assert "other settings" in fails(capsys, *flags, "--seed", "1", "--out", "parts", "--resume")
    main([*flags, "--out", "parts", "--resume"])

    def result(name: str) -> tuple[bytes, ...]:
        files = ("checkpoint/model.safetensors", "metrics.jsonl", "evaluation.json", "samples.jsonl", "kept.json")
        return tuple((place / name / file).read_bytes() for file in files)

    assert result("parts") == result("whole")
    main([*flags, "--out", "parts", "--resume"])  # nothing is left to do
    assert result("parts") == result("whole")


def test_a_task_gives_model_demonstrations_and_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textgym.commands import train as command
    from textgym.registration import load_task

    task = load_task("textgym/Reviews-v0")
    few = {split: prompts[:24] for split, prompts in task.splits.items()}
    monkeypatch.setattr(command, "load_task", lambda _: type(task)(**{**vars(task), "splits": few}))
    out = tmp_path / "run"
    flags = ["--epochs", "2", "--learning-rate", "1e-3", "--eval-episodes", "8", "--batch-size", "8"]
    main(["sft", "--task", "textgym/Reviews-v0", "--reward", "gold", *flags, "--out", str(out)])
    rows = metrics(out)
    assert rows[1]["validation/loss"] < rows[0]["validation/loss"]
    assert {"validation/score", "validation/grammatical", "validation/kl"} <= rows[0].keys()
    main(["train", "--task", "textgym/Reviews-v0", "--model", str(out / "checkpoint"), "--out", str(tmp_path / "ppo"),
          *("--total-timesteps", "100", "--eval-episodes", "8", "--episodes-per-iteration", "8"),
          *("--minibatch-size", "8")])  # fmt: skip


def test_reward_model_of_a_directory_judges(place: Path) -> None:
    import torch

    from textgym.rewards import RewardModel

    RewardModel.from_causal_lm("model", word_tokenizer(), torch.Generator().manual_seed(0)).save("judge")
    main([*SFT, "--reward", "rm:judge", "--out", "run"])
    assert json.loads((place / "run" / "kept.json").read_text())["by"] == "score"


def test_a_run_is_not_overwritten_unasked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    assert "not a run" in fails(capsys, *SFT, "--out", "mine", "--overwrite")
    assert (place / "mine" / "thesis.txt").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "empty.jsonl"], "empty.jsonl"),
        (["--data", "torn.jsonl"], "torn.jsonl, line 2"),
        (["--data", "bare.jsonl"], "bare.jsonl, row 2: no field 'completion'"),
        (["--data", "blank.jsonl"], "blank.jsonl, row 2: completion is ''"),
        (["--data", "mute.jsonl"], "mute.jsonl, row 2: prompt is ''"),
        (["--data", "long.jsonl"], "long.jsonl, row 2: prompt, completion and end token have 1 + 70 + 1 tokens"),
        (["--data", "one.jsonl"], "pass --validation"),
        (["--validation", "bare.jsonl"], "bare.jsonl, row 2"),
        (["--model", "untold"], "no tokenizer"),
        (["--model", "narrow"], "16 tokens, the model embeds 8"),
        (["--model", "endless"], "no end token"),
        (["--reward", "lenght"], "'length'"),
        (["--reward", "gold"], "'gold'"),
        (["--reward", "rm:nowhere"], "nowhere"),
        (["--task", "textgym/Revues-v0"], "Reviews-v0"),
        (["--max-new-tokens", "80"], "context of 64"),
        (["--eval-episodes", "0"], "eval_episodes=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--epochs", "0"], "epochs=0"),
        (["--precision", "fp16"], "accelerator"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    (place / "empty.jsonl").write_text("")
    (place / "torn.jsonl").write_text('{"prompt": "w1", "completion": "w2"}\n{"prompt": "w\n')
    write("bare.jsonl", [ROWS[0], {"prompt": "w1"}])
    write("blank.jsonl", [ROWS[0], {"prompt": "w1", "completion": ""}])
    write("mute.jsonl", [ROWS[0], {"prompt": "", "completion": "w1"}])
    write("long.jsonl", [ROWS[0], {"prompt": "w1", "completion": "w1 " * 70}])
    write("one.jsonl", ROWS[:1])
    tiny_gpt2().save_pretrained(place / "untold")
    tiny_gpt2(vocabulary_size=8).save_pretrained(place / "narrow")
    word_tokenizer().save_pretrained(place / "narrow")
    endless, mute = tiny_gpt2(), word_tokenizer()
    endless.generation_config.eos_token_id = endless.config.eos_token_id = mute.eos_token = None
    endless.save_pretrained(place / "endless")
    mute.save_pretrained(place / "endless")
    assert message in fails(capsys, *SFT, "--reward", "rewards.py:fives", "--out", "run", *flags)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "model"], "--data FILE.jsonl or --task"),
        (["--data", "data.jsonl"], "--model is needed"),
        (["--task", "textgym/Sparse-v0"], "Sparse"),
        (["--task", "textgym/Emit-v0"], "task Emit, split 'train': its prompts have no reference texts"),
        (["--task", "textgym/Calculator-v0"], "has a world (Toolbox), and this command learns from single responses"),
        (["--task", "textgym/Waiter-v0", "--data", "data.jsonl"], "has a world"),
    ],
)
def test_what_is_missing_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(capsys, "sft", *arguments, "--out", "run")
    assert not (place / "run").exists()


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sft", "--help"])
    assert stop.value.code == 0
    assert "9.65e-6" in re.sub(r"\s+", " ", capsys.readouterr().out)
