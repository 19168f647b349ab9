"""Reward models and adapters: made from an adapted language model, or saved by peft as adapters alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers import moved
from textgym.agents.policy.lm_policy import value_from_reward_model
from textgym.lm.parts.lora import add_lora
from textgym.rewards import RewardModel
from textgym.rewards.builtin import NAMED
from textgym.rewards.specs.resolve import resolve_reward

SEQUENCES = [[4, 6, 9, 3], [7, 8, 3], [5, 4, 4, 4, 10, 11, 12, 3], [9, 3]]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls transformers by old names


def config(kind: str, **settings: Any) -> LoraConfig:
    targets = ["c_attn", "c_fc"] if kind == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    return LoraConfig(**{"r": 2, "target_modules": targets, "fan_in_fan_out": kind == "gpt2", **settings})


# --- from a language model with adapters -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_trunk_computes_what_the_adapted_one_does(kind: str, wrapped: bool, lm: Any, tokenizer: Any) -> None:
    adapted = moved(
        get_peft_model(lm(kind), config(kind)) if wrapped else add_lora(lm(kind), config(kind), 0, 0)
    ).eval()
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    reward = RewardModel.from_causal_lm(adapted, tokenizer, torch.Generator().manual_seed(1))
    inner = adapted.get_base_model() if wrapped else adapted
    plain = RewardModel.from_causal_lm(lm(kind), tokenizer, torch.Generator().manual_seed(1))
    weight = plain.model.score.weight  # the same head: the generator's, not the adapters'
    with torch.no_grad():
        last = [inner.base_model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in SEQUENCES]
    expected = [float((weight[0] @ state).detach()) for state in last]
    assert reward.score_ids(SEQUENCES) == pytest.approx(expected, abs=1e-5)
    assert plain.score_ids(SEQUENCES) != pytest.approx(expected, abs=1e-2)
    assert not any("lora" in name for name in reward.model.state_dict())
    assert all(parameter.requires_grad for parameter in reward.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


# --- saved as adapters -----------------------------------------------------------------------------------------------


def save_adapters(place: Path, lm: Any, tokenizer: Any, kind: str = "llama", **settings: Any) -> tuple[Path, Any]:
    """As TRL's RewardTrainer leaves a directory, and the model that it had."""
    from transformers import AutoModelForSequenceClassification

    base = lm(kind)
    base.config.pad_token_id = None
    base.save_pretrained(place / "base")
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(place / "base", num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    trained = moved(get_peft_model(model, config(kind, **{"task_type": "SEQ_CLS", **settings}))).eval()
    trained.save_pretrained(place / "adapters")
    tokenizer.save_pretrained(place / "adapters")
    return place / "adapters", trained


@pytest.mark.parametrize("settings", [{}, {"task_type": None, "modules_to_save": ["score"]}, {"use_dora": True}])
def test_adapters_with_a_head_open_as_a_plain_model(
    kind: str, settings: dict[str, Any], lm: Any, tokenizer: Any, tmp_path: Path
) -> None:
    directory, trained = save_adapters(tmp_path, lm, tokenizer, kind, **settings)
    with torch.no_grad():
        expected = [float(trained(torch.tensor([ids])).logits[0, 0]) for ids in SEQUENCES]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    reward = RewardModel.load(directory)
    assert torch.equal(torch.get_rng_state(), state)
    assert reward.score_ids(SEQUENCES) == pytest.approx(expected, abs=1e-5)
    assert reward.model.config.pad_token_id == tokenizer.pad_token_id
    assert not any("lora" in name for name in reward.model.state_dict())
    reward.save(tmp_path / "plain")
    assert RewardModel.load(tmp_path / "plain").score_ids(SEQUENCES) == pytest.approx(expected, abs=1e-5)


def test_they_are_rewards_and_critics_too(lm: Any, tokenizer: Any, tmp_path: Path) -> None:
    directory, trained = save_adapters(tmp_path, lm, tokenizer)
    reward = resolve_reward(f"rm:{directory}", NAMED)
    ids = tokenizer("the cat sat", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = float(trained(torch.tensor([[*ids, tokenizer.eos_token_id]])).logits[0, 0])
    given = reward(["the cat"], [" sat"], completion_ids=[[9]])
    assert [float(value) for value in given] == pytest.approx([expected], abs=1e-5)
    critic = value_from_reward_model(directory)
    assert torch.equal(critic.head.linear.weight, RewardModel.load(directory).model.score.weight)


def test_a_base_may_stand_beside_them(lm: Any, tokenizer: Any, tmp_path: Path) -> None:
    directory, _ = save_adapters(tmp_path, lm, tokenizer)
    written = json.loads((directory / "adapter_config.json").read_text())
    scores = RewardModel.load(directory).score_ids(SEQUENCES)
    (directory / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": "base"}))
    assert RewardModel.load(directory).score_ids(SEQUENCES) == scores


@pytest.mark.parametrize("named", ["/nowhere/base", None, "no/such/folder"])
def test_a_base_that_is_not_there(named: str | None, lm: Any, tokenizer: Any, tmp_path: Path) -> None:
    directory, _ = save_adapters(tmp_path, lm, tokenizer)
    written = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": named}))
    expected = "holds adapters .*base_model_name_or_path of adapter_config.json"
    with pytest.raises(ValueError, match=expected):
        RewardModel.load(directory)


def test_adapters_without_a_head(lm: Any, tokenizer: Any, tmp_path: Path) -> None:
    directory, _ = save_adapters(tmp_path, lm, tokenizer, task_type=None)
    with pytest.raises(ValueError, match=r"is not a reward model: .* score\.weight; .* modules_to_save=\['score'\]"):
        RewardModel.load(directory)


def test_adapters_on_a_reward_model_keep_its_head(lm: Any, tokenizer: Any, tmp_path: Path) -> None:
    RewardModel.from_causal_lm(lm("llama"), tokenizer, torch.Generator().manual_seed(1)).save(tmp_path / "base")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    trained = moved(get_peft_model(model, config("llama"))).eval()
    trained.save_pretrained(tmp_path / "adapters")
    with torch.no_grad():
        expected = [float(trained(torch.tensor([ids])).logits[0, 0]) for ids in SEQUENCES]
    assert RewardModel.load(tmp_path / "adapters").score_ids(SEQUENCES) == pytest.approx(expected, abs=1e-5)


def test_a_damaged_file(lm: Any, tokenizer: Any, tmp_path: Path) -> None:
    directory, _ = save_adapters(tmp_path, lm, tokenizer)
    weights = directory / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"the adapters in '.*adapters' cannot be read"):
        RewardModel.load(directory)
