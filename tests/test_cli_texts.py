"""Other people's texts, as commands read and print them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.cli import main
from textgym.runs import sample_pairs

CLEAR = "\x1b[2J"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return Path(name)


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
