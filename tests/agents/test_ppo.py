"""PPO learns, repeats to the bit, begins every iteration at ratio 1, and goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.helpers import emit, tiny_gpt2, tiny_llama, word_mdp, word_tokenizer
from textgym.agents.loop.slots import SB3VecEnv
from textgym.agents.ppo import PPO
from textgym.env import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.files import write_manifest
from textgym.lm.guards import TrainingError
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL
from textgym.rewards.models.model import RewardModel
from textgym.types import Episodes

SMALL: dict[str, Any] = {"learning_rate": 3e-3, "episodes_per_iteration": 16, "minibatch_size": 8, "beta": 0.05}


def make_env(rows: int = 8, **settings: Any) -> TokenVectorEnv:
    return TokenVectorEnv(word_mdp(**settings), rows, "Disabled")


def make_ppo(seed: int = 0, rows: int = 8, **changes: Any) -> PPO:
    model = changes.pop("model", None) or tiny_gpt2()
    return PPO("LMPolicy", make_env(rows), model=model, seed=seed, **{**SMALL, **changes})


def parameters(algorithm: PPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in algorithm.policy.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Watch(BaseCallback):
    """Keeps what each iteration logs."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_training_start(self) -> None:
        dump = self.model.logger.dump

        def keep(step: int = 0) -> None:
            self.logged.append(dict(self.model.logger.name_to_value))
            dump(step)

        self.model.logger.dump = keep  # type: ignore[method-assign]


@pytest.mark.parametrize("make_model", [tiny_gpt2, tiny_llama])
def test_learns_to_emit_token_7(make_model: Any) -> None:
    env = make_env(32, reward=emit(7), max_new_tokens=8)
    algorithm = PPO(
        "LMPolicy", env, 1e-2, model=make_model(), value="separate", episodes_per_iteration=64, beta=0.0, seed=0
    )
    algorithm.learn(8_000)
    rewards, _ = evaluate_policy(algorithm, VecMonitor(SB3VecEnv(make_env(32, max_new_tokens=8))), 64)
    assert rewards >= 0.95  # the maximum is 1


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7, min_new_tokens=2, top_k=6), Sampling(top_p=0.8)]
)
@pytest.mark.parametrize("make_model", [tiny_gpt2, tiny_llama])
def test_ratio_is_1_at_the_first_minibatch(make_model: Any, sampling: Sampling) -> None:
    watch = Watch()
    make_ppo(model=make_model(), sampling=sampling).learn(250, watch)
    errors = [logged["train/first_minibatch_ratio_error"] for logged in watch.logged]
    assert len(errors) >= 3
    assert max(errors) < 1e-4


def test_ratio_check_notices_another_temperature() -> None:
    """Training under another distribution than was sampled from stops at once."""
    algorithm = make_ppo()
    algorithm._session.behaviour = replace(algorithm.policy.behaviour, sampling=Sampling(temperature=0.5))
    with pytest.raises(TrainingError, match="sampling settings changed"):
        algorithm.learn(50)


def test_same_seed_same_bits_and_another_seed_not() -> None:
    runs = []
    for seed in (0, 0, 1):
        algorithm = make_ppo(seed)
        algorithm.learn(150)
        assert algorithm.iteration == 2
        runs.append(parameters(algorithm))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_an_evaluation_in_between_changes_no_bit() -> None:
    plain, watched = make_ppo(), make_ppo()
    plain.learn(300)
    callback = EvalCallback(SB3VecEnv(make_env(4)), n_eval_episodes=4, eval_freq=3, deterministic=False, warn=False)
    watched.learn(300, callback)
    assert callback.n_calls > 6
    assert equal(parameters(plain), parameters(watched))


def test_global_generators_stay_as_they_are() -> None:
    np.random.seed(5)  # noqa: NPY002 - the global generator is what is watched
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index] # noqa: NPY002
    make_ppo().learn(100)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # type: ignore[index] # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("value", ["trunk", "separate"])
