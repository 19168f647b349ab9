"""Demands of stable-baselines3's own tests on callbacks, loggers, saving, predicting and environments, made on ours.

Ideas of its ``tests``, in our words. What other files of ours ask already (training that repeats, bits that an
evaluation does not change, dropout that is off, GAE by hand, the environment checker) is not asked again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, KVWriter, Logger, configure
from stable_baselines3.common.monitor import Monitor, get_monitor_files, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from tests.helpers import taught, tiny_gpt2, word_mdp
from textgym.agents.grpo import GRPO
from textgym.agents.loop.slots import SB3VecEnv
from textgym.agents.nlpo import NLPO
from textgym.agents.ppo import PPO
from textgym.agents.registry import ALGORITHMS
from textgym.agents.stock import TokenActorCriticPolicy
from textgym.env import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL

EMIT = "textgym/Emit-v0"
SMALL: dict[str, Any] = {"episodes_per_iteration": 12, "minibatch_size": 4, "seed": 0, "device": "cpu"}


def make(kind: Any = PPO, env: Any = EMIT, **settings: Any) -> Any:
    return kind("LMPolicy", env, **{**SMALL, **settings})


def words(env: Any = None, kind: Any = PPO, **settings: Any) -> Any:
    """Return an algorithm in a task of several words, with a model of its own."""
    return make(kind, word_env() if env is None else env, model=tiny_gpt2(), **settings)


def word_env(mode: str = "Disabled", n: int = 4, **settings: Any) -> TokenVectorEnv:
    return TokenVectorEnv(word_mdp(**settings), n, mode)


def parameters(algorithm: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(algorithm.policy.parameters()).detach()


class Rows(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append({**key_values, "step": step})

    def close(self) -> None:
        pass


def logged(algorithm: Any, tokens: int, **arguments: Any) -> list[dict[str, Any]]:
    """Return what is logged while an algorithm learns."""
    rows = Rows()
    algorithm.set_logger(Logger(None, [rows]))
    algorithm.learn(tokens, **arguments)
    return rows.rows


# --- callbacks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_stock_callbacks_run_together(name: str, tmp_path: Path) -> None:
    settings = {"samples_per_prompt": 4} if name == "best-of-n" else {}
    algorithm = make(ALGORITHMS[name], **taught(ALGORITHMS[name], 32), **settings)
    every = CheckpointCallback(5, str(tmp_path), name_prefix="every")
    on_event = CheckpointCallback(1, str(tmp_path), name_prefix="event")
    best = StopTrainingOnRewardThreshold(1e9)
    evaluation = EvalCallback(
        Monitor(gym.make(EMIT)), best, eval_freq=2, n_eval_episodes=2, log_path=str(tmp_path), verbose=0, warn=False
    )
    event = EveryNTimesteps(20, on_event)
    together = CallbackList([every, evaluation, event, StopTrainingOnMaxEpisodes(10**6), LogEveryNTimesteps(12)])
    with pytest.warns(UserWarning, match="not of the same type"):  # as with stable-baselines3's own algorithms
        algorithm.learn(48, together)
    observation = {key: value[0] for key, value in together.locals["new_obs"].items()}
    assert algorithm.env.observation_space.contains(observation)
    assert all(each.locals["new_obs"] is together.locals["new_obs"] for each in (every, evaluation, event, on_event))
    assert all(each.num_timesteps == algorithm.num_timesteps for each in (every, evaluation, event))
    assert evaluation.n_calls == together.n_calls >= 4
    assert np.load(tmp_path / "evaluations.npz")["results"].shape[1] == 2
    assert list(tmp_path.glob("event_*_steps"))


def test_functions_are_callbacks() -> None:
    seen: list[str] = []

    def watch(local: dict[str, Any], everything: dict[str, Any]) -> bool:
        seen.append(type(local["self"]).__name__)
        assert "PPO" not in everything  # the globals of the loop
        return True

    make().learn(24, callback=watch)
    assert set(seen) == {"PPO"}
    count = len(seen)
    make().learn(24, callback=[watch, LogEveryNTimesteps(5), lambda *_: True])
    assert len(seen) == 2 * count


@pytest.mark.parametrize("several", [False, True])
def test_a_function_that_returns_false_stops(several: bool) -> None:
    calls: list[int] = []
    algorithm = words()
    before = parameters(algorithm)

    def stop(local: dict[str, Any], _: dict[str, Any]) -> bool:
        calls.append(local["self"].num_timesteps)
        return len(calls) < 3

    algorithm.learn(1000, callback=[lambda *_: True, stop] if several else stop)
    assert calls == [4, 8, 12] or len(calls) == 3
    assert algorithm.iteration == 0
    assert torch.equal(parameters(algorithm), before)


def test_a_function_that_forgets_to_return_is_an_error() -> None:
    with pytest.raises(
        TypeError, match="the callback function returned None; return True to continue training, or False to stop"
    ):
        make().learn(24, callback=lambda *_: None)


def test_logs_are_written_every_n_timesteps() -> None:
    rows = logged(make(), 60, callback=LogEveryNTimesteps(12), log_interval=10**6)
    assert [row["time/total_timesteps"] for row in rows] == [row["step"] for row in rows] == [12, 24, 36, 48, 60]
    assert "rollout/ep_rew_mean" not in rows[0]  # no episode was scored yet
    assert "rollout/ep_rew_mean" in rows[1]


def test_training_stops_at_a_score() -> None:
    threshold = StopTrainingOnRewardThreshold(-1.0)
    evaluation = EvalCallback(DummyVecEnv([lambda: Monitor(gym.make(EMIT))]), threshold, eval_freq=1, verbose=0)
    algorithm = make()
    with pytest.warns(UserWarning, match="not of the same type"):
        algorithm.learn(1000, evaluation)
    assert algorithm.num_timesteps == 12


def test_training_stops_where_nothing_improves() -> None:
    patience = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=0)
    evaluation = EvalCallback(
        SB3VecEnv(gym.make_vec(EMIT, num_envs=2)), callback_after_eval=patience, eval_freq=1, verbose=0, warn=False
    )
    algorithm = make(learning_rate=0.0)  # each evaluation is as the first one
    algorithm.learn(1000, evaluation)
    assert algorithm.num_timesteps == 12 * 4


def test_training_stops_after_so_many_episodes() -> None:
    algorithm = make(env=make_vec_env(EMIT, 3))
    stop = StopTrainingOnMaxEpisodes(2)
    algorithm.learn(1000, stop)
    assert stop.n_episodes == algorithm.num_timesteps == 6  # an episode of Emit is one token


def test_what_a_callback_records_is_logged() -> None:
    class Recorder(BaseCallback):
        def _on_rollout_end(self) -> None:
            self.logger.record("own/episodes", len(self.model.ep_info_buffer or ()))

        def _on_step(self) -> bool:
            return True

    assert [row["own/episodes"] for row in logged(make(), 36, callback=Recorder())] == [12, 24, 36]


# --- evaluation --------------------------------------------------------------------------------------------------

VECTORS: dict[str, Callable[[], Any]] = {
    "NextStep": lambda: gym.make_vec(EMIT, num_envs=3),
    "SameStep": lambda: gym.make_vec(EMIT, num_envs=3, autoreset_mode="SameStep"),
    "Disabled": lambda: gym.make_vec(EMIT, num_envs=3, autoreset_mode="Disabled"),
    "sync": lambda: gym.make_vec(EMIT, num_envs=3, vectorization_mode="sync"),
    "statistics": lambda: gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec(EMIT, num_envs=3)),
}


@pytest.mark.parametrize("name", VECTORS)
def test_what_make_vec_gives_is_evaluated_behind_the_bridge(name: str) -> None:
    algorithm = make()
    expected, _ = evaluate_policy(algorithm, gym.make(EMIT), 6, warn=False)
    calls: list[int] = []
    env = VecMonitor(SB3VecEnv(VECTORS[name]()))
    mean, deviation = evaluate_policy(algorithm, env, 6, callback=lambda local, _: calls.append(local["i"]))
    assert (mean, deviation) == (pytest.approx(expected), 0.0)  # the best word, always the same
    assert len(calls) == 6
    with pytest.raises(AssertionError, match="below threshold"):
        evaluate_policy(algorithm, env, 3, reward_threshold=2.0)


def test_the_message_for_what_make_vec_gives_names_the_bridge() -> None:
    env = gym.make_vec(EMIT, num_envs=2)
    for ask in (lambda: evaluate_policy(make(), env, 2), lambda: VecMonitor(env)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"give stable-baselines3 textgym\.agents\.SB3VecEnv\(env\)"):
            ask()
    with pytest.raises(ValueError, match=r"wrap a Gymnasium vector environment in textgym\.agents\.SB3VecEnv"):
        stable_baselines3.PPO(TokenActorCriticPolicy, env, policy_kwargs={"model": tiny_gpt2()})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", VECTORS)
def test_an_eval_callback_takes_what_make_vec_gives(name: str, tmp_path: Path) -> None:
    """With our algorithms, at any depth of callbacks; wrappers of such environments as well as the bare ones."""
    if name in ("sync", "statistics"):
        with pytest.raises(ValueError, match="not a Gymnasium environment"):  # stable-baselines3's own refusal
            EvalCallback(VECTORS[name]())
        return
    best = str(tmp_path / "best")
    evaluation = EvalCallback(VECTORS[name](), best_model_save_path=best, eval_freq=1, verbose=0, warn=False)
    algorithm = make()
    algorithm.learn(24, [EveryNTimesteps(10, evaluation)])
    assert isinstance(evaluation.eval_env, SB3VecEnv)
    assert evaluation.last_mean_reward > 0
    assert PPO.load(Path(best) / "best_model").num_timesteps >= 0


# --- logs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "VecMonitor", "single", "statistics", "DummyVecEnv"])
def test_the_means_of_episodes_are_those_of_the_last_ones(name: str) -> None:
    """12 episodes an iteration, and a window of 20."""
    envs: dict[str, Callable[[], Any]] = {
        "id": lambda: EMIT,
        "VecMonitor": lambda: VecMonitor(DummyVecEnv([lambda: gym.make(EMIT)] * 4)),
        "single": lambda: gym.make(EMIT),
        "statistics": lambda: gym.wrappers.vector.RecordEpisodeStatistics(VECTORS["Disabled"]()),
        "DummyVecEnv": lambda: DummyVecEnv([lambda: gym.make(EMIT)] * 3),
    }
    scores: list[float] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        scores.extend(info["score"] for info in local["infos"] if "score" in info)
        return True

    algorithm = make(env=envs[name](), stats_window_size=20, score_together=False)
    rows = logged(algorithm, 36, callback=watch)
    for end, row in zip((12, 24, 36), rows, strict=True):
        assert row["rollout/ep_rew_mean"] == pytest.approx(np.mean(scores[max(0, end - 20) : end]), abs=1e-5)
        assert row["rollout/ep_len_mean"] == 1.0
        assert "rollout/score" in row
    assert rows[0]["rollout/ep_rew_mean"] == pytest.approx(rows[0]["rollout/score"], abs=1e-5)


def test_the_means_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """12 episodes an iteration in a window of 100: also what was saved in the midst of an iteration logs the same."""
    whole = logged(words(), 200)
    algorithm = words()
    halves = logged(algorithm, whole[0]["step"] + 30, callback=CheckpointCallback(1, str(tmp_path), name_prefix="at"))
    last = sorted(tmp_path.glob("at_*"), key=lambda path: int(path.name.split("_")[1]))[-1]
    resumed = PPO.load(last, word_env())
    again = logged(resumed, 200 - resumed.num_timesteps, reset_num_timesteps=False)
    joined = [*halves[: resumed.iteration - len(again)], *again]
    for key in ("rollout/ep_rew_mean", "rollout/ep_len_mean"):
        assert [row[key] for row in joined] == [row[key] for row in whole]
    assert 0 < len(again) < len(whole)


def test_the_mean_reward_is_what_a_wrapper_pays_and_greedy_companions_do_not_count() -> None:
    env = gym.wrappers.vector.TransformReward(word_env(), lambda reward: reward - 5)
    row = logged(words(env, ALGORITHMS["remax"]), 40)[0]
    assert row["rollout/ep_rew_mean"] == pytest.approx(row["rollout/score"], abs=1e-5)
    assert row["rollout/ep_rew_mean"] < -4
    assert row["rollout/ep_len_mean"] == pytest.approx(row["rollout/length"])


def test_a_logger_of_ones_own_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make().learn(12).logger.output_formats == []
    shown = make(verbose=1).learn(12)
    assert isinstance(shown.logger.output_formats[0], HumanOutputFormat)
    assert "ep_rew_mean" in capsys.readouterr().out
    shown.set_logger(configure(str(tmp_path), ["csv", "json"]))
    shown.learn(24)
    shown.learn(12, reset_num_timesteps=False)
    assert isinstance(shown.logger.output_formats[0], CSVOutputFormat)
    shown.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert [row["time/total_timesteps"] for row in csv.DictReader(lines)] == ["12", "24", "36"]
    assert len((tmp_path / "progress.json").read_text().splitlines()) == 3


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    with mock.patch("time.time_ns", return_value=42):
        assert logged(make(), 12)[0]["time/fps"] > 0


def test_logs_may_be_written_by_hand() -> None:
    algorithm = make()
    rows = logged(algorithm, 12)
    algorithm.dump_logs(7)
    assert rows[-1]["time/iterations"] == 7
    with pytest.warns(UserWarning, match="deprecated"):
        algorithm._dump_logs()


# --- saving and loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PPO, NLPO, GRPO, *(ALGORITHMS[name] for name in ("trpo", "best-of-n"))])
def test_a_model_is_loaded_without_an_environment(kind: Any, tmp_path: Path) -> None:
    settings = {"samples_per_prompt": 4} if kind is ALGORITHMS["best-of-n"] else {}
    algorithm = words(kind=kind, **settings)
    algorithm.learn(30)
    algorithm.save(tmp_path / "saved.zip")
    loaded = kind.load(str(tmp_path / "saved.zip"), device="cpu")
    assert loaded.get_env() is None
    assert (loaded.observation_space, loaded.action_space) == (algorithm.observation_space, algorithm.action_space)
    assert loaded.policy.end_token_ids == algorithm.policy.end_token_ids
    assert torch.equal(parameters(loaded), parameters(algorithm))
    observation = word_env(n=9).reset(seed=1)[0]
    for deterministic in (True, False):
        actions = [one.predict(observation, deterministic=deterministic)[0] for one in (algorithm, loaded)]
        if deterministic:
            assert (actions[0] == actions[1]).all()
        assert all(algorithm.action_space.contains(action) for action in actions[1])
    with pytest.raises(ValueError, match=r"no environment to learn in; call set_env\(env\) first"):
        loaded.learn(10)
    with pytest.raises(ValueError, match=r"copy the directory that was loaded, or call set_env\(env\) first"):
        loaded.save(tmp_path / "again")
    loaded.set_random_seed(3)
    assert not (tmp_path / "again").exists()


def test_what_was_loaded_without_an_environment_goes_on_as_if_it_had_had_one(tmp_path: Path) -> None:
    words().learn(30).save(tmp_path / "saved")
    one, other = PPO.load(tmp_path / "saved", word_env()), PPO.load(tmp_path / "saved")
    other.set_env(word_env())
    for algorithm in (one, other):
        algorithm.learn(30, reset_num_timesteps=False)
    assert torch.equal(parameters(one), parameters(other))
    other.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() != b""
    assert one.num_timesteps == other.num_timesteps > 30


def test_environments_are_changed_and_counts_go_on(tmp_path: Path) -> None:
    algorithm = make(env=make_vec_env(EMIT, 2))
    algorithm.learn(12)
    algorithm.set_env(make_vec_env(EMIT, 2))
    algorithm.learn(12)
    assert algorithm.num_timesteps == 12
    with pytest.raises(AssertionError, match="requires them to be the same"):
        algorithm.set_env(make_vec_env(EMIT, 3))
    algorithm.set_env(algorithm.get_env(), force_reset=False)
    algorithm.learn(12, reset_num_timesteps=False)
    assert algorithm.num_timesteps == 24
    algorithm.save(tmp_path / "saved")
    for rows in (1, 3):
        again = PPO.load(tmp_path / "saved", make_vec_env(EMIT, rows))
        again.learn(12, reset_num_timesteps=False)
        assert again.num_timesteps == 36


def test_settings_may_be_changed_at_loading(tmp_path: Path) -> None:
    words().save(tmp_path / "saved", exclude=["verbose"], include=["policy"])  # which mean nothing here
    loaded = PPO.load(tmp_path / "saved", word_env(), n_epochs=1, verbose=1, learning_rate=2e-5)
    assert (loaded.settings.n_epochs, loaded.verbose, loaded.learning_rate) == (1, 1, 2e-5)
    with pytest.raises(TypeError, match="'custom_objects': nothing is unpickled; pass what should differ by its own"):
        PPO.load(tmp_path / "saved", word_env(), custom_objects={"learning_rate": 1e-5})


def test_parameters_are_read_and_set() -> None:
    algorithm, other = words(), words(seed=1, learning_rate=1e-2)
    other.learn(30)
    given = {
        name: {key: value.clone() for key, value in state.items()} for name, state in other.get_parameters().items()
    }
    assert not torch.equal(parameters(algorithm), parameters(other))
    algorithm.set_parameters(given)
    assert torch.equal(parameters(algorithm), parameters(other))
    with pytest.raises(ValueError, match="nothing is an invalid object name"):
        algorithm.set_parameters({**given, "nothing": {}})
    with pytest.raises(ValueError, match="do not match"):
        algorithm.set_parameters({})
    short = {"policy": dict(list(given["policy"].items())[:-1])}
    with pytest.raises(RuntimeError, match="Missing key"):
        algorithm.set_parameters(short)
    algorithm.set_parameters(short, exact_match=False)


def test_parameters_are_taken_from_a_checkpoint(tmp_path: Path) -> None:
    algorithm, other = words(), words(seed=1, learning_rate=1e-2)
    other.learn(30).save(tmp_path / "saved")
    algorithm.set_parameters(tmp_path / "saved.zip")
    assert torch.equal(parameters(algorithm), parameters(other))
    assert algorithm.num_timesteps == 0
    with pytest.raises(FileNotFoundError):
        algorithm.set_parameters(str(tmp_path / "nowhere"))


# --- predicting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_gives_arrays_of_the_observations_shape(deterministic: bool) -> None:
    algorithm, env, rows = words(), TokenEnv(word_mdp()), word_env(n=5)
    one, _ = algorithm.predict(env.reset(seed=0)[0], deterministic=deterministic)
    assert isinstance(one, np.ndarray)
    assert (one.shape, one.dtype) == ((), np.int64)
    assert env.action_space.contains(one)
    env.step(one)
    many, _ = algorithm.predict(rows.reset(seed=0)[0], deterministic=deterministic)
    assert (many.shape, many.dtype) == ((5,), np.int64)
    rows.step(many)
    single_row, _ = algorithm.predict(word_env(n=1).reset(seed=0)[0])
    assert single_row.shape == (1,)


def test_predict_names_the_mistake_of_passing_all_that_reset_returns() -> None:
    with pytest.raises(ValueError, match=r"reset\(\) returns \(observation, info\): pass the observation alone"):
        words().predict(word_env().reset(seed=0))


def test_a_deterministic_prediction_repeats_itself() -> None:
    algorithm = words()
    observation = word_env(n=6).reset(seed=2)[0]
    first, _ = algorithm.predict(observation, deterministic=True)
    for _ in range(4):
        assert (algorithm.predict(observation, deterministic=True)[0] == first).all()


# --- environments ------------------------------------------------------------------------------------------------


def test_a_monitor_writes_the_sums_that_were_paid(tmp_path: Path) -> None:
    env = Monitor(gym.make("textgym/Length-v0"), str(tmp_path / "one"), info_keywords=("finish_reason", "score"))
    rng, paid, lengths = np.random.default_rng(0), [0.0], [0]
    env.reset(seed=0)
    for _ in range(200):
        _, reward, terminated, truncated, _ = env.step(rng.integers(3))
        paid[-1] += float(reward)
        lengths[-1] += 1
        if terminated or truncated:
            env.reset()
            paid.append(0.0)
            lengths.append(0)
    env.close()
    assert env.get_total_steps() == 200
    assert env.get_episode_rewards() == pytest.approx(paid[:-1], abs=1e-6)
    assert env.get_episode_lengths() == lengths[:-1]
    head, *_ = (tmp_path / "one.monitor.csv").read_text().splitlines()
    assert json.loads(head[1:])["env_id"] == "textgym/Length-v0"
    table = load_results(str(tmp_path))
    assert len(table) == len(paid) - 1
    assert table["score"].to_numpy() == pytest.approx(paid[:-1], abs=1e-5)
    assert set(table["finish_reason"]) <= {"stop", "length"}


def test_a_vector_monitor_writes_every_rows_episodes(tmp_path: Path) -> None:
    env = VecMonitor(SB3VecEnv(word_env("SameStep", 3)), str(tmp_path / "rows"), info_keywords=("score",))
    algorithm = words(env)
    seen: list[float] = []
    algorithm.learn(60, lambda local, _: not seen.extend(i["score"] for i in local["infos"] if "score" in i))
    env.close()
    assert len(get_monitor_files(str(tmp_path))) == 1
    table = load_results(str(tmp_path))
    assert sorted(table["score"]) == pytest.approx(sorted(seen), abs=1e-5)
    assert table["r"].to_numpy() == pytest.approx(table["score"].to_numpy(), abs=1e-5)


def test_attributes_and_methods_of_chosen_rows() -> None:
    env = SB3VecEnv(word_env(n=3))
    env.reset()
    assert env.get_attr("end_token_ids", [0, 2]) == [(1,), (1,)]
    assert [mask.shape for mask in env.env_method("action_masks", indices=[0, -1])] == [(16,), (16,)]
    env.set_attr("note", 5)
    assert env.get_attr("note") == [5, 5, 5]
    assert env.has_attr("mdp")
    assert not env.has_attr("nonsense")
    assert env.env_is_wrapped(Monitor) == [False] * 3
    (observation, info), *others = env.env_method("reset", options={"prompt_index": 2, "episode": 9}, indices=[1])
    assert not others
    assert info["prompt_index"] == 2
    assert observation["attention_mask"][:4].sum() == 3


def test_two_rows_are_not_one_environment() -> None:
    env = gym.make(EMIT)
    with pytest.raises(ValueError, match="same instance"):
        DummyVecEnv([lambda: env] * 2)


def test_rewards_may_be_normalised_by_stable_baselines3() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make(EMIT)] * 3), norm_obs=False, gamma=1.0)
    algorithm = make(env=env)
    rows = logged(algorithm, 36)
    assert np.isfinite([row["rollout/score"] for row in rows]).all()
    assert algorithm.get_vec_normalize_env() is env
    assert env.ret_rms.count > 30


def learns(env: Any) -> None:
    """PPO raises the score of Emit's rows."""
    algorithm = make(env=env, episodes_per_iteration=32, minibatch_size=16, learning_rate=1e-3, beta=0.0)
    rows = logged(algorithm, 480)
    assert rows[-1]["rollout/score"] > rows[0]["rollout/score"] + 0.2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ppo_learns_in_a_process_of_stable_baselines3() -> None:
    """One row, since each process imports torch."""
    env = make_vec_env(f"textgym:{EMIT}", 1, vec_env_cls=SubprocVecEnv)
    try:
        learns(env)
        assert make(GRPO, env).learn(24).num_timesteps >= 24
    finally:
        env.close()


