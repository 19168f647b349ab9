"""What commands read, skip and print of other people's texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.cli import main
from textgym.commands.configs.reward_model import RewardModelConfig
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.reward_model import gather as gather_reward_model
from textgym.commands.sft import gather as gather_sft
from textgym.runs import sample_pairs

CLEAR = "\x1b[2J"
GOOD_PAIRS = [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i} w7", "rejected": f"w{i} w3"} for i in range(8)]
BAD_PAIRS = {
    "too long": {"prompt": "w1 " * 80, "chosen": "w2", "rejected": "w3"},
    "equal": {"prompt": "w1", "chosen": "w2", "rejected": "w2"},
    "blank": {"prompt": "w1", "chosen": "w2", "rejected": " "},
}
SHOWN = [{"prompt": f"w{i}", "completion": f"w{i} w7"} for i in range(6)]
BAD_SHOWN = {"too long": {"prompt": "w1 " * 80, "completion": "w2"}, "blank": {"prompt": "w1", "completion": "\n "}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return Path(name)


@pytest.mark.parametrize("what", BAD_SHOWN)
def test_a_demonstration_that_teaches_nothing_is_refused_or_left_out(place: Path, what: str) -> None:
    data = write("data.jsonl", [*SHOWN[:3], BAD_SHOWN[what], *SHOWN[3:]])
    with pytest.raises(ValueError, match=r"data\.jsonl, row 4: "):
        gather_sft(SFTConfig(Path("out"), data, model="model"))
    made = gather_sft(SFTConfig(Path("out"), data, model="model", bad_rows="skip"))
    assert len(made.demonstrations) + len(made.validation) == len(SHOWN)
    assert made.skipped is not None
    assert [text.partition(":")[0] for text in made.skipped] == ["data.jsonl, row 4"]


@pytest.mark.parametrize("what", BAD_PAIRS)
def test_a_pair_that_teaches_a_reward_model_nothing_is_refused_or_left_out(place: Path, what: str) -> None:
    data, shown = (
        write("pairs.jsonl", [BAD_PAIRS[what], *GOOD_PAIRS]),
        write("shown.jsonl", [*SHOWN, *BAD_SHOWN.values()]),
    )
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 1"):
        gather_reward_model(RewardModelConfig(Path("out"), data, model="model"))
    with pytest.raises(ValueError, match=r"shown\.jsonl, row 7"):
        gather_reward_model(RewardModelConfig(Path("out"), data, model="model", demonstrations=shown))
    made = gather_reward_model(
        RewardModelConfig(Path("out"), data, model="model", demonstrations=shown, bad_rows="skip")
    )
    assert (len(made.learned) + len(made.heldout), len(made.shown)) == (len(GOOD_PAIRS), len(SHOWN))
    assert made.skipped is not None
    assert len(made.skipped) == 3


def test_dpo_counts_what_it_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("pairs.jsonl", [*GOOD_PAIRS, *BAD_PAIRS.values()])
    flags = [
        "--model",
        "model",
        "--data",
        "pairs.jsonl",
        "--eval-episodes",
        "4",
        "--max-new-tokens",
        "3",
        "--out",
        "run",
    ]
    assert "pairs.jsonl, row 10: chosen and rejected are the same text" in fails(capsys, "dpo", *flags)
    assert not Path("run").exists()
    main(["dpo", *flags, "--bad-rows", "skip", "--epochs", "1"])
    assert "rows left out: 3; the first: pairs.jsonl, row 10: chosen and rejected" in capsys.readouterr().out
    assert json.loads(Path("run/evaluation.json").read_text())["skipped_rows"] == 3
    assert json.loads(Path("run/config.json").read_text())["bad_rows"] == "skip"


def test_a_file_of_bad_rows_alone_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("pairs.jsonl", [BAD_PAIRS["equal"]])
    said = fails(capsys, "dpo", "--model", "model", "--data", "pairs.jsonl", "--out", "run", "--bad-rows", "skip")
    assert "no row is left to learn from. pairs.jsonl, row 1: chosen and rejected are the same" in said


def test_what_is_printed_commands_no_terminal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("prompts.jsonl", [{"prompt": f"w1 {CLEAR} w2"}])
    main(["generate", "--model", "model", "--prompts", "prompts.jsonl", "--max-new-tokens", "2"])
    out = capsys.readouterr().out
    assert CLEAR not in out
    assert "w1 \ufffd[2J w2" in out
    main(["generate", "--model", "model", "--prompts", "prompts.jsonl", "--max-new-tokens", "2", "--out", "said.jsonl"])
    assert json.loads(Path("said.jsonl").read_text())["prompt"] == f"w1 {CLEAR} w2"  # files keep what was written
    rows = [
        {"stage": stage, "prompt": CLEAR, "completion": f"{CLEAR}\u202e", "score": 0.0} for stage in ("before", "after")
    ]
    write("samples.jsonl", rows)
    shown = sample_pairs(place, 1)
    assert not {"\x1b", "\u202e"} & set(shown)
    assert shown.count("\ufffd") == 5


def test_what_a_reward_raises_commands_no_terminal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("prompts.jsonl", [{"prompt": f"w1 {CLEAR} w2"}])
    Path("raises.py").write_text("def raises(prompts, completions, **_):\n    raise ValueError(prompts[0])\n")
    flags = ["--model", "model", "--prompts", "prompts.jsonl", "--reward", "raises.py:raises", "--max-new-tokens", "2"]
    said = fails(capsys, "train", *flags, "--out", "run")
    assert CLEAR not in said
    assert "\ufffd[2J" in said


def test_special_tokens_of_prompts_are_parsed_on_request(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["generate", "--model", "model", "--prompt", "w1 <eos> w2", "--max-new-tokens", "2"]
    with pytest.warns(UserWarning, match="--prompt, row 1: the text holds '<eos>'"):
        main(flags)
    main([*flags, "--special-tokens", "parse", "--skip-special-tokens"])
    assert capsys.readouterr().out.count("w1 <eos> w2") == 2
