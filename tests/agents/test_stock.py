"""Stock algorithms of stable-baselines3 and sb3-contrib, with our policies, on our environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import TRPO, MaskablePPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from tests.helpers import tiny_gpt2, tiny_llama, word_mdp
from textgym.agents.loop.slots import SB3VecEnv
from textgym.agents.stock import MaskableTokenActorCriticPolicy, TokenActorCriticPolicy
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.registration import load_task


def mean_id(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Return a reward with a gradient from the first token on."""
    return [sum(ids) / len(ids) for ids in completion_ids]


MDP = word_mdp(mean_id)
EMIT = word_mdp()
ALLOWED = np.isin(np.arange(16), [1, 5, 6, 7, 8, 9])
RESTRICTED = word_mdp(allowed=lambda input_ids, _: np.tile(ALLOWED, (len(input_ids), 1)))
STOCK: dict[str, Any] = {"gamma": 1.0, "seed": 0, "device": "cpu"}
SMALL: dict[str, Any] = {"n_steps": 6, "batch_size": 24, "n_epochs": 1}

# Algorithm -> its environment, its settings, and the tokens that it needs to learn the task.
LEARNERS: dict[str, tuple[Any, TokenMDP, dict[str, Any], int]] = {
    "PPO": (PPO, EMIT, {"n_steps": 24, "batch_size": 96, "n_epochs": 4, "learning_rate": 3e-3}, 3_500),
    "A2C": (A2C, EMIT, {"n_steps": 6, "learning_rate": 2e-3}, 4_000),
    "MaskablePPO": (
        MaskablePPO,
        RESTRICTED,
        {"n_steps": 24, "batch_size": 96, "n_epochs": 4, "learning_rate": 3e-3},
        3_000,
    ),
    "TRPO": (
        TRPO,
        EMIT,
        {"n_steps": 12, "batch_size": 192, "n_critic_updates": 2, "target_kl": 0.2, "cg_max_steps": 4},
        2_300,
    ),
}


def make_env(mdp: TokenMDP = MDP, n: int = 4, mode: str = "SameStep") -> VecEnv:
    return VecMonitor(SB3VecEnv(TokenVectorEnv(mdp, n, mode)))


def make(algorithm: Any, env: Any, model: Any = tiny_gpt2, policy: Any = None, **settings: Any) -> Any:
    policy = policy or (MaskableTokenActorCriticPolicy if algorithm is MaskablePPO else TokenActorCriticPolicy)
    names = {"value", "temperature", "attn_implementation"} & settings.keys()
    own = {name: settings.pop(name) for name in names}
    return algorithm(policy, env, policy_kwargs={"model": model, **own}, **{**STOCK, **settings})


def play(policy: Any, env: VecEnv, n_steps: int, masks: bool = False) -> Any:
    """Observations with what the policy answered, as stable-baselines3 asks it during a rollout."""
    observation: Any = env.reset()
    for _ in range(n_steps):
        obs = obs_as_tensor(observation, torch.device("cpu"))
        extra = {"action_masks": np.stack(env.env_method("action_masks"))} if masks else {}
        with torch.no_grad():
            answer = policy(obs, **extra)
        yield obs, answer
        observation = env.step(answer[0].numpy())[0]


def shaken(policy: Any) -> Any:
    """Return the policy with a value head that is not zero."""
    with torch.no_grad():
        nn.init.normal_(policy.value.head.linear.weight, generator=torch.Generator().manual_seed(1))
    return policy


# --- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_stock_algorithms_learn(name: str) -> None:
    cls, mdp, settings, tokens = LEARNERS[name]
    kind = {"model": lambda: tiny_gpt2(n_layer=1), "attn_implementation": "eager"} if cls is TRPO else {}
    algorithm = make(cls, make_env(mdp, 16), **kind, **settings)
    evaluate: Any = evaluate_masked if cls is MaskablePPO else evaluate_policy

    def reward() -> float:
        return float(evaluate(algorithm, make_env(mdp, 16), n_eval_episodes=64, deterministic=False)[0])

    assert reward() < 0.3
    algorithm.learn(tokens)
    assert reward() > 0.8


