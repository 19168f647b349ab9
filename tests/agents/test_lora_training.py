"""A policy with adapters trains nothing else, and its reference is what it was before training, at no second copy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.helpers import moved, tiny_gpt2, word_mdp
from textgym.agents.loop.episodes import score_episodes
from textgym.agents.loop.evaluation import play
from textgym.agents.policy.reference import WITHOUT_ADAPTERS
from textgym.agents.ppo import PPO
from textgym.env.vector import TokenVectorEnv
from textgym.lm.files.adapters import adapter_tensors
from textgym.lm.parts.lora import adapters_off, add_lora
from textgym.lm.trunk import Trunk

wrapping = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""peft asks transformers for an attribute by its old name."""

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


# --- adapters that came with the policy ------------------------------------------------------------------------------


def lora_config(**settings: Any) -> LoraConfig:
    return LoraConfig(**{"r": 2, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, **settings})


def adapted(**settings: Any) -> PreTrainedModel:
    model = add_lora(tiny_gpt2(), lora_config(**settings), 0, 0)
    return moved(model)  # type: ignore[no-any-return]


def wrapped_model(_: Path) -> Any:
    return moved(get_peft_model(tiny_gpt2(), lora_config(modules_to_save=["lm_head"])))


def saved_by_peft(place: Path) -> str:
    """As TRL leaves it: adapters alone, which name the directory of their model."""
    tiny_gpt2().save_pretrained(place / "model")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(place / "model"), lora_config())
    moved(model).save_pretrained(place / "adapters")
    return str(place / "adapters")


def saved_by_us(place: Path) -> str:
    make_ppo(model=adapted(), lora=None).save(place / "run")
    return str(place / "run")


ORIGINS = [lambda _: adapted(), wrapped_model, saved_by_peft, saved_by_us]


def first_kl(algorithm: PPO) -> float:
    """Mean log π − log π_ref over the tokens of an iteration's first responses."""
    episodes = play(algorithm.policy, word_mdp(), np.arange(12) % 3, seed=1)
    scored = score_episodes(algorithm.policy, algorithm.reference_trunk, episodes, 0.1, 4)
    return float(np.abs(episodes.log_probs - scored.ref_log_probs).max())


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
@wrapping
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("origin", ORIGINS, ids=["in place", "wrapped", "peft's directory", "our checkpoint"])
def test_the_reference_is_the_policy_that_training_began_from(origin: Any, tmp_path: Path) -> None:
    algorithm = make_ppo(model=origin(tmp_path), lora=None)
    assert first_kl(algorithm) < 1e-5
    began = Trunk(copy.deepcopy(algorithm.policy.lm))
    algorithm.learn(250)
    assert first_kl(algorithm) > 1e-2
    episodes = play(algorithm.policy, word_mdp(), np.arange(12) % 3, seed=1)
    scored, original = (
        score_episodes(algorithm.policy, trunk, episodes, 0.1, 4) for trunk in (algorithm.reference_trunk, began)
    )
    np.testing.assert_allclose(scored.ref_log_probs, original.ref_log_probs, atol=1e-6)