def test_resume_is_bit_exact(tmp_path: Path, value: str) -> None:
    whole = make_ppo(value=value, beta=AdaptiveKL(0.05, target=1.0, horizon=100))
    whole.learn(1000, CheckpointCallback(15, str(tmp_path)))
    checkpoints = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("_")[-2]))
    assert len(checkpoints) > 3
    resumed = PPO.load(checkpoints[2], make_env())
    assert 0 < resumed.num_timesteps < 1000
    resumed.learn(1000 - resumed.num_timesteps, reset_num_timesteps=False)
    assert (resumed.num_timesteps, resumed.iteration) == (whole.num_timesteps, whole.iteration)
    assert resumed.kl.beta == whole.kl.beta
    assert equal(parameters(whole), parameters(resumed))


def test_checkpoint_opens_with_from_pretrained(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    algorithm = make_ppo()
    algorithm.learn(100)
    algorithm.save(tmp_path / "model.zip")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[2, 3, 4]])
    torch.testing.assert_close(model(ids).logits, algorithm.policy.lm(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token_id == 1


@pytest.mark.parametrize("name", ["model.safetensors", "training/optimizer.safetensors", "training/state.json"])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    algorithm = make_ppo()
    algorithm.save(tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        PPO.load(tmp_path / "model", make_env())


def test_value_from_a_reward_model_begins_as_its_score(tmp_path: Path) -> None:
    mdp = word_mdp()
    reward_model = RewardModel.from_causal_lm(tiny_gpt2(), mdp.tokenizer, torch.Generator().manual_seed(1))
    reward_model.set_offset(0.25)
    reward_model.save(tmp_path / "rm")
    algorithm = make_ppo(value=tmp_path / "rm")
    ids, mask = torch.tensor([[0, 0, 2, 3, 5, 6]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        values = algorithm.policy.evaluate(ids, mask).values
    # The value of the state after two tokens is what the reward model says of the text so far.
    assert values[0, 2].item() == pytest.approx(reward_model.score_ids([[2, 3, 5, 6]])[0], abs=1e-5)


def test_budget_counts_generated_tokens() -> None:
    algorithm, lengths = make_ppo(), []
    train = algorithm.train

    def note(episodes: Episodes, progress_remaining: float) -> dict[str, float]:
        lengths.append(int(episodes.lengths.sum()))
        return train(episodes, progress_remaining)

    algorithm.train = note  # type: ignore[method-assign]
    algorithm.learn(200)
    assert sum(lengths[:-1]) < 200 <= sum(lengths)
    assert algorithm.num_timesteps == sum(lengths)


def test_stopping_callback_ends_training() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 5

    algorithm = make_ppo()
    algorithm.learn(10_000, Stop())
    assert algorithm.iteration == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minibatch_size": 17}, "minibatch_size=17"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"gae_lambda": 1.5}, "gae_lambda=1.5"),
        ({"clip_range": 0.0}, "clip_range=0.0"),
        ({"model": tiny_gpt2(vocabulary_size=8)}, "expected at least the 16 actions"),
        ({"model": tiny_gpt2(positions=8)}, "context of 8 tokens"),
        ({"reference": tiny_gpt2(vocabulary_size=8)}, "reference embeds 8"),
        ({"value": "nowhere"}, "value='nowhere'"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ppo(**changes)


def test_trains_in_a_single_gymnasium_environment() -> None:
    """stable-baselines3 wraps it into its own one-row vector; TimeLimit truncates, and training goes on."""
    env = gym.wrappers.TimeLimit(TokenEnv(word_mdp()), 4)
    algorithm = PPO("LMPolicy", env, model=tiny_gpt2(), **{**SMALL, "episodes_per_iteration": 4, "minibatch_size": 4})
    algorithm.learn(40)
    assert algorithm.num_timesteps >= 40


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"max_prompt_length": 5, "max_new_tokens": 5}, r"P=4, T=6, V=16.*has P=5, T=5, V=16"),
        ({"n_words": 13}, r"P=4, T=6, V=16.*has P=4, T=6, V=15"),
        ({"tokenizer": "other"}, r"vocabulary=(\w+); the environment has P=4, T=6, V=16, vocabulary=(?!\1)"),
    ],
)
def test_no_training_goes_on_in_a_foreign_task(tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
    algorithm = make_ppo()
    algorithm.save(tmp_path / "saved")
    mdp = word_mdp(**{name: value for name, value in changes.items() if name != "tokenizer"})
    if "tokenizer" in changes:
        text = word_tokenizer().backend_tokenizer.to_str().replace('"w13"', '"x13"')
        renamed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), eos_token="<eos>")
        mdp = replace(mdp, tokenizer=renamed)
    foreign = TokenVectorEnv(mdp, 8, "Disabled")
    with pytest.raises(ValueError, match=difference):
        PPO.load(tmp_path / "saved", foreign)
    with pytest.raises(ValueError, match=difference):
        algorithm.set_env(foreign)
    with pytest.raises(ValueError, match=difference):
        PPO.load(tmp_path / "saved").set_env(foreign)  # loaded without an environment, it knows its task
    algorithm.set_env(make_env())


@pytest.mark.parametrize(
    ("settings", "changes", "refusal"),
    [
        (
            {"sampling": Sampling(top_k=3)},
            {"allowed": lambda input_ids, _: np.ones((len(input_ids), 16), bool)},
            "top_k and top_p cannot be combined with a task that restricts actions",
        ),
        ({}, {"end_token_ids": (1, 3)}, r"ends responses with the tokens \(1, 3\), the policy with \(1,\)"),
    ],
)
def test_another_environment_passes_the_checks_of_the_first(
    settings: dict[str, Any], changes: dict[str, Any], refusal: str
) -> None:
    algorithm = make_ppo(**settings)
    first = algorithm.env
    with pytest.raises(ValueError, match=refusal):
        algorithm.set_env(make_env(**changes))
    assert algorithm.env is first
    algorithm.learn(40)


def test_another_environment_that_pays_the_kl_too_is_refused() -> None:
    algorithm = make_ppo(beta=0.05)
    with pytest.raises(ValueError, match="subtracts the KL already"):
        algorithm.set_env(VectorReferenceKL(make_env(), tiny_gpt2(), 0.1))
    make_ppo(beta=0).set_env(VectorReferenceKL(make_env(), tiny_gpt2(), 0.1))


def test_what_older_checkpoints_did_not_keep_is_not_compared(tmp_path: Path) -> None:
    make_ppo().save(tmp_path / "saved")
    file = tmp_path / "saved" / "training" / "state.json"
    state = json.loads(file.read_text())
    del state["task"]
    file.write_text(json.dumps(state))
    (tmp_path / "saved" / "manifest.json").unlink()
    write_manifest(tmp_path / "saved")
    assert PPO.load(tmp_path / "saved", make_env()).num_timesteps == 0
    with pytest.raises(ValueError, match="without the sizes of its task; pass env=ID"):
        PPO.load(tmp_path / "saved")


def test_a_loop_of_ones_own_is_learn_bit_for_bit() -> None:
    ours, own = make_ppo(), make_ppo()
    ours.learn(200)
    while own.num_timesteps < 200:
        remaining = 1 - own.num_timesteps / 200
        episodes = own.collect()
        assert episodes is not None
        metrics = own.train(episodes, remaining)
        assert metrics == own.metrics
    assert (own.iteration, own.num_timesteps) == (ours.iteration, ours.num_timesteps)
    assert equal(parameters(ours), parameters(own))


def test_an_iteration_is_collected_anew_until_it_was_trained_on() -> None:
    algorithm = make_ppo()
    first, again = algorithm.collect(), algorithm.collect()
    assert first is not None
    assert again is not None
    assert (first.input_ids == again.input_ids).all()
    algorithm.train(again)
    after = algorithm.collect()
    assert after is not None
    assert (after.episode == first.episode + len(first)).all()


def test_episodes_of_another_process_can_be_trained_on(tmp_path: Path) -> None:
    """As where one process plays and another learns."""
    player, learner = make_ppo(), make_ppo()
    episodes = player.collect()
    assert episodes is not None
    assert learner.train(episodes) == player.train(episodes)
    assert equal(parameters(player), parameters(learner))


def test_collecting_needs_an_environment(tmp_path: Path) -> None:
    make_ppo().save(tmp_path)
    with pytest.raises(ValueError, match=r"no environment to learn in; call set_env\(env\) first"):
        PPO.load(tmp_path).collect()
