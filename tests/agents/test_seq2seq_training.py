"""Encoder–decoder policies do what causal ones do: they learn, begin at ratio 1, resume to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from tests.agents.replay import replayed_log_probs
from tests.helpers import emit, tiny_bart, tiny_gpt2, tiny_t5, word_mdp
from textgym.agents.loop.evaluation import evaluate, play
from textgym.agents.ppo import PPO
from textgym.agents.stock import TokenActorCriticPolicy
from textgym.env import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.exact.enumeration import find_reference
from textgym.lm.parts.lora import add_lora
from textgym.lm.sampling import Sampling
from textgym.rewards.models.model import RewardModel

Make = Callable[..., PreTrainedModel]
SMALL: dict[str, Any] = {"learning_rate": 3e-3, "episodes_per_iteration": 16, "minibatch_size": 8, "beta": 0.05}


@pytest.fixture(params=[tiny_t5, tiny_bart], ids=["t5", "bart"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def make_env(rows: int = 8, **settings: Any) -> TokenVectorEnv:
    return TokenVectorEnv(word_mdp(**settings), rows, "Disabled")


def make_ppo(model: PreTrainedModel, **changes: Any) -> PPO:
    return PPO("LMPolicy", make_env(), model=model, **{**SMALL, **changes})


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_learns_to_emit_token_7(make: Make) -> None:
    env = make_env(32, reward=emit(7), max_new_tokens=8)
    rate, tokens = (1e-2, 8_000) if make is tiny_bart else (3e-3, 25_000)  # T5 would be warned of larger steps
    algorithm = PPO("LMPolicy", env, rate, model=make(), value="separate", episodes_per_iteration=64, beta=0.0)
    algorithm.learn(tokens)
    episodes = play(algorithm.policy, word_mdp(max_new_tokens=8), np.arange(64) % 3, seed=1)
    assert episodes.rewards.sum(1).mean() >= 0.95  # the maximum is 1


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, min_new_tokens=2, top_k=6)])
def test_ratio_is_1_at_the_first_minibatch(make: Make, sampling: Sampling) -> None:
    algorithm, errors = make_ppo(make(), sampling=sampling), []
    update = algorithm.update

    def watched(*arguments: Any) -> Any:
        logged = update(*arguments)
        errors.append(logged[0]["ratio_error"])
        return logged

    algorithm.update = watched  # type: ignore[method-assign]
    algorithm.learn(250)
    assert len(errors) >= 3
    assert max(errors) < 1e-4


def test_collected_log_probs_are_those_of_plain_passes(make: Make) -> None:
    algorithm, mdp = make_ppo(make()), word_mdp()
    episodes = play(algorithm.policy, mdp, np.arange(20) % 3, seed=3)
    expected = replayed_log_probs(algorithm.policy.lm, episodes, mdp, Sampling())
    np.testing.assert_allclose(episodes.log_probs, expected, atol=1e-5)


@pytest.mark.parametrize("value", ["trunk", "separate"])
def test_resume_is_bit_exact(make: Make, value: str, tmp_path: Path) -> None:
    whole = make_ppo(make(), value=value)
    whole.learn(1)
    whole.save(tmp_path / "half")
    resumed = PPO.load(tmp_path / "half", make_env())
    for algorithm in (whole, resumed):
        algorithm.learn(150, reset_num_timesteps=False)
    assert whole.iteration == resumed.iteration > 1
    assert equal(tensors(whole.policy), tensors(resumed.policy))


def test_a_checkpoint_opens_with_from_pretrained_and_the_reference_stays(make: Make, tmp_path: Path) -> None:
    algorithm = make_ppo(make())
    algorithm.learn(150)
    algorithm.save(tmp_path / "run")
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    arguments = {"input_ids": torch.tensor([[2, 3]]), "decoder_input_ids": torch.tensor([[1, 4]])}
    torch.testing.assert_close(opened(**arguments).logits, algorithm.policy.lm(**arguments).logits)
    assert algorithm.reference is not None
    torch.testing.assert_close(algorithm.reference(**arguments).logits, make()(**arguments).logits)
    assert not torch.allclose(opened(**arguments).logits, make()(**arguments).logits, atol=1e-3)


def test_wrapper_and_agent_pay_the_same(make: Make) -> None:
    mdp = word_mdp()
    algorithm = make_ppo(make(seed=0), reference=make(seed=1), beta=0.3)
    episodes = play(algorithm.policy, mdp, np.zeros(16, int), seed=3)
    agent = algorithm.score(episodes).shaped.sum(1)
    env = TokenVectorEnv(word_mdp(prompts=["w0 w1"]), 16, "Disabled")
    assert algorithm.reference is not None
    wrapped = VectorReferenceKL(env, algorithm.reference, 0.3, Sampling(), algorithm.policy)
    wrapped.reset(seed=0)
    paid, live = np.zeros(16), np.ones(16, bool)
    for t in range(mdp.max_new_tokens):
        if not live.any():
            break
        _, rewards, terminated, _, _ = wrapped.step(np.where(live, episodes.actions[:, t], 3))
        paid += np.where(live, rewards, 0)
        live &= ~terminated
    np.testing.assert_allclose(paid, agent, atol=1e-4)


def test_the_exact_kl_of_a_policy_to_itself_is_0(make: Make) -> None:
    algorithm = make_ppo(make())
    report = evaluate(algorithm.policy, algorithm.reference_trunk, word_mdp(), 16, seed=0)
    np.testing.assert_allclose(report.kl, 0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:the output head is tied")
def test_adapters_on_a_frozen_encoder(make: Make) -> None:
    """Together: the encoder runs once for policy and reference, and the decoder's adapters learn."""
    algorithm = make_ppo(make(), policy_kwargs={"lora": 1, "freeze_layers": 2})
    before = tensors(algorithm.policy.lm)
    algorithm.learn(150)
    assert algorithm.reference is None
    moved = [name for name, value in algorithm.policy.lm.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all("lora_" in name and "decoder." in name for name in moved)
    episodes = play(algorithm.policy, word_mdp(), np.arange(16) % 3, seed=1)
    scored = algorithm.score(episodes)
    assert scored.prefix is not None
    expected = replayed_log_probs(make(), episodes, word_mdp(), Sampling())
    np.testing.assert_allclose(scored.ref_log_probs, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_t5(vocabulary_size=8), "vocabulary has 8 tokens; expected at least the 16 actions"),
        (tiny_bart(positions=4), "context of 4 tokens"),
    ],
)
def test_models_that_are_too_small(model: PreTrainedModel, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ppo(model)


def test_where_a_causal_model_is_needed(make: Make) -> None:
    mdp, stock = word_mdp(), TokenEnv(word_mdp())
    refused: list[Callable[[PreTrainedModel], Any]] = [
        lambda model: find_reference(mdp, model),
        lambda model: RewardModel.from_causal_lm(model, mdp.tokenizer, torch.Generator()),
        lambda model: stable_baselines3.PPO(TokenActorCriticPolicy, stock, policy_kwargs={"model": model}),
    ]
    for build in refused:
        with pytest.raises(ValueError, match="is an encoder–decoder; expected a causal language model for"):
            build(make())


def test_a_reference_of_the_other_kind_serves() -> None:
    """The KL is between distributions over responses, whatever computes them."""
    algorithm = make_ppo(tiny_t5(), reference=tiny_gpt2())
    episodes = play(algorithm.policy, word_mdp(), np.arange(8) % 3, seed=1)
    expected = replayed_log_probs(tiny_gpt2(), episodes, word_mdp(), Sampling())
    np.testing.assert_allclose(algorithm.score(episodes).ref_log_probs, expected, atol=1e-5)


def test_a_separate_critic_has_no_adapters(make: Make) -> None:
    """It begins as the model without them, and is trained whole."""
    model = add_lora(make(), 1, 0, 0)
    algorithm = make_ppo(model, value="separate")
    assert algorithm.policy.value is not None
    names = [name for name, parameter in algorithm.policy.value.named_parameters() if parameter.requires_grad]
    assert len(names) == len(list(algorithm.policy.value.parameters()))
    assert not any("lora_" in name for name in names)
