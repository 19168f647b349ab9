"""Every kind of adapter that peft has: it comes back from a directory, or is refused before training.

The right answer is peft's own model, before it was saved.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.helpers import tiny_gpt2, tiny_llama
from textgym.lm.files.loading import load_lm
from textgym.lm.parts.lora import adapters_off, merged, save_pretrained, train_adapters, unwrapped

IDS = torch.arange(1, 8)[None]
Q, QV = {"target_modules": ["q_proj"]}, {"target_modules": ["q_proj", "v_proj"]}

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # peft calls transformers by old names
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # advice on what is tried here on purpose
]

COME_BACK: dict[str, dict[str, Any]] = {
    "LORA": QV,
    "ADALORA": {**QV, "total_step": 10},
    "BEFT": QV,
    "BOFT": {**QV, "boft_block_size": 4},
    "C3A": {**QV, "block_size": 4},
    "DEFT": QV,
    "DELORA": QV,
    "FOURIERFT": {**QV, "n_frequency": 20},
    "GLORA": QV,
    "GRALORA": QV,
    "HIRA": QV,
    "HRA": {**QV, "r": 4},
    "IA3": {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LILY": QV,
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "LOHA": QV,
    "LOKR": QV,
    "MISS": {**QV, "r": 4},
    "OFT": {**QV, "oft_block_size": 4},
    "OSF": QV,
    "PEANUT": QV,
    "PSOFT": {"target_modules": ["v_proj", "o_proj"], "r": 4},
    "RANDLORA": {**QV, "r": 4},
    "ROAD": {**QV, "group_size": 8},
    "SHIRA": {**QV, "r": 2},
    "SUPERTUNING": QV,
    "TRAINABLE_TOKENS": {"token_indices": [1, 3, 5], "target_modules": ["embed_tokens"]},
    "WAVEFT": {**QV, "n_frequency": 20},
}
CAUSAL = {"task_type": "CAUSAL_LM"}
PROMPT = {"num_virtual_tokens": 2, **CAUSAL}
SHARED = "(share outside of them|would not come back|hold no parameter)"  # older versions of peft do not say
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **dict.fromkeys(("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CARTRIDGE"), (PROMPT, "learns a prompt")),
    "MULTITASK_PROMPT_TUNING": ({**PROMPT, "num_tasks": 1}, "learns a prompt"),
    "CPT": (
        {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1], **CAUSAL},
        "learns a prompt",
    ),
    "ADAPTION_PROMPT": ({"adapter_len": 2, "adapter_layers": 1, **CAUSAL}, "learns a prompt"),
    **dict.fromkeys(("FROD", "PVERA", "TINYLORA", "UNILORA", "VERA"), (QV, SHARED)),
    "VBLORA": ({**QV, "vector_length": 4, "num_vectors": 8}, SHARED),
    "POLY": (QV, "does more than put adapters into layers"),
    "SHADOW": (CAUSAL, "would not come back from a checkpoint"),
}
UNTRIED = {"ADAMSS", "XLORA", "BONE"}  # need scikit-learn; need other adapters; is an old name of MISS


def wrap(make: Callable[..., PreTrainedModel], config: Any) -> Any:
    """peft's model with adapters that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(make(), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def configure(name: str, settings: dict[str, Any]) -> Any:
    if not hasattr(PeftType, name):
        pytest.skip(f"the installed peft has no {name}")
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name]](**settings)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


def check_comes_back(make: Callable[..., PreTrainedModel], config: Any, place: Path) -> None:
    """Through our directory, in our loader and in transformers', with the same logits; and switched off the base's."""
    wrapped = wrap(make, config)
    expected, base = logits(wrapped), logits(make())
    assert (expected - base).abs().max() > 1e-3, "the adapters do nothing, so nothing is tested"
    model = train_adapters(unwrapped(wrapped))
    assert torch.equal(logits(model), expected), "looking at the adapters changed them"
    save_pretrained(model, place)
    for opened in (load_lm(place), AutoModelForCausalLM.from_pretrained(place).eval()):
        torch.testing.assert_close(logits(opened), expected, atol=1e-6, rtol=0)
        with adapters_off(opened):
            torch.testing.assert_close(logits(opened), base, atol=1e-6, rtol=0)


def test_no_kind_is_forgotten() -> None:
    known = COME_BACK.keys() | REFUSED.keys() | UNTRIED
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} <= known


@pytest.mark.parametrize("name", COME_BACK)
def test_a_kind_comes_back(name: str, tmp_path: Path) -> None:
    check_comes_back(tiny_llama, configure(name, COME_BACK[name]), tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_a_kind_is_refused_by_its_name(name: str) -> None:
    settings, message = REFUSED[name]
    model = get_peft_model(tiny_llama(), configure(name, settings))
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        train_adapters(unwrapped(model))


LORA: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["EMBEDDING"]},
    "norm": {"modules_to_save": ["NORM"]},
    "tokens": {"trainable_token_indices": [1, 3]},
    "a layer": {"layers_to_transform": [1]},
    "ranks": {"rank_pattern": {"TARGET": 3}, "alpha_pattern": {"TARGET": 1}},
    "on the embedding": {"target_modules": ["TARGET", "EMBEDDING"]},
    "on the head": {"target_modules": ["TARGET", "lm_head"]},
    "everywhere": {"target_modules": "all-linear"},
    "by pattern": {"target_modules": ".*TARGET"},
    "bias of its own": {"lora_bias": True},
    "dropout": {"lora_dropout": 0.5},
    "of another task": {"task_type": "SEQ_CLS"},
}
NAMES = {
    tiny_gpt2: {"TARGET": "c_attn", "EMBEDDING": "wte", "NORM": "ln_1"},
    tiny_llama: {"TARGET": "v_proj", "EMBEDDING": "embed_tokens", "NORM": "input_layernorm"},
}


