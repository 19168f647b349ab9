"""The tokenizer and the model of the mini tasks with turns, and how they are rebuilt."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import play
from textgym.registration import load_task, task_mdp
from textgym.tasks.mini import turns_model
from textgym.tasks.mini.base_model import IGNORED, build_tokenizer
from textgym.tasks.mini.calculator import NO_NUMBER
from textgym.tasks.mini.conversation import TURNS_MODEL, turns_tokenizer

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("Waiter", {}),
    ("Waiter", {"simulator": "second"}),
    ("Calculator", {}),
    ("Calculator", {"tool": False}),
]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(TURNS_MODEL)


def test_shipped_folder_is_small_and_names_no_machine() -> None:
    files = sorted(TURNS_MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) <= 1_300_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not any("/" in path.read_text() for path in files if "config" in path.name)


def test_what_the_calculator_refuses_is_words() -> None:
    tokenizer = turns_tokenizer()
    ids = tokenizer(f" error: ValueError: {NO_NUMBER}")["input_ids"]
    assert [tokenizer.decode(i) for i in ids] == [
        " error", ":", " ValueError", ":", " no", " number", " from", " zero", " to", " twenty"
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_the_model_fits_every_task(name: str, parameters: dict[str, Any], model: PreTrainedModel) -> None:
    task, config = load_task(name, **parameters), model.config
    assert config.vocab_size == len(task.tokenizer)
    assert config.pad_token_id == task.tokenizer.pad_token_id
    assert config.n_positions >= task.max_prompt_length + task.max_new_tokens
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.0
    lengths = [len(prompt.ids) for prompts in task.splits.values() for prompt in prompts]
    assert max(lengths) <= task.max_prompt_length <= max(lengths) + 4


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_the_model_takes_every_part_badly(name: str, parameters: dict[str, Any], model: PreTrainedModel) -> None:
    """Most episodes end as they should, with gold clearly above 0 and clearly below the scripted policy's."""
    task = load_task(name, **parameters)
    mdp = task_mdp(task, split="test")
    episodes = play(acting_policy(model, mdp), mdp, np.arange(200), seed=0)
    assert np.mean(episodes.stopped) >= 0.95
    assert 0.2 < episodes.rewards.sum(1).mean() < 0.65


def test_only_the_policys_own_tokens_are_targets() -> None:
    tokenizer = turns_tokenizer()
    talk = [("Anna: Hi.\nWaiter:", False), (" What can I get you?\n", True), ("Guest: A tea.\nWaiter:", False)]
    own = (" Which size would you like?\n", True)
    rows = [turns_model._encoded(tokenizer, one) for one in ([*talk, own], talk[:2])]
    inputs, targets = turns_model._shifted(rows, 1)
    kept = targets != IGNORED
    assert tokenizer.decode(targets[0][kept[0]]) == " What can I get you?\n Which size would you like?\n"
    assert tokenizer.decode(targets[1][kept[1]]) == " What can I get you?\n"
    assert tokenizer.decode(inputs[0]) == "".join(text for text, _ in [*talk, own])[:-1]
    # Each target is the token after its input.
    assert torch.equal(inputs[0, 1:][kept[0, :-1]], targets[0, :-1][kept[0, :-1]])


def test_a_long_dialogue_is_cut() -> None:
    """Rarely a careless waiter and a guest say more than the model reads."""
    long = [("Anna: Hi.\nWaiter:", False), (" What can I get you?\n" * 30, True)]
    ids, own = turns_model._encoded(turns_tokenizer(), long)
    assert len(ids) == len(own) == turns_model.POSITIONS


def test_the_rebuild_command_writes_what_plain_loaders_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["turns_model", "--out", str(tmp_path), "--steps", "3"])
    monkeypatch.setattr(turns_model, "BATCH", 8)
    state = torch.get_rng_state()
    turns_model.main()
    assert torch.equal(torch.get_rng_state(), state)
    # The shipped tokenizer is what the command builds, to the byte.
    assert (tmp_path / "tokenizer.json").read_bytes() == (TURNS_MODEL / "tokenizer.json").read_bytes()
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(turns_tokenizer())
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() > 0


def test_batches_repeat() -> None:
    tokenizer = build_tokenizer("".join(text for text, _ in talk) for talk in turns_model.corpus(rng(), 200))
    first, second = (list(turns_model.batches(tokenizer, rng(), 3)) for _ in range(2))
    assert len(first) == 3
    assert all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def rng() -> np.random.Generator:
    return np.random.default_rng(0)
