"""The tokenizer and the model that all mini tasks share, and how they are rebuilt."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from textgym.registration import load_task
from textgym.tasks import MINI
from textgym.tasks.mini import base_model
from textgym.tasks.mini.base_model import corpus
from textgym.tasks.mini.miniature import BASE_MODEL, shared_tokenizer

OPENING = 'I watched "The Silent Harbor" on Friday with my sister.'


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BASE_MODEL)


def test_tokenizer_knows_every_text_and_keeps_pad_apart() -> None:
    tokenizer = shared_tokenizer()
    text = "Žižek’s   naïve 99% 映画\n\t<review>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 2048
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id not in {tokenizer.eos_token_id, None}


def test_shipped_folder_is_small_and_names_no_machine() -> None:
    files = sorted(path for path in BASE_MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    configs = [path.read_text() for path in files if "config" in path.name]
    assert not any("/" in text for text in configs)


@pytest.mark.parametrize("name", MINI)
def test_config_fits_every_task(name: str, model: PreTrainedModel) -> None:
    task = load_task(name)
    config = model.config
    assert config.vocab_size == len(task.tokenizer)
    assert (config.eos_token_id,) == (model.generation_config.eos_token_id,) == task.end_token_ids
    assert config.pad_token_id == task.tokenizer.pad_token_id
    assert config.n_positions >= task.max_prompt_length + task.max_new_tokens
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.0
    assert model.dtype == torch.float32


@pytest.mark.parametrize("name", MINI)
def test_base_model_writes_every_language(name: str, model: PreTrainedModel) -> None:
    """Nearly always a text of the language, seldom twice the same, and far from the optimum."""
    task = load_task(name)
    rows = task.prompts("test")[:200]
    prompts = [prompt.text for prompt in rows]
    batch = task.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = model.generate(**batch, do_sample=True, top_k=0, max_new_tokens=task.max_new_tokens)
    completions = task.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    columns = {key: [prompt.columns[key] for prompt in rows] for key in rows[0].columns}
    gold: Any = task.gold(prompts, completions, completion_ids=[[]] * len(prompts), **columns)
    assert np.mean(task.metrics["grammatical"](prompts, completions)) >= 0.9
    assert 0.1 < np.mean(gold) < 0.75
    assert len(set(completions)) >= 150


def test_the_rebuild_command_writes_what_plain_loaders_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["base_model", "--out", str(tmp_path), "--steps", "3"])
    monkeypatch.setattr(base_model, "BATCH", 8)
    state = torch.get_rng_state()
    base_model.main()
    assert torch.equal(torch.get_rng_state(), state)
    # The shipped tokenizer is what the command builds, to the byte.
    assert (tmp_path / "tokenizer.json").read_bytes() == (BASE_MODEL / "tokenizer.json").read_bytes()
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(shared_tokenizer())
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() > 0


def test_training_learns_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "BATCH", 16)
    texts = ["".join(pair) for pair in corpus(np.random.default_rng(0), 500)]
    tokenizer = base_model.build_tokenizer(texts)

    def losses(steps: int) -> list[float]:
        return [
            base_model.train_base_model(
                base_model.build_model(tokenizer, 0), tokenizer, np.random.default_rng(1), steps
            )
            for _ in range(2)
        ]

    (short, _), (long, again) = losses(1), losses(20)
    assert long < short - 0.5
    assert long == again


def test_sharpening_scales_all_logits() -> None:
    tokenizer = base_model.build_tokenizer([OPENING])
    model = base_model.build_model(tokenizer, 0)
    ids = torch.tensor([tokenizer(OPENING)["input_ids"]])
    before = model(input_ids=ids).logits
    base_model.sharpen(model, 1.5)
    torch.testing.assert_close(model(input_ids=ids).logits, 1.5 * before)
