"""``textgym reward-model`` from the outside: what a user types, what stands on disk afterwards, what bad input says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.cli import main
from textgym.rewards import RewardEnsemble, RewardModel, load_reward_model, resolve_reward

pytestmark = pytest.mark.usefixtures("unrendered")

GOLD = """
def fives(completions, **kwargs):
    return [float(text.split().count("w5")) for text in completions]
"""
PROMPTS = [f"w{i} w{j}" for i in range(6, 12) for j in range(6, 12)]
TEXTS = [" w5 w5 w5", " w5 w5 w6", " w6 w5 w7", " w7 w6 w6"]
RANKINGS = [{"prompt": prompt, "completions": TEXTS, "ranks": [0, 1, 2, 3]} for prompt in PROMPTS]
PAIRS = [{"prompt": prompt, "chosen": " w5 w5", "rejected": " w6 w7 w8"} for prompt in PROMPTS]
LABELS = [{"prompt": p, "completion": text, "label": i < 2} for p in PROMPTS for i, text in enumerate(TEXTS)]
DIALOGUES = [
    {"chosen": f"Human: {p}\n\nAssistant: w5 w5", "rejected": f"Human: {p}\n\nAssistant: w6 w7"} for p in PROMPTS
]
SHOWN = [{"prompt": prompt, "completion": " w5"} for prompt in PROMPTS[:4]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model with its tokenizer, preferences, demonstrations, and a true reward."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    write("rankings.jsonl", RANKINGS)
    write("shown.jsonl", SHOWN)
    (tmp_path / "gold.py").write_text(GOLD)
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows))


TRAIN = ["reward-model", "--model", "model", "--learning-rate", "3e-3", "--epochs", "3", "--heldout", "0.2"]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must end with a message; the message."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code in (1, 2)
    return re.sub(r"\s+", " ", capsys.readouterr().err)


def test_from_rankings_to_a_reward(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForSequenceClassification

    flags = [*TRAIN, "--data", "rankings.jsonl", "--demonstrations", "shown.jsonl", "--gold", "gold.py:fives"]
    main([*flags, "--out", "run"])
    assert "accuracy of 'the longer wins'" in capsys.readouterr().out
    run = place / "run"
    found = read(run / "evaluation.json")
    assert found["accuracy"] > 0.9
    assert found["pairs"] == 7 * 6  # 36 prompts, a fifth of them held out, 6 pairs each
    assert set(found["accuracy_by_rank_distance"]) == {"1", "2", "3"}
    assert found["length_baseline"] == 0.5  # all texts are equally long
    assert found["gold"]["ceiling"] == 1.0
    assert found["gold"]["agreement"] == found["accuracy"]
    assert 0 <= found["calibration"]["expected_error"] <= 1
    assert sum(part["count"] for part in found["calibration"]["bins"]) == 2 * 42
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in steps] == list(range(1, 12))  # 3 · 29 prompts in batches of 8
    assert steps[-1]["train/loss"] < steps[0]["train/loss"]
    assert read(run / "config.json")["command"] == "reward-model"
    assert "held-out pairs" in (run / "report.html").read_text()

    model = RewardModel.load(run / "checkpoint")
    prompts, texts = [row["prompt"] for row in SHOWN], [row["completion"] for row in SHOWN]
    assert sum(model.score(prompts, texts)) / len(SHOWN) == pytest.approx(0, abs=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(run / "checkpoint").eval()
    ids = model.encode(prompts[0], TEXTS[0])
    with torch.no_grad():
        before_the_offset = plain(torch.tensor([ids])).logits.item()
    assert model.score_ids([ids])[0] == pytest.approx(before_the_offset - model.offset, abs=1e-6)
    assert model.offset != 0
    reward = resolve_reward("rm:run", {})  # the run stands for what it learned
    good, bad = reward([PROMPTS[0]] * 2, [TEXTS[0], TEXTS[3]], completion_ids=[[], []])
    assert good > bad


def test_gold_receives_the_fields_of_the_prompts(place: Path) -> None:
    rule = """def wished(completions, wish, prompt_ids, **kwargs):
    assert all(prompt_ids)
    return [float(w in t) for t, w in zip(completions, wish)]