def test_ppo_learns_in_a_process_of_gymnasium() -> None:
    """The wrapper asks the process for what only an environment of ours has, and for what none has."""
    env: Any = AsyncVectorEnv([lambda: gym.make(f"textgym:{EMIT}")], context="spawn")
    try:
        learns(env)
        evaluated, _ = evaluate_policy(make(), VecMonitor(SB3VecEnv(env)), 4)
        assert evaluated == evaluate_policy(make(), gym.make(EMIT), 4, warn=False)[0]
        groups = make(GRPO, env)
        groups.learn(24)
        assert groups.num_timesteps >= 24
        wrapped = VectorReferenceKL(env, tiny_gpt2(18), beta=0.1)
        assert make(env=wrapped, beta=0.0).learn(12).num_timesteps == 12
    finally:
        env.close()


def test_an_attribute_that_cannot_be_sent_is_named() -> None:
    class Locked(SB3VecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if attr_name == "mdp":
                raise EOFError
            return super().get_attr(attr_name, indices)

        def has_attr(self, attr_name: str) -> bool:
            return attr_name in ("mdp", "prompt_length", "end_token_ids", "render_mode")

    with pytest.raises(ValueError, match="env cannot send its attribute 'mdp' from its subprocess"):
        words(VecMonitor(Locked(word_env())))


def test_a_vector_of_environments_is_found_out_through_its_first_row() -> None:
    env = SB3VecEnv(SyncVectorEnv([lambda: gym.make(EMIT)] * 2))
    assert env.get_attr("prompt_length") == [1, 1]
    with pytest.raises(AttributeError, match="nonsense"):
        env.get_attr("nonsense")


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n_steps", "did you mean 'episodes_per_iteration'"),
        ("batch_size", "did you mean 'minibatch_size'"),
        ("gamma", "γ is 1"),
        ("normalize_advantage", "as each algorithm's paper says"),
        ("use_sde", "tokens are discrete"),
        ("sde_sample_freq", "tokens are discrete"),
        ("rollout_buffer_class", "whole responses are kept"),
        ("use_rms_prop", "the optimiser is Adam"),
    ],
)
def test_names_of_stable_baselines3_are_answered_with_ours(name: str, said: str) -> None:
    with pytest.raises(TypeError, match=f"PPO has no setting '{name}'.*{said}.*; it has "):
        make(**{name: 16})


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_names_of_other_policies_are_no_environments(policy: str) -> None:
    with pytest.raises(ValueError, match=rf"policy='{policy}' is unknown; expected 'LMPolicy'$"):
        PPO(policy)


@pytest.mark.parametrize("name", ["n_epochs", "gae_lambda", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"])
def test_names_that_both_have_mean_the_same(name: str) -> None:
    value = 2 if name == "n_epochs" else 0.5
    algorithm = words(**{name: value, "target_kl": 0.01, "max_grad_norm": 0.3})
    assert getattr(algorithm.settings, name) == value
    assert np.isfinite(logged(algorithm, 20)[0]["train/loss"])


@pytest.mark.parametrize("kind", list(ALGORITHMS.values()))
def test_an_entropy_bonus_is_refused_below_zero(kind: Any) -> None:
    for value in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="ent_coef="):
            words(kind=kind, ent_coef=value)


def test_minibatches_of_one_response() -> None:
    assert np.isfinite(logged(words(minibatch_size=1, n_epochs=1), 20)[0]["train/loss"])
