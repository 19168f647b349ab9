"""Adapters: what they train, what is there without them, and where they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.helpers import moved, tiny_gpt2, tiny_llama
from textgym.lm.files.adapters import write_adapters
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.parts.lora import (
    AdaptersOff,
    adapters_off,
    add_lora,
    is_adapted,
    save_pretrained,
    train_adapters,
    unwrapped,
    without_adapters,
)
from textgym.lm.trunk import Trunk

IDS = torch.tensor([[1, 2, 3, 4]])

wrapping = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""peft asks transformers for an attribute by its old name."""


def adapted(make: Callable[..., PreTrainedModel], **settings: Any) -> PreTrainedModel:
    return moved(add_lora(make(**settings), 1, 0, 0), 0.1)


def trained(model: torch.nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS).logits


@pytest.fixture(params=[tiny_gpt2, tiny_llama], ids=["gpt2", "llama"])
def make(request: pytest.FixtureRequest) -> Callable[..., PreTrainedModel]:
    return request.param


def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(make):
    model = add_lora(make(), 1, 1, 0)
    assert torch.equal(logits(model), logits(make()))
    assert trained(model)
    assert all("lora_" in name and ".1." in name for name in trained(model))  # layer 1 of 2
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count < 0.05 * sum(p.numel() for p in model.parameters())


def test_adapters_are_tried_with_a_mask(monkeypatch: pytest.MonkeyPatch):
    """Else transformers tells the user to pass one, as PAD is among the tokens that are read."""
    without_mask: list[bool] = []
    monkeypatch.setattr(
        PreTrainedModel,
        "warn_if_padding_and_no_attention_mask",
        lambda *arguments: without_mask.append(arguments[-1] is None),
    )
    add_lora(tiny_gpt2(), 1, 0, 0)
    assert without_mask
    assert not any(without_mask)


def test_switched_off_it_is_the_model_it_was(make):
    model = adapted(make)
    before, names = logits(model), trained(model)
    assert not torch.allclose(before, logits(make()), atol=0.1)
    with adapters_off(model):
        assert torch.equal(logits(model), logits(make()))
    assert torch.equal(logits(model), before)
    assert trained(model) == names


def test_frozen_adapters_stay_frozen():
    model = adapted(tiny_gpt2)
    model.transformer.h[0].requires_grad_(False)
    names = trained(model)
    with adapters_off(model):
        pass
    assert trained(model) == names


@torch.no_grad()
def test_a_reference_is_the_same_trunk_without_them(make):
    model = adapted(make)
    reference, original = AdaptersOff(model), Trunk(make())
    mask = torch.ones_like(IDS)
    states = reference.hidden_states(IDS, mask, 2)
    torch.testing.assert_close(states, original.hidden_states(IDS, mask, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(reference.head(states), original.head(states), atol=1e-6, rtol=0)
    assert {p.data_ptr() for p in reference.base.parameters()} <= {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("also", [None, ["lm_head"]])
def test_the_model_below_shares_their_memory(make, also):
    config = LoraConfig(target_modules=["c_proj", "down_proj"], modules_to_save=also, fan_in_fan_out=make is tiny_gpt2)
    model = make(tie_word_embeddings=False)
    original = logits(model)
    plain = without_adapters(moved(add_lora(model, config, 0, 0), 0.1))
    assert torch.equal(logits(plain), original)
    owned = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in owned for p in plain.parameters())


def test_what_is_written_opens_anywhere(make, tmp_path: Path):
    model = adapted(make)
    save_pretrained(model, tmp_path / "there")
    assert (tmp_path / "there" / "adapter_model.safetensors").is_file()
    (tmp_path / "there").rename(tmp_path / "here")
    for opened in (load_causal_lm(tmp_path / "here"), AutoModelForCausalLM.from_pretrained(tmp_path / "here")):
        assert torch.equal(logits(opened), logits(model))
        with adapters_off(opened):
            assert torch.equal(logits(opened), logits(make()))
    assert trained(train_adapters(load_causal_lm(tmp_path / "here"))) == trained(model)


def test_the_directory_of_an_older_version_opens(make, tmp_path: Path):
    """The base and its adapters side by side, as transformers also leaves them."""
    model = adapted(make)
    make().save_pretrained(tmp_path)
    write_adapters(model, tmp_path, tmp_path)
    opened = load_causal_lm(tmp_path)
    assert torch.equal(logits(opened), logits(model))
    with adapters_off(opened):
        assert torch.equal(logits(opened), logits(make()))


def test_a_base_that_is_sharded_opens(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = adapted(make)
    whole = type(model).save_pretrained
    monkeypatch.setattr(type(model), "save_pretrained", lambda *args: whole(*args, max_shard_size="20KB"))
    save_pretrained(model, tmp_path)
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    for opened in (load_causal_lm(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert torch.equal(logits(opened), logits(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "does not say of which model; write its directory or hub id"),
        ({"base_model_name_or_path": "/nowhere"}, "adapters of the model '/nowhere', and there is no such directory"),
        ({"peft_type": "NEWER"}, "cannot be read by the installed peft"),
        ({"r": 3}, r"do not fit .*: size mismatch"),
        ({"target_modules": ["lm_head"]}, r"do not fit .* lacks the weights lm_head\.lora_A\.weight"),
    ],
)
def test_adapters_that_cannot_be_opened(change, message, tmp_path: Path):
    make_base, directory = tiny_llama, tmp_path / "adapters"
    make_base().save_pretrained(tmp_path / "model")
    config = LoraConfig(r=2, target_modules=["q_proj"])
    write_adapters(add_lora(make_base(), config, 0, 0), directory, tmp_path / "model")
    load_causal_lm(directory)
    written = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**written, **change}))
    with pytest.raises(ValueError, match=message):
        load_causal_lm(directory)


def test_what_lora_may_be():
    with pytest.raises(ValueError, match="lora='4'; expected a rank, or a configuration of peft's"):
        add_lora(tiny_gpt2(), "4", 0, 0)


def test_their_own_dropout_is_off():
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.5)
    model = moved(add_lora(tiny_gpt2(), config, 0, 0), 0.1)
    assert torch.equal(logits(model), logits(model))


@wrapping
def test_pefts_wrapper_is_taken_off():
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    wrapped = get_peft_model(tiny_gpt2(), config)
    model = unwrapped(wrapped)
    assert is_adapted(model)
    assert trained(train_adapters(model)) == [name.removeprefix("base_model.model.") for name in trained(wrapped)]
    assert unwrapped(model) is model


def test_initial_values_follow_the_seed_and_no_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (add_lora(tiny_gpt2(), 2, 0, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    name = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (0, "lora=0; expected a whole number, at least 1"),
        (LoraConfig(target_modules=["query"]), r"\{'query'\} not found .* called c_attn, c_fc, c_proj"),
        (LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, bias="all"), "bias='all' trains the model's own"),
    ],
)
def test_adapters_that_do_not_fit(lora, message):
    with pytest.raises(ValueError, match=message):
        add_lora(tiny_gpt2(), lora, 0, 0)


def test_adapters_above_the_last_layer():
    with pytest.raises(ValueError, match="freeze_layers=2 leaves none of the 2 layers"):
        add_lora(tiny_gpt2(), 1, 2, 0)


def test_adapters_twice():
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(adapted(tiny_gpt2), 1, 0, 0)


@wrapping
def test_a_learned_prompt_is_no_adapter():
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    with pytest.raises(ValueError, match="learns a prompt"):
        unwrapped(get_peft_model(tiny_gpt2(), config))