# --- the cache -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["trunk", "separate"])
@pytest.mark.parametrize("model", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_cached_acting_equals_the_whole_pass(model: Any, value: str, mode: str) -> None:
    env = make_env(mode=mode)
    policy = shaken(make(PPO, env, model, value=value, temperature=0.7, **SMALL).policy)
    spread = 0.0
    for obs, (actions, values, log_probs) in play(policy, env, 20):
        again, whole, entropy = policy.evaluate_actions(obs, actions)
        torch.testing.assert_close(values, again, atol=1e-5, rtol=0)
        torch.testing.assert_close(log_probs, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy, policy.get_distribution(obs).entropy())
        torch.testing.assert_close(again, policy.predict_values(obs))
        assert values.shape == (4, 1)
        assert log_probs.shape == actions.shape == (4,)
        spread += float(values.std())
    assert spread > 0.1


def test_a_step_decodes_one_token_of_each_row_that_goes_on() -> None:
    policy = make(PPO, make_env(), **SMALL).policy
    passes: list[tuple[int, ...]] = []

    def note(module: nn.Module, args: Any, inputs: Any) -> None:
        passes.append(tuple(inputs["input_ids"].shape))

    policy.lm.base_model.register_forward_pre_hook(note, with_kwargs=True)
    rng = np.random.default_rng(0)
    ids, mask = np.zeros((4, 10), np.int64), np.zeros((4, 10), np.int8)
    ids[:, 2:4], mask[:, 2:4] = rng.integers(2, 16, (4, 2)), 1
    for column in range(4, 9):
        with torch.no_grad():
            policy({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
        policy.predict({"input_ids": ids, "attention_mask": mask})
        ids[:, column], mask[:, column] = rng.integers(2, 16, 4), 1
    assert passes == [(4, 2), (4, 2)] + [(4, 1), (4, 1)] * 4


def test_an_update_is_seen_by_the_cache() -> None:
    env = make_env()
    algorithm = make(PPO, env, learning_rate=1e-2, **SMALL)
    algorithm.learn(48)  # two rollouts, the second one begins in the midst of episodes
    obs = obs_as_tensor(algorithm._last_obs, torch.device("cpu"))
    with torch.no_grad():
        actions, values, log_probs = algorithm.policy(obs)
    again, whole, _ = algorithm.policy.evaluate_actions(obs, actions)
    torch.testing.assert_close(values, again, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_probs, whole, atol=1e-5, rtol=0)


def test_acting_under_a_gradient_can_be_differentiated() -> None:
    env = make_env()
    policy = make(PPO, env, **SMALL).policy
    _, values, log_probs = policy(obs_as_tensor(env.reset(), torch.device("cpu")))  # type: ignore[arg-type]
    (values.sum() + log_probs.sum()).backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_predict_plays_a_single_row_and_many() -> None:
    env = make_env()
    algorithm = make(PPO, env, **SMALL)
    observation: Any = env.reset()
    many, _ = algorithm.predict(observation, deterministic=True)
    single = [algorithm.predict({k: v[i] for k, v in observation.items()}, deterministic=True)[0] for i in range(4)]
    assert many.tolist() == [int(action) for action in single]
    logits = algorithm.policy.get_distribution(obs_as_tensor(observation, torch.device("cpu"))).distribution.logits
    assert many.tolist() == logits.argmax(-1).tolist()


# --- masks ---------------------------------------------------------------------------------------------------


def test_actions_respect_the_task() -> None:
    env = make_env(RESTRICTED)
    algorithm = make(MaskablePPO, env, **SMALL)
    policy = algorithm.policy
    masks = np.tile(ALLOWED, (4, 1))
    for obs, (actions, _, log_probs) in play(policy, env, 20, masks=True):
        assert ALLOWED[actions.numpy()].all()
        _, whole, entropy = policy.evaluate_actions(obs, actions, action_masks=torch.from_numpy(masks))
        torch.testing.assert_close(log_probs, whole, atol=1e-5, rtol=0)
        assert entropy.max().item() <= np.log(ALLOWED.sum()) + 1e-5
        for deterministic in (False, True):
            arrays = {key: value.numpy() for key, value in obs.items()}
            chosen, _ = algorithm.predict(arrays, deterministic=deterministic, action_masks=masks)
            assert ALLOWED[chosen].all()


def test_a_rollout_stores_the_masks_of_single_environments_too() -> None:
    algorithm = make(MaskablePPO, TokenEnv(RESTRICTED), n_steps=6, batch_size=6)
    algorithm.learn(6)
    assert (algorithm.rollout_buffer.action_masks.astype(bool) == ALLOWED).all()
    assert ALLOWED[algorithm.rollout_buffer.actions.astype(int)].all()


# --- environments --------------------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, Callable[[], Any]] = {
    "id": lambda: "textgym/Emit-v0",
    "made": lambda: gym.make("textgym/Emit-v0"),
    "made vector": lambda: SB3VecEnv(gym.make_vec("textgym/Emit-v0", 3, autoreset_mode="SameStep")),
    "sync": lambda: SB3VecEnv(
        SyncVectorEnv([lambda: gym.make("textgym/Emit-v0")] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_kind_of_environment_is_played(name: str) -> None:
    env = ENVIRONMENTS[name]()
    algorithm = make(A2C, env, load_task("textgym/Emit-v0").base_model, n_steps=5)
    algorithm.learn(45)
    assert algorithm.num_timesteps >= 45


def test_a_stock_algorithm_pays_for_its_kl() -> None:
    model = tiny_gpt2()
    venv = VectorReferenceKL(TokenVectorEnv(MDP, 4, "SameStep"), tiny_gpt2(seed=1), beta=0.1)
    algorithm = make(PPO, SB3VecEnv(venv), model, **SMALL)
    algorithm.learn(24)
    assert (algorithm.rollout_buffer.rewards < 0).any()


# --- callbacks, loggers, saving ------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "evaluation"), [(PPO, EvalCallback), (MaskablePPO, MaskableEvalCallback)])
def test_callbacks_and_loggers_run(algorithm: Any, evaluation: Any, tmp_path: Path) -> None:
    trained = make(algorithm, make_env(), **SMALL)
    trained.set_logger(configure(str(tmp_path), ["csv"]))
    checkpoints = CheckpointCallback(6, str(tmp_path / "checkpoints"))
    evaluations = evaluation(
        make_env(n=2), n_eval_episodes=4, eval_freq=6, best_model_save_path=str(tmp_path / "best"), verbose=0
    )
    trained.learn(72, callback=[checkpoints, evaluations])
    trained.logger.close()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    assert (tmp_path / "best" / "best_model.zip").exists()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    assert all(name in header for name in ("eval/mean_reward", "rollout/ep_rew_mean", "train/explained_variance"))


@pytest.mark.parametrize("algorithm", [PPO, A2C, MaskablePPO, TRPO])
def test_a_saved_model_loads_and_predicts_the_same(algorithm: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_steps": 6, **({} if algorithm is A2C else {"batch_size": 24})}
    own = {"attn_implementation": "eager"} if algorithm is TRPO else {}
    tiny_gpt2(n_layer=1).save_pretrained(tmp_path / "model")
    trained = make(algorithm, make_env(), str(tmp_path / "model"), learning_rate=1e-2, **settings, **own)
    trained.learn(24)
    trained.save(tmp_path / "saved.zip")
    loaded = algorithm.load(tmp_path / "saved.zip", env=make_env(), device="cpu")
    obs: Any = obs_as_tensor(make_env().reset(), torch.device("cpu"))  # type: ignore[arg-type]
    fresh = make(algorithm, make_env(), str(tmp_path / "model"), **settings, **own)
    logits = [one.policy.get_distribution(obs).distribution.logits for one in (trained, loaded, fresh)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    arrays = {key: value.numpy() for key, value in obs.items()}
    assert (
        trained.predict(arrays, deterministic=True)[0].tolist()
        == loaded.predict(arrays, deterministic=True)[0].tolist()
    )
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.num_timesteps == 48


@pytest.mark.parametrize("policy_class", [TokenActorCriticPolicy, MaskableTokenActorCriticPolicy])
def test_a_policy_alone_is_saved_and_loaded(policy_class: Any, tmp_path: Path) -> None:
    algorithm = MaskablePPO if policy_class is MaskableTokenActorCriticPolicy else PPO
    policy = shaken(make(algorithm, make_env(), temperature=0.5, **SMALL).policy)
    policy.save(tmp_path / "policy.pt")
    loaded = policy_class.load(tmp_path / "policy.pt", device="cpu")
    obs = obs_as_tensor(make_env().reset(), torch.device("cpu"))  # type: ignore[arg-type]
    assert torch.equal(policy.predict_values(obs), loaded.predict_values(obs))
    assert torch.equal(*(one.get_distribution(obs).distribution.logits for one in (policy, loaded)))


def test_training_repeats() -> None:
    def weights() -> torch.Tensor:
        algorithm = make(PPO, make_env(), **SMALL)
        algorithm.learn(48)
        return nn.utils.parameters_to_vector(algorithm.policy.parameters())

    assert torch.equal(weights(), weights())


# --- bad input -----------------------------------------------------------------------------------------------


def test_a_model_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary has 12 tokens; the task has 16 actions"):
        make(PPO, make_env(), tiny_gpt2(12), **SMALL)
    with pytest.raises(ValueError, match="context of 8 tokens is shorter than P \\+ T = 10"):
        make(PPO, make_env(), tiny_gpt2(positions=8), **SMALL)


def test_an_encoder_decoder_is_refused() -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="expected a causal language model"):
        make(PPO, make_env(), model, **SMALL)


def test_a_wider_head_never_samples_beyond_the_actions() -> None:
    env = make_env()
    policy = make(PPO, env, tiny_gpt2(40), **SMALL).policy
    for obs, (actions, _, _) in play(policy, env, 5):
        assert int(actions.max()) < 16
        assert policy.get_distribution(obs).distribution.logits.shape == (4, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, r'model is None; pass policy_kwargs=\{"model": DIRECTORY_OR_ID\}'),
        ({"value": None}, "value=None"),
        ({"value": "nowhere"}, "expected 'trunk', 'separate'"),
        ({"temperature": 0.0}, "temperature=0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(PPO, make_env(), **arguments, **SMALL)


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected those of a language task"):
        make(A2C, gym.make("CartPole-v1"))
    box = spaces.Dict(
        {"input_ids": spaces.Box(0, 1, (2,), np.int64), "attention_mask": spaces.Box(0, 1, (2,), np.int8)}
    )
    with pytest.raises(ValueError, match="Discrete"):
        TokenActorCriticPolicy(box, spaces.Box(0, 1, (2,)), lambda _: 1e-3, model=tiny_gpt2)  # type: ignore[arg-type]