"""
    (place / "gold.py").write_text(rule)
    write("rankings.jsonl", RANKINGS[:8])
    write("prompts.jsonl", [{"prompt": prompt, "wish": "w6"} for prompt in PROMPTS])
    flags = ["--data", "rankings.jsonl", "--gold", "gold.py:wished", "--prompts", "prompts.jsonl"]
    main([*TRAIN[:3], *flags, "--out", "run"])
    # The best text alone lacks w6: gold contradicts 3 of 6 pairs, and the 3 others tie.
    assert read(place / "run" / "evaluation.json")["gold"]["ceiling"] == 0.25


def test_an_ensemble_is_a_reward(place: Path) -> None:
    flags = [*TRAIN, "--data", "rankings.jsonl", "--ensemble", "2", "--combine", "uncertainty"]
    main([*flags, "--uncertainty-weight", "0.5", "--out", "run"])
    loaded = load_reward_model("run")
    assert isinstance(loaded, RewardEnsemble)
    assert (loaded.combine, loaded.uncertainty_weight, len(loaded.members)) == ("uncertainty", 0.5, 2)
    first, second = (member.score([PROMPTS[0]], [TEXTS[0]])[0] for member in loaded.members)
    assert first != second
    expected = (first + second) / 2 - 0.5 * ((first - second) / 2) ** 2
    reward = resolve_reward("rm:run,2", {})
    assert reward([PROMPTS[0]], [TEXTS[0]], completion_ids=[[]]) == pytest.approx([2 * expected])
    found = read(place / "run" / "evaluation.json")
    assert len(found["members"]) == 2
    assert found["accuracy"] > 0.9
    steps = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/loss_member_0", "train/loss_member_1"} <= steps[0].keys()
    assert all(member.offset != 0 for member in loaded.members)  # or they could not be compared


@pytest.mark.parametrize("rows", [PAIRS, DIALOGUES, LABELS], ids=["pairs", "dialogues", "labels"])
def test_other_layouts(place: Path, rows: list[dict[str, Any]]) -> None:
    write("data.jsonl", rows)
    main([*TRAIN, "--data", "data.jsonl", "--out", "run"])
    found = read(place / "run" / "evaluation.json")
    assert found["accuracy"] > 0.9
    if rows is LABELS:
        assert found["label_accuracy"] > 0.7
        assert sum(part["count"] for part in found["calibration"]["bins"]) == 7 * 4
    if rows is PAIRS:
        assert found["length_baseline"] == 0.0  # the chosen text is always the shorter one
    assert read(place / "run" / "reward_model.json")["offset"] == 0


def test_a_cut_off_run_is_done_again_and_a_whole_one_is_kept(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*TRAIN, "--data", "rankings.jsonl"]
    main([*flags, "--out", "whole"])

    def cut(*_: Any) -> None:
        raise ValueError("the fuse blew")

    with monkeypatch.context() as patched:
        patched.setattr(RewardModel, "save", cut)
        assert "the fuse blew" in fails(capsys, *flags, "--out", "parts")
    assert "--resume" in fails(capsys, *flags, "--out", "parts")
    main([*flags, "--out", "parts", "--resume"])
    files = ("checkpoint/model.safetensors", "metrics.jsonl", "evaluation.json")
    assert [(place / "parts" / f).read_bytes() for f in files] == [(place / "whole" / f).read_bytes() for f in files]
    with monkeypatch.context() as patched:
        patched.setattr(RewardModel, "save", cut)
        main([*flags, "--out", "parts", "--resume"])  # nothing is left to do
    assert "other settings" in fails(capsys, *flags, "--seed", "1", "--out", "parts", "--resume")


def test_a_task_gives_model_gold_and_demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textgym.registration import load_task

    monkeypatch.chdir(tmp_path)
    prompts = load_task("textgym/Reviews-v0").prompts("train")[:12]
    texts = [str(prompt.columns["reference"]) for prompt in prompts]
    rows = [
        {"prompt": prompt.text, "completions": [texts[i], texts[i - 1], " ."], "ranks": [0, 0, 1]}
        for i, prompt in enumerate(prompts)
    ]
    write("data.jsonl", rows)
    main(["reward-model", "--task", "textgym/Reviews-v0", "--data", "data.jsonl", "--out", "run"])
    found = read(tmp_path / "run" / "evaluation.json")
    assert found["pairs"] == 2  # of the one prompt that is held out; the tie is none
    assert found["gold"]["ceiling"] is not None
    assert found["offset"] != 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "w1", "completions": [" w2"], "ranks": [0]}, "at least 2 completions, got 1"),
        ({"prompt": "w1", "completions": [" w2", " w3"], "ranks": [0]}, "2 completions and 1 ranks"),
        ({"prompt": "w1", "completions": [" w2", " w3"], "ranks": [1, 1]}, "all ranks are tied"),
        ({"prompt": "w1", "completions": [" w2", " "], "ranks": [0, 1]}, "number 2 is ' '"),
        ({"prompt": "w1", "chosen": " w2", "rejected": " w2"}, "chosen and rejected are the same text"),
        ({"prompt": "w1", "chosen": " w2", "rejected": ""}, "rejected is ''"),
        ({"chosen": "w2", "rejected": "w3"}, "must have a common beginning"),
        ({"prompt": "w1", "completion": " w2", "label": True}, "not both"),
        ({"prompt": "w1", "completion": " w2", "label": "yes"}, "label: expected true or false"),
        ({"prompt": "w1", "text": "w2"}, "got prompt, text"),
        ({"prompt": "w1 " * 70, "chosen": " w2", "rejected": " w3"}, "72 tokens, the reward model reads at most 64"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], message: str
) -> None:
    write("bad.jsonl", [RANKINGS[0], row])
    said = fails(capsys, *TRAIN, "--data", "bad.jsonl", "--out", "run")
    assert "bad.jsonl, row 2" in said
    assert message in said
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "one.jsonl"], "heldout"),
        (["--data", "good.jsonl"], "every label is True"),
        (["--validation", "labels.jsonl"], "one holds comparisons"),
        (["--demonstrations", "bare.jsonl"], "bare.jsonl, row 1: no field 'completion'"),
        (["--heldout", "1.5"], "heldout=1.5; expected a finite number, more than 0 and less than 1"),
        (["--ensemble", "0"], "ensemble=0"),
        (["--uncertainty-weight", "-1"], "uncertainty_weight=-1"),
        (["--learning-rate", "0"], "learning_rate"),
        (["--epochs", "0"], "epochs"),
        (["--seed", "-1"], "seed=-1"),
        (["--gold", "glod"], "unknown reward 'glod'"),
        (["--gold", "gold.py:nothing"], "has no 'nothing'"),
        (["--task", "textgym/Revues-v0"], "Reviews-v0"),
        (["--model", "untold"], "no tokenizer"),
    ],
)
def test_bad_settings_stop_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    write("one.jsonl", RANKINGS[:1])
    write("labels.jsonl", LABELS)
    write("good.jsonl", LABELS[:2])
    write("bare.jsonl", [{"prompt": "w1"}])
    tiny_gpt2().save_pretrained(place / "untold")
    assert message in fails(capsys, *TRAIN, "--data", "rankings.jsonl", "--out", "run", *flags)
    assert not (place / "run").exists()


def test_without_task_or_model_there_is_nothing_to_begin_from(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model is needed" in fails(capsys, "reward-model", "--data", "rankings.jsonl", "--out", "run")


def test_conversations_are_rendered(place: Path) -> None:
    def dialogue(prompt: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    write("data.jsonl", [{"chosen": dialogue(p, "w5 w5"), "rejected": dialogue(p, "w6")} for p in PROMPTS[:6]])
    main([*TRAIN, "--data", "data.jsonl", "--out", "run"])
    assert read(place / "run" / "evaluation.json")["pairs"] == 1
