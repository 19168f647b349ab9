"""A policy with adapters trains nothing else, and is its own reference without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents.batches import score_episodes
from textgym.agents.evaluation import play
from textgym.agents.ppo import PPO
from textgym.lm.lora import adapters_off
from textgym.lm.scoring import Trunk
from textgym.vector import TokenVectorEnv

SETTINGS: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 8, "kl": 0.05}


def make_env() -> TokenVectorEnv:
    return TokenVectorEnv(word_mdp(), 8, "Disabled")


def make_ppo(model: Any = None, lora: Any = 1, **changes: Any) -> PPO:
    settings = {**SETTINGS, **changes}
    kwargs = {} if lora is None else {"lora": lora}
    return PPO("LMPolicy", make_env(), 3e-2, model=model or tiny_gpt2(), policy_kwargs=kwargs, **settings)


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> list[str]:
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


def test_only_adapters_and_value_head_are_trained() -> None:
    algorithm = make_ppo()
    before = tensors(algorithm.policy.lm)
    algorithm.learn(250)
    moved = changed(before, algorithm.policy.lm)
    assert moved
    assert all("lora_" in name for name in moved)
    held = sum(p.numel() for group in algorithm.policy.optimizer.param_groups for p in group["params"])
    assert held < 0.05 * sum(p.numel() for p in algorithm.policy.parameters())


def test_the_reference_is_the_original_model_and_no_second_copy() -> None:
    algorithm = make_ppo()
    algorithm.learn(250)
    assert algorithm.reference is None
    own = {p.data_ptr() for p in algorithm.policy.parameters()}
    assert all(p.data_ptr() in own for p in algorithm.reference_trunk.model.parameters())
    episodes = play(algorithm.policy, word_mdp(), np.arange(12) % 3, seed=1)
    scored, original = (
        score_episodes(algorithm.policy, reference, episodes, 0.1, 4)
        for reference in (algorithm.reference_trunk, Trunk(tiny_gpt2()))
    )
    np.testing.assert_allclose(scored.ref_log_probs, original.ref_log_probs, atol=1e-6)
    assert np.abs(scored.ref_log_probs - episodes.log_probs).max() > 1e-2


@pytest.mark.parametrize("value", ["trunk", "separate"])
def test_resume_is_bit_exact(tmp_path: Path, value: str) -> None:
    whole = make_ppo(value=value)
    whole.learn(1)  # one iteration
    whole.save(tmp_path / "half")
    (tmp_path / "half").rename(tmp_path / "moved")
    resumed = PPO.load(tmp_path / "moved", make_env())
    assert resumed.reference is None
    for algorithm in (whole, resumed):
        algorithm.learn(200, reset_num_timesteps=False)
    assert whole.iteration == resumed.iteration > 2
    assert not changed(tensors(whole.policy), resumed.policy)


def test_a_checkpoint_is_a_model_with_its_adapters(tmp_path: Path) -> None:
    algorithm = make_ppo()
    algorithm.learn(100)
    algorithm.save(tmp_path / "run")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    ids = torch.tensor([[2, 3, 4]])
    torch.testing.assert_close(opened(ids).logits, algorithm.policy.lm(ids).logits)
    with adapters_off(opened):
        torch.testing.assert_close(opened(ids).logits, tiny_gpt2()(ids).logits)


def test_a_reference_of_its_own_is_kept(tmp_path: Path) -> None:
    algorithm = make_ppo(reference=tiny_gpt2(seed=1))
    algorithm.save(tmp_path / "run")
    resumed = PPO.load(tmp_path / "run", make_env())
    assert resumed.reference is not None
    assert not changed(tensors(resumed.reference), tiny_gpt2(seed=1))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_pefts_own_model_is_a_policy() -> None:
    wrapped = get_peft_model(tiny_gpt2(), LoraConfig(r=1, target_modules=["c_attn"], fan_in_fan_out=True))
    algorithm = make_ppo(model=wrapped, lora=None)
    before = tensors(algorithm.policy.lm)
    algorithm.learn(150)
    moved = changed(before, algorithm.policy.lm)
    assert moved
    assert all("lora_" in name for name in moved)
    assert algorithm.reference is None


def test_target_modules_that_match_nothing() -> None:
    with pytest.raises(ValueError, match=r"\{'query'\} not found .* called c_attn, c_fc, c_proj"):
        make_ppo(lora=LoraConfig(target_modules=["query"]))