def test_adapters_that_came_are_part_of_the_reference_though_they_seem_to_do_nothing() -> None:
    """Here they change how a single token is read, which no short look at the model would notice."""
    config = lora_config(target_modules=["c_attn"], trainable_token_indices=[7])
    model = moved(add_lora(tiny_gpt2(tie_word_embeddings=False), config, 0, 0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.zero_()
    assert first_kl(make_ppo(model=model, lora=None)) < 1e-5


def test_the_reference_shares_all_but_the_adapters() -> None:
    algorithm = make_ppo(model=adapted(), lora=None)
    own = {p.data_ptr() for p in algorithm.policy.lm.parameters()}
    names = [name for name, p in algorithm.reference.named_parameters() if p.data_ptr() not in own]  # type: ignore[union-attr]
    trained = [name for name, p in algorithm.policy.lm.named_parameters() if p.requires_grad]
    assert names == trained
    assert not any(p.requires_grad for p in algorithm.reference.parameters())  # type: ignore[union-attr]


def test_the_model_below_the_adapters_when_asked_for(tmp_path: Path) -> None:
    algorithm = make_ppo(model=adapted(), lora=None, reference=WITHOUT_ADAPTERS)
    assert WITHOUT_ADAPTERS == "without-adapters"
    assert algorithm.reference is None
    ids = torch.arange(2, 8)[None]
    mask = torch.ones_like(ids)
    below = Trunk(tiny_gpt2())
    states = algorithm.reference_trunk.hidden_states(ids, mask, 3)
    torch.testing.assert_close(states, below.hidden_states(ids, mask, 3), atol=1e-6, rtol=0)
    algorithm.save(tmp_path / "run")
    assert PPO.load(tmp_path / "run", make_env()).reference is None


def test_a_plain_policy_has_no_model_below() -> None:
    with pytest.raises(ValueError, match="reference='without-adapters', but the policy has no adapters"):
        make_ppo(lora=None, reference="without-adapters")


@pytest.mark.parametrize("init", ["pissa", False])
def test_fresh_adapters_that_do_something_are_part_of_the_reference(init: Any) -> None:
    algorithm = make_ppo(lora=lora_config(init_lora_weights=init))
    assert algorithm.reference is not None
    assert first_kl(algorithm) < 1e-5


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
@wrapping
@pytest.mark.parametrize("origin", ORIGINS[:3], ids=["in place", "wrapped", "peft's directory"])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_training_from_adapters_resumes_to_the_same_bits(origin: Any, tmp_path: Path) -> None:
    whole = make_ppo(model=origin(tmp_path), lora=None)
    began = {name: value.clone() for name, value in adapter_tensors(whole.reference).items()}  # type: ignore[arg-type]
    for _ in range(2):
        whole.learn(60, reset_num_timesteps=False)
        whole.save(tmp_path / "run")
        (tmp_path / "run").rename(tmp_path / "moved")
        resumed = PPO.load(tmp_path / "moved", make_env())
        (tmp_path / "moved").rename(tmp_path / "run")
        assert resumed.reference is not None
        kept = adapter_tensors(resumed.reference)
        assert all(torch.equal(kept[name], value) for name, value in began.items())
        for algorithm in (whole, resumed):
            algorithm.learn(100, reset_num_timesteps=False)
        assert not changed(tensors(whole.policy), resumed.policy)
        whole = resumed
    files = {path.name for path in (tmp_path / "run" / "training" / "reference").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_reference_with_adapters_of_its_own_is_kept(tmp_path: Path) -> None:
    other = moved(add_lora(tiny_gpt2(seed=1), 1, 0, 0))
    algorithm = make_ppo(reference=other)
    algorithm.save(tmp_path / "run")
    resumed = PPO.load(tmp_path / "run", make_env())
    ids = torch.tensor([[2, 3, 4]])
    torch.testing.assert_close(resumed.reference(ids).logits, other(ids).logits)  # type: ignore[misc]


@wrapping
def test_pefts_own_model_is_a_policy() -> None:
    algorithm = make_ppo(model=get_peft_model(tiny_gpt2(), lora_config()), lora=None)
    before = tensors(algorithm.policy.lm)
    algorithm.learn(150)
    names = changed(before, algorithm.policy.lm)
    assert names
    assert all("lora_" in name for name in names)


# --- what peft makes of a checkpoint ---------------------------------------------------------------------------------


@wrapping
@pytest.mark.parametrize("lora", [1, lora_config(task_type=None), lora_config(task_type="SEQ_CLS")])
def test_peft_opens_a_checkpoint_and_merges_it(lora: Any, tmp_path: Path) -> None:
    algorithm = make_ppo(lora=lora)
    algorithm.learn(100)
    algorithm.save(tmp_path / "run")
    opened = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run")
    assert len(opened.peft_config) == 1
    assert opened.peft_config["default"].task_type == "CAUSAL_LM"
    ids = torch.tensor([[2, 3, 4]])
    expected = algorithm.policy.lm(ids).logits
    assert (expected - tiny_gpt2()(ids).logits).abs().max() > 1e-2
    torch.testing.assert_close(opened(ids).logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(opened.merge_and_unload()(ids).logits, expected, atol=1e-5, rtol=0)


@wrapping
def test_a_moved_checkpoint_opens_over_its_own_base(tmp_path: Path) -> None:
    algorithm = make_ppo()
    algorithm.learn(100)
    algorithm.save(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(OSError, match=str(tmp_path / "run" / "base")):  # never another model's weights
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "moved")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "moved" / "base")
    ids = torch.tensor([[2, 3, 4]])
    torch.testing.assert_close(base(ids).logits, tiny_gpt2()(ids).logits)
    opened = PeftModel.from_pretrained(base, tmp_path / "moved")
    torch.testing.assert_close(opened(ids).logits, algorithm.policy.lm(ids).logits)


def test_target_modules_that_match_nothing() -> None:
    with pytest.raises(ValueError, match=r"\{'query'\} not found .* called c_attn, c_fc, c_proj"):
        make_ppo(lora=LoraConfig(target_modules=["query"]))
