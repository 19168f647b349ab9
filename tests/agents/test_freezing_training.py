"""Training with frozen layers: they stay, and their activations, computed once, give the same update."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import tiny_gpt2, tiny_llama, word_mdp
from textgym.agents.loop.episodes import score_episodes
from textgym.agents.loop.evaluation import play
from textgym.agents.ppo import PPO
from textgym.agents.reinforce import Reinforce
from textgym.env.vector import TokenVectorEnv
from textgym.lm.parts.lora import add_lora
from textgym.lm.trunk import Trunk

SETTINGS: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 8, "kl": 0.05}


def make_env() -> TokenVectorEnv:
    return TokenVectorEnv(word_mdp(), 8, "Disabled")


def make_ppo(freeze_layers: int | None = 1, lora: Any = None, reference: Any = None, **changes: Any) -> PPO:
    kwargs = {"freeze_layers": freeze_layers, "untie_head": lora is None, "lora": lora}
    settings = {**SETTINGS, **changes}
    return PPO("LMPolicy", make_env(), 3e-3, model=tiny_gpt2(), reference=reference, policy_kwargs=kwargs, **settings)


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_layers_stay_and_the_untied_head_moves() -> None:
    algorithm = make_ppo()
    before = tensors(algorithm.policy.lm)
    algorithm.learn(150)
    names = moved(before, algorithm.policy.lm)
    assert {"lm_head.weight", "transformer.h.1.mlp.c_fc.weight", "transformer.ln_f.weight"} <= names
    assert not any(".h.0." in name or "wte" in name or "wpe" in name for name in names)


@pytest.mark.parametrize("lora", [None, 1])
@pytest.mark.parametrize("value", ["trunk", "separate"])
def test_kept_activations_give_the_same_update(lora: Any, value: str) -> None:
    kept, whole = make_ppo(lora=lora, value=value), make_ppo(lora=lora, value=value)
    episodes = play(kept.policy, word_mdp(), np.arange(16) % 3, seed=1)
    scored = kept.score(episodes)
    assert scored.prefix is not None
    plain_trunk = Trunk(tiny_gpt2())
    plain = score_episodes(whole.policy, plain_trunk, episodes, whole.kl.beta, 8)
    np.testing.assert_allclose(scored.ref_log_probs, plain.ref_log_probs, atol=1e-5)
    kept.update(scored, kept.estimate_advantages(scored))
    without = replace(plain, prefix=None)
    whole.update(without, whole.estimate_advantages(without))
    before = tensors(make_ppo(lora=lora, value=value).policy)
    assert moved(before, kept.policy)
    for name, tensor in kept.policy.state_dict().items():
        torch.testing.assert_close(tensor, whole.policy.state_dict()[name], atol=1e-5, rtol=0)


def ran(algorithm: PPO) -> list[str]:
    """Record which model's first layer runs."""
    names: list[str] = []
    models = {"policy": algorithm.policy.lm, "reference": algorithm.reference}
    for name, model in models.items():
        if model is not None:
            model.transformer.h[0].attn.register_forward_hook(lambda *_, name=name: names.append(name))
    return names


def test_one_pass_serves_policy_critic_and_reference() -> None:
    algorithm = make_ppo()
    episodes = play(algorithm.policy, word_mdp(), np.arange(16) % 3, seed=1)
    names = ran(algorithm)
    scored = algorithm.score(episodes)
    algorithm.update(scored, algorithm.estimate_advantages(scored))
    assert names == ["policy"] * 2  # batches of 8


def test_another_reference_computes_its_own() -> None:
    algorithm = make_ppo(reference=tiny_gpt2(seed=1))
    episodes = play(algorithm.policy, word_mdp(), np.arange(16) % 3, seed=1)
    names = ran(algorithm)
    scored = algorithm.score(episodes)
    assert names.count("reference") == 2
    expected = score_episodes(algorithm.policy, Trunk(tiny_gpt2(seed=1)), episodes, 0.05, 8).ref_log_probs
    np.testing.assert_allclose(scored.ref_log_probs, expected, atol=1e-6)


