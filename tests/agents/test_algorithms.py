"""What holds for every algorithm: ratio 1 at first, bit-exact resume, an honest budget, and what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import CheckpointCallback

from tests.agents.replay import prompt_and_response
from tests.agents.test_ppo import Watch, equal, parameters
from tests.helpers import taught, tiny_gpt2, word_mdp
from textgym.agents import (
    A2C,
    CISPO,
    DAPO,
    DPPO,
    GMPO,
    GRPO,
    NLPO,
    PPO,
    RLOO,
    SAPO,
    TRPO,
    VESPO,
    BestOfN,
    ClippedRLOO,
    Distillation,
    ExpertIteration,
    MaxRL,
    ReinforcePlusPlus,
    ReMax,
    SequenceAlgorithm,
)
from textgym.agents.functional.objectives import Advantages
from textgym.agents.loop.episodes import minibatches
from textgym.agents.registry import ALGORITHMS
from textgym.benchmarks.experiments.diagnostic.sweep import DIAGNOSTIC_PLAN, diagnostic_jobs
from textgym.benchmarks.experiments.diagnostic.task import run_diagnostic
from textgym.env.vector import TokenVectorEnv
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL
from textgym.types import Episodes

N_WORDS = 30
OWN: dict[str, dict[str, Any]] = {
    "best-of-n": {"samples_per_prompt": 4},
    "nlpo": {"target_update": 2},
    "a-star-po": {"value_samples": 2},
    "distill": taught(Distillation, N_WORDS + 2),
}
"""What the tests give to some, so that few episodes do."""


def make_env(**settings: Any) -> TokenVectorEnv:
    return TokenVectorEnv(word_mdp(n_words=N_WORDS, **settings), 8, "Disabled")


def make(name: str, **changes: Any) -> SequenceAlgorithm:
    arguments = {
        "episodes_per_iteration": 16,
        "minibatch_size": 4,
        "beta": 0.05,
        "seed": 0,
        **OWN.get(name, {}),
        **changes,
    }
    rate = arguments.pop("learning_rate", 3e-3)
    return ALGORITHMS[name]("LMPolicy", make_env(), rate, model=tiny_gpt2(N_WORDS + 2), **arguments)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ratio_is_1_at_the_first_minibatch(name: str) -> None:
    watch = Watch()
    algorithm = make(name, sampling=Sampling(temperature=0.7, min_new_tokens=2, top_k=20))
    algorithm.learn(250, watch)
    errors = [logged["train/first_minibatch_ratio_error"] for logged in watch.logged]
    assert len(errors) >= 3
    # The policy of best-of-n leaves the reference, which goes on sampling.
    assert max(errors[:1] if name == "best-of-n" else errors) < 1e-4


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resume_is_bit_exact(name: str, tmp_path: Path) -> None:
    whole = make(name, beta=AdaptiveKL(0.05, target=1.0, horizon=100))
    whole.learn(500, CheckpointCallback(10, str(tmp_path)))
    checkpoints = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("_")[-2]))
    resumed = type(whole).load(checkpoints[len(checkpoints) // 2], make_env())
    assert 0 < resumed.num_timesteps < 500
    resumed.learn(500 - resumed.num_timesteps, reset_num_timesteps=False)
    assert (resumed.num_timesteps, resumed.iteration) == (whole.num_timesteps, whole.iteration)
    assert resumed.settings == whole.settings
    assert equal(parameters(whole), parameters(resumed))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_generated_token_counts(name: str) -> None:
    algorithm = make(name)
    lengths: list[int] = []
    for _ in range(2):
        episodes = collected(algorithm)
        assert len(episodes) == 16 or name == "dapo"  # which plays on where all responses to a prompt score the same
        lengths.append(int(episodes.lengths.sum()))
        lengths.append(int(algorithm.logger.name_to_value["rollout/value_tokens"]))  # 0 but for A*PO's reference
        algorithm.train(episodes)
    assert algorithm.num_timesteps == sum(lengths)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_value_function_only_where_there_is_a_critic(name: str) -> None:
    algorithm = make(name)
    assert (algorithm.policy.value is not None) == algorithm.critic
    assert algorithm.critic == isinstance(algorithm, PPO | A2C | TRPO)


SLOWER: dict[str, dict[str, Any]] = {
    "trpo": {"episodes": 2048, "minibatch_size": 16, "learning_rate": 3e-3},
    "remax": {"episodes": 2048},
    **{name: {"episodes": 3072} for name in ("coach", "e-coach", "deep-coach")},
}
"""Whose steps are bounded, who spends half of its episodes on companions, and whose feedback has no baseline here,
where every score is positive: all need more episodes."""


@pytest.mark.parametrize("name", [name for name, kind in ALGORITHMS.items() if not kind.settings_class.has_teacher])
def test_learns_the_bandit(name: str) -> None:
    settings = {"episodes": 1536, "minibatch_size": 32, "episodes_per_iteration": 128, "learning_rate": 4e-3}
    settings |= SLOWER.get(name, {})
    (job,) = diagnostic_jobs(
        replace(DIAGNOSTIC_PLAN, algorithms=(name,), seeds=(0,), tasks=("Emit",), settings=settings)
    )
    assert run_diagnostic(job)["score"] > 0.9


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_leaves_the_loop_alone(name: str) -> None:
    bases = ALGORITHMS[name].__mro__
    own = bases[: bases.index(SequenceAlgorithm)]
    assert not {"learn", "collect", "train", "score"} & set().union(*map(vars, own))


# --- sampling plans ----------------------------------------------------------------------------------------------


def collected(algorithm: SequenceAlgorithm) -> Episodes:
    episodes = algorithm.collect()
    assert episodes is not None
    return episodes


def test_groups_share_their_prompt_and_nothing_else() -> None:
    episodes = collected(make("rloo"))
    assert (episodes.prompt_index.reshape(4, 4) == episodes.prompt_index[::4, None]).all()
    assert len({tuple(row) for row in episodes.actions.tolist()}) > 8


def test_the_companion_is_greedy_and_is_not_trained_on() -> None:
    algorithm = make("remax")
    episodes = collected(algorithm)
    scored = algorithm.score(episodes)
    companions = scored.companions
    assert companions is not None
    assert (len(scored.episodes), len(companions)) == (8, 8)
    assert (scored.episodes.prompt_index == companions.prompt_index).all()
    for i in range(8):
        prompt, response = prompt_and_response(companions, i)
        for t, token in enumerate(response):
            with torch.no_grad():
                logits = algorithm.policy.lm(torch.tensor([prompt + response[:t]])).logits[0, -1]
            assert token == int(logits[: N_WORDS + 2].argmax())
    advantages = algorithm.estimate_advantages(scored).advantages
    expected = scored.returns - companions.rewards.sum(1)
    np.testing.assert_allclose(advantages[:, 0], expected, atol=1e-5)


def test_the_best_of_each_group_is_imitated() -> None:
    algorithm = make("expert-iteration")
    scored = algorithm.score(collected(algorithm))
    chosen = algorithm.select(scored)
    assert chosen.returns.tolist() == scored.returns.reshape(-1, 4).max(1).tolist()
    batch = next(minibatches(chosen, algorithm.estimate_advantages(chosen), 4, 1, np.random.default_rng(0), "cpu"))
    evaluation = algorithm.policy.evaluate(batch.input_ids, batch.attention_mask)
    loss, _ = algorithm.loss(evaluation, batch)
    torch.testing.assert_close(loss, -evaluation.log_probs[batch.own].mean())


def test_best_of_n_goes_on_sampling_from_the_reference() -> None:
    algorithm = make("best-of-n")
    algorithm.learn(300)
    episodes = collected(algorithm)
    reference = algorithm.score(episodes).ref_log_probs
    np.testing.assert_allclose(episodes.log_probs, reference, atol=1e-5)
    moved = algorithm.policy.evaluate(torch.from_numpy(episodes.input_ids), torch.from_numpy(episodes.attention_mask))
    assert (moved.log_probs - torch.from_numpy(reference)).abs().max() > 0.01


# --- where the KL stands -----------------------------------------------------------------------------------------


def test_the_kl_stands_in_the_reward_or_in_the_loss() -> None:
    for in_loss in (False, True):
        algorithm = make("rloo", kl_in_loss=in_loss, beta=0.5)
        algorithm.learn(200)
        scored = algorithm.score(collected(algorithm))
        assert np.array_equal(scored.shaped, scored.episodes.rewards) == in_loss
        batch = next(minibatches(scored, algorithm.estimate_advantages(scored), 8, 1, np.random.default_rng(0), "cpu"))
        loss, logs = algorithm.loss(algorithm.policy.evaluate(batch.input_ids, batch.attention_mask), batch)
        kl = 0.5 * logs["kl_loss"] if in_loss else 0.0
        torch.testing.assert_close(loss, logs["policy_loss"] + kl)


# --- neighbours --------------------------------------------------------------------------------------------------


def test_ppo_at_its_first_minibatch_is_a2c_with_the_same_advantages() -> None:
    gradients = []
    scored, estimated = None, Advantages(np.zeros(0), np.zeros(0))  # type: ignore[arg-type]
    for name in ("ppo", "a2c", "trpo"):
        algorithm = make(name)
        if scored is None:
            scored = algorithm.score(collected(algorithm))
            estimated = algorithm.estimate_advantages(scored)
        batch = next(minibatches(scored, estimated, 16, 1, np.random.default_rng(0), "cpu"))
        algorithm.loss(algorithm.policy.evaluate(batch.input_ids, batch.attention_mask), batch)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in algorithm.policy.parameters() if p.grad is not None]))
    scale = gradients[0].abs().max()
    for other in gradients[1:]:
        assert (gradients[0] - other).abs().max() < 1e-5 * scale


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RLOO, {"samples_per_prompt": 1}, "samples_per_prompt=1; expected at least 2"),
        (GRPO, {"samples_per_prompt": 1}, "samples_per_prompt=1"),
        (BestOfN, {"samples_per_prompt": 1}, "samples_per_prompt=1"),
        (ExpertIteration, {"samples_per_prompt": 1}, "samples_per_prompt=1"),
        (RLOO, {"samples_per_prompt": 3}, "expected a multiple of 3"),
        (ReMax, {"episodes_per_iteration": 15, "minibatch_size": 5}, "1 samples and a greedy one"),
        (GRPO, {"clip_range_high": 0.0}, "clip_range_high=0.0"),
        (NLPO, {"top_mask": 0.0}, "top_mask=0.0; expected a finite number, more than 0 and at most 1"),
        (NLPO, {"top_mask": 1.5}, "top_mask=1.5"),
        (NLPO, {"min_tokens_to_keep": 0}, "min_tokens_to_keep=0"),
        (NLPO, {"target_update": 0}, "target_update=0"),
        (TRPO, {"target_kl": 0.0}, "target_kl=0.0"),
        (ClippedRLOO, {"samples_per_prompt": 1}, "samples_per_prompt=1; expected at least 2"),
        (MaxRL, {"samples_per_prompt": 1}, "samples_per_prompt=1; expected at least 2"),
        (DAPO, {"samples_per_prompt": 1}, "samples_per_prompt=1; expected at least 2"),
        (VESPO, {"samples_per_prompt": 1}, "samples_per_prompt=1; expected at least 2"),
        (GRPO, {"clip_range": 0.0, "clip_range_high": 0.0}, "clip_range=0.0; expected a finite number, more than 0"),
        (CISPO, {"clip_range": 1.1}, "clip_range=1.1; expected a finite number, more than 0 and at most 1"),
        (GMPO, {"clip_range": -0.4}, "clip_range=-0.4; expected a finite number, more than 0"),
        (ReinforcePlusPlus, {"clip_range": math.nan}, "clip_range=nan; expected a finite number"),
        (CISPO, {"clip_range_high": math.inf}, "clip_range_high=inf; expected a finite number, more than 0"),
        (
            GRPO,
            {"kl_estimator": "k3_corrected"},
            "kl_estimator='k3_corrected'; expected one of k3, k3-corrected, exact",
        ),
        (PPO, {"kl_estimator": "k1"}, "kl_estimator='k1'; expected one of k3, k3-corrected, exact"),
        (GRPO, {"kl_estimator": None}, "kl_estimator=None; expected one of k3, k3-corrected, exact"),
        (GRPO, {"bessel": 1}, "bessel=1; expected True or False"),
        (MaxRL, {"subtract_mean": "no"}, "subtract_mean='no'; expected True or False"),
        (SAPO, {"tau": 0.0}, "tau=0.0; expected a finite number, more than 0"),
        (SAPO, {"tau_negative": -1.0}, "tau_negative=-1.0; expected a finite number, more than 0"),
        (DPPO, {"max_distance": -0.2}, "max_distance=-0.2; expected a finite number, more than 0"),
        (DPPO, {"max_distance": 0.0}, "max_distance=0.0; expected a finite number, more than 0"),
        (DPPO, {"distance": "TV"}, "distance='TV'; expected 'tv' or 'kl'"),
        (VESPO, {"k_positive": 0.0}, "k_positive=0.0; expected a finite number, more than 0"),
        (VESPO, {"decay_negative": math.nan}, "decay_negative=nan; expected a finite number"),
        (DAPO, {"max_resamples": 1.5}, "max_resamples=1.5; expected a whole number"),
        (DAPO, {"target_kl": -0.1}, "target_kl=-0.1; expected a finite number, at least 0"),
    ],
)
def test_bad_settings_are_named(kind: type[SequenceAlgorithm], settings: dict[str, Any], message: str) -> None:
    sizes = {"episodes_per_iteration": 16, "minibatch_size": 4, **OWN.get("", {})}
    with pytest.raises(ValueError, match=message):
        kind("LMPolicy", make_env(), model=tiny_gpt2(N_WORDS + 2), **{**sizes, **settings})


def test_maxrl_refuses_a_negative_score_before_it_trains() -> None:
    """A mean around 0 would blow up; the message says whose rule it is and what to do."""
    env = TokenVectorEnv(word_mdp(lambda completions, **_: [-0.5] * len(completions)), 8, "Disabled")
    sizes = {"episodes_per_iteration": 16, "minibatch_size": 4}
    algorithm = MaxRL("LMPolicy", env, model=tiny_gpt2(), **sizes)
    before = parameters(algorithm)
    with pytest.raises(ValueError, match=r"scores -0\.5, and MaxRL divides by a mean of scores of at least 0"):
        algorithm.learn(10_000)
    assert algorithm.iteration == 0
    assert equal(parameters(algorithm), before)


@pytest.mark.parametrize("kl_in_loss", [True, False])
def test_maxrl_advises_the_kl_in_the_loss_where_it_is_in_the_reward(kl_in_loss: bool) -> None:
    env = TokenVectorEnv(word_mdp(lambda completions, **_: [-0.5] * len(completions)), 8, "Disabled")
    sizes = {"episodes_per_iteration": 16, "minibatch_size": 4}
    algorithm = MaxRL("LMPolicy", env, model=tiny_gpt2(), kl_in_loss=kl_in_loss, **sizes)
    with pytest.raises(ValueError, match="use another reward or algorithm") as refused:
        algorithm.learn(10_000)
    assert ("kl_in_loss=True" in str(refused.value)) is not kl_in_loss


def test_maxrl_is_told_that_the_kl_made_a_score_negative() -> None:
    with pytest.raises(ValueError, match="or kl_in_loss=True"):
        make("maxrl", kl_in_loss=False, beta=5.0, sampling=Sampling(top_k=2)).learn(10_000)


def test_a_setting_of_another_algorithm_is_named() -> None:
    with pytest.raises(TypeError, match=re.escape("RLOO has no setting 'clip_range'")):
        make("rloo", clip_range=0.2)
    with pytest.raises(TypeError, match="did you mean 'clip_range'"):
        make("ppo", clip_rang=0.2)


@pytest.mark.parametrize(
    ("name", "argument"), [("kl_coef", "beta"), ("temperature", "sampling"), ("lora", "policy_kwargs")]
)
def test_what_the_constructor_calls_otherwise_is_hinted_at(name: str, argument: str) -> None:
    with pytest.raises(TypeError, match=f"has no setting '{name}'; did you mean '{argument}'"):
        make("ppo", **{name: 0.2})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "env is None; pass a task's id"),
        ({"policy": "textgym/Emit-v0"}, ValueError, "expected 'LMPolicy'; for the environment write env='textgym/Emit"),
        ({"policy": "MlpPolicy", "env": "textgym/Emit-v0"}, ValueError, "policy='MlpPolicy' is unknown; expected 'LM"),
        ({"env": "CartPole-v1"}, ValueError, "env='CartPole-v1' is not a language task"),
        ({"env": gym.make("CartPole-v1")}, ValueError, "expected those of a language task"),
        ({"env": "textgym/Emit-v0", "beta": "0.1"}, TypeError, "beta='0.1'; expected a number"),
        ({"env": "textgym/Emit-v0", "beta": True}, TypeError, "beta=True; expected a number"),
    ],
)
def test_mistaken_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PPO(**arguments)