def named(value: Any, names: dict[str, str]) -> Any:
    """Return the settings with a model's own names in the place of ours."""
    if isinstance(value, dict):
        return {named(key, names): named(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [named(inner, names) for inner in value]
    for name, own in names.items():
        value = value.replace(name, own) if isinstance(value, str) else value
    return value


def lora(make: Callable[..., PreTrainedModel], settings: dict[str, Any]) -> LoraConfig:
    settings = {"r": 2, "target_modules": ["TARGET"], "fan_in_fan_out": make is tiny_gpt2, **settings}
    return LoraConfig(**named(settings, NAMES[make]))


@pytest.mark.parametrize("make", NAMES, ids=["gpt2", "llama"])
@pytest.mark.parametrize("kind", LORA)
def test_a_lora_comes_back(make: Callable[..., PreTrainedModel], kind: str, tmp_path: Path) -> None:
    wrapped = lora(make, LORA[kind])
    if kind != "PiSSA":  # whose base is changed before the first step
        check_comes_back(make, wrapped, tmp_path)
        return
    model = wrap(make, wrapped)
    expected = logits(model)
    save_pretrained(train_adapters(unwrapped(model)), tmp_path)
    torch.testing.assert_close(logits(load_lm(tmp_path)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["LORA", "LOHA", "OFT", "IA3", "LN_TUNING", "RANDLORA"])
def test_merged_into_the_weights_it_computes_the_same(name: str) -> None:
    wrapped = wrap(tiny_llama, configure(name, COME_BACK[name]))
    expected, model = logits(wrapped), unwrapped(wrapped)
    plain = merged(model)
    assert not any("base_layer" in own for own, _ in plain.named_modules())
    assert plain.state_dict().keys() == tiny_llama().state_dict().keys()
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=0)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    ("settings", "tied", "message"),
    [
        ({"lora_bias": True}, False, "LORA cannot be merged .* has no bias"),
        ({"target_modules": ["lm_head"]}, True, "LORA cannot be merged .* without changing what it computes"),
    ],
)
def test_what_cannot_be_merged(settings: dict[str, Any], tied: bool, message: str) -> None:
    config = LoraConfig(**{"r": 2, **QV, **settings})
    model = unwrapped(wrap(lambda: tiny_llama(tie_word_embeddings=tied), config))
    with pytest.raises(ValueError, match=message):
        merged(model)


# --- what cannot be trained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bias": "lora_only"}, "bias='lora_only' trains the model's own biases"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication makes a model of shared layers"),
        ({"alora_invocation_tokens": [2, 3], **CAUSAL}, "LORA: peft's wrapper does more"),
    ],
)
def test_loras_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_adapters(unwrapped(get_peft_model(tiny_llama(), LoraConfig(**QV, **settings))))


def test_of_several_adapters_the_active_one_comes_back(tmp_path: Path) -> None:
    model = wrap(tiny_llama, LoraConfig(r=2, **QV))
    model.add_adapter("other", LoraConfig(r=3, modules_to_save=["lm_head"], **Q))
    model.set_adapter("other")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    for name in ("other", "default"):
        model.set_adapter(name)
        expected = logits(model)
        inner = train_adapters(unwrapped(model))
        assert all(f".{name}." in own for own, parameter in inner.named_parameters() if parameter.requires_grad)
        save_pretrained(inner, tmp_path / name)
        torch.testing.assert_close(logits(load_lm(tmp_path / name)), expected, atol=1e-6, rtol=0)


def test_several_adapters_at_once() -> None:
    model = wrap(tiny_llama, LoraConfig(r=2, **QV))
    model.add_adapter("other", LoraConfig(r=3, **QV))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match=re.escape("switched on: ['default', 'other']; expected one")):
        train_adapters(unwrapped(model))


def test_merged_adapters_are_not_trained() -> None:
    model = wrap(tiny_llama, LoraConfig(r=2, **QV))
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"merged into the model's weights.*call unmerge_adapter\(\)"):
        train_adapters(unwrapped(model))


def test_adapters_that_are_switched_off_are_not_trained() -> None:
    model = wrap(tiny_llama, LoraConfig(r=2, **QV))
    with model.disable_adapter(), pytest.raises(ValueError, match=r"switched off; call enable_adapters\(\)"):
        train_adapters(unwrapped(model))


def test_adapters_that_move_the_base_are_refused() -> None:
    """Nothing of peft's does, that we know: so a layer of ours, which forgets to switch itself off."""
    model = unwrapped(wrap(tiny_llama, LoraConfig(r=2, **QV)))
    layer = model.model.layers[1].self_attn.q_proj
    forward = layer.forward
    layer.forward = lambda x: forward(x) + 0.1
    with pytest.raises(
        ValueError, match="LORA: with its adapters switched off the model differs from the original one"
    ):
        train_adapters(model)


def test_adapters_that_are_not_saved_whole_are_refused() -> None:
    """A layer that computes with something that peft does not know of; fresh, so that it does nothing yet."""
    model = unwrapped(get_peft_model(tiny_llama(), LoraConfig(r=2, **QV)))
    model.model.layers[1].self_attn.q_proj.scaling["default"] = 7.0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"LORA would not come back .* does not save all .*logits differ by"):
        train_adapters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
