"""The files and the commands of docs/instruct.md do what the page says, on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import textgym.agents
import textgym.rewards
from tests.helpers import tiny_gpt2
from tests.test_tokenization import byte_tokenizer
from textgym.cli import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "instruct.md").read_text(encoding="utf-8")
SMALL = {
    "sft": "--epochs 1 --eval-episodes 2 --max-new-tokens 4",
    "reward-model": "",
    "train": "--episodes-per-iteration 2 --minibatch-size 2 --total-timesteps 4 --eval-episodes 2 --max-new-tokens 4",
    "dpo": "--eval-episodes 2 --max-new-tokens 4",
    "kto": "--eval-episodes 2 --max-new-tokens 4",
    "distill": "--episodes-per-iteration 2 --minibatch-size 2 --total-timesteps 4 --eval-episodes 2 --max-new-tokens 4",
    "generate": "--max-new-tokens 4",
}
PRINTED = {
    "sft": "kept, by loss",
    "reward-model": "accuracy of 'the longer wins'",
    "train": "alignment tax",
    "dpo": "held-out accuracy",
    "kto": "held-out accuracy",
    "distill": "KL to the teacher",
    "generate": "Human: A review, please.",
}


def commands() -> list[list[str]]:
    """Return the lines of the page's first listing, as what a shell would pass."""
    listing = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0]
    return [shlex.split(line)[1:] for line in listing.replace("\\\n", " ").splitlines()]


def test_the_commands_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rows in re.findall(r'```json title="(\S+)"\n(.*?)```', PAGE, re.DOTALL):
        (tmp_path / name).write_text(rows, encoding="utf-8")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    model = tiny_gpt2(len(tokenizer), positions=256)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained("MODEL")
    tokenizer.save_pretrained("MODEL")
    capsys.readouterr()
    for command, *flags in commands():
        main([command, *flags, *shlex.split(SMALL[command])])
        assert PRINTED[command] in capsys.readouterr().out
    assert {Path(flags[-1]).name for _, *flags in commands()} >= {"sft", "reward", "policy", "dpo", "kto", "student"}
    tax = json.loads((tmp_path / "runs" / "policy" / "evaluation.json").read_text())
    assert "ptx_loss" in tax["after"]


def test_every_command_is_explained() -> None:
    assert {command for command, *_ in commands()} == SMALL.keys()
    explained = set(re.findall(r"^\*\*`textgym (\S+)`\*\*", PAGE, re.MULTILINE))
    assert explained == SMALL.keys() - {"generate"}


def test_the_names_in_python_exist() -> None:
    named = re.findall(r"`textgym\.(agents|rewards)\.(\w+)", PAGE)
    assert {"fine_tune", "train_reward_model", "train_dpo", "train_kto"} <= {name for _, name in named}
    assert all(name in getattr(textgym, package).__all__ for package, name in named)


def test_the_figures_are_there() -> None:
    shown = re.findall(r"\]\((figures/\S+)\)", PAGE)
    assert shown == ["figures/sft-curve.svg", "figures/sft-curve-dialogue.svg"]
    for path in shown:
        assert (ROOT / "docs" / path).read_text(encoding="utf-8").rstrip().endswith("</svg>")