@pytest.mark.parametrize("lora", [None, 1])
def test_resume_is_bit_exact(lora: Any, tmp_path: Path) -> None:
    whole = make_ppo(lora=lora)
    whole.learn(1)
    whole.save(tmp_path / "half")
    resumed = PPO.load(tmp_path / "half", make_env())
    for algorithm in (whole, resumed):
        algorithm.learn(150, reset_num_timesteps=False)
    assert whole.iteration == resumed.iteration > 1
    assert not moved(tensors(whole.policy), resumed.policy)


@pytest.mark.parametrize("value", ["trunk", "separate"])
def test_what_the_caller_froze_stays_frozen_after_loading(value: str, tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.transformer.h[1].mlp.requires_grad_(False)
    frozen = {"transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_proj.bias"}
    kwargs = {"freeze_layers": 0, "untie_head": True}
    whole = PPO("LMPolicy", make_env(), 3e-3, model=model, value=value, policy_kwargs=kwargs, **SETTINGS)
    whole.learn(1)
    whole.save(tmp_path / "half")
    resumed = PPO.load(tmp_path / "half", make_env())
    trained = [{n for n, p in a.policy.named_parameters() if p.requires_grad} for a in (whole, resumed)]
    assert trained[0] == trained[1]
    before = tensors(resumed.policy.lm)
    for algorithm in (whole, resumed):
        algorithm.learn(150, reset_num_timesteps=False)
    assert frozen.isdisjoint(moved(before, resumed.policy.lm))
    assert "transformer.h.1.attn.c_attn.weight" in moved(before, resumed.policy.lm)
    assert not moved(tensors(whole.policy), resumed.policy)
    resumed.save(tmp_path / "again")
    kept, again = (json.loads((tmp_path / n / "training" / "state.json").read_text()) for n in ("half", "again"))
    assert kept["hyperparameters"] == again["hyperparameters"]


@pytest.mark.parametrize("algorithm", [PPO, Reinforce])  # with a critic, which would still have been trained
def test_a_model_with_nothing_to_train_is_refused(algorithm: type[PPO] | type[Reinforce]) -> None:
    model = tiny_gpt2()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"the model has no parameter that is trained: .*requires_grad_"):
        algorithm("LMPolicy", make_env(), 3e-3, model=model)


def test_a_frozen_parameter_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"frozen names \['lm.nowhere'\]; expected parameters of the policy"):
        PPO("LMPolicy", make_env(), 3e-3, model=tiny_gpt2(), policy_kwargs={"frozen": ["lm.nowhere"]}, **SETTINGS)


def test_an_untied_head_would_not_learn_beside_adapters() -> None:
    with pytest.raises(ValueError, match="untie_head=True does not go with adapters"):
        PPO("LMPolicy", make_env(), model=tiny_gpt2(), policy_kwargs={"lora": 1, "untie_head": True}, **SETTINGS)
    adapted = add_lora(tiny_gpt2(), 1, first_layer=0, seed=0)
    with pytest.raises(ValueError, match="untie_head=True does not go with adapters"):
        PPO("LMPolicy", make_env(), model=adapted, policy_kwargs={"untie_head": True}, **SETTINGS)


def test_a_model_without_a_tie_learns_on() -> None:
    env = make_env()
    algorithm = PPO("LMPolicy", env, 3e-2, model=tiny_llama(), policy_kwargs={"freeze_layers": 1}, **SETTINGS)
    algorithm.learn(2500)
    first, last = (play(a, word_mdp(), np.arange(64) % 3, 5) for a in (make_ppo().policy, algorithm.policy))
    assert last.rewards.sum(1).mean() > first.rewards.sum(1).mean() + 0.3


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ValueError, match="freeze_layers=3; expected 0"):
        make_ppo(3)
