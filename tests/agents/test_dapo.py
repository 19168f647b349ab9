"""DAPO's dynamic sampling: which prompts are played, what counts, what is trained on, and when it gives up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.agents.test_groups_behind_wrappers import Doubled, DoubledRows
from tests.agents.test_ppo import Watch, equal, parameters
from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents import DAPO, GRPO
from textgym.agents.functional.objectives import uninformative
from textgym.agents.loop.episodes import joined, take
from textgym.cli import main
from textgym.env import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.lm.guards import TrainingError
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL
from textgym.types import Episodes

PROMPTS = [f"w{i} w{j}" for i in range(4) for j in range(3)]
K, WANTED = 4, 16
SIZES: dict[str, Any] = {"episodes_per_iteration": WANTED, "minibatch_size": 8, "samples_per_prompt": K, "seed": 0}


def rare(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Pay for a response that begins with w10 or more: about two thirds of the groups agree on nothing."""
    return [float(ids[0] >= 14) for ids in completion_ids]


def count(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def dense(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
    """Pay at the first token, and take or give something at the others, whose sum is 0 or rounding."""
    return [[float(ids[0] >= 14) + (0.1 if len(ids) > 1 else 0.0), *_spent(len(ids) - 1)] for ids in completion_ids]


def _spent(n: int) -> list[float]:
    return [-0.1 / n] * n if n else []


def task(reward: Any = rare, **settings: Any) -> Any:
    return word_mdp(reward, PROMPTS, **settings)


def make(env: Any = None, kind: Any = DAPO, **settings: Any) -> Any:
    env = env or TokenVectorEnv(task(), 8, "Disabled")
    settings = {**SIZES, "learning_rate": 3e-3, **settings}
    return kind("LMPolicy", env, model=tiny_gpt2(), **settings)


def played(algorithm: Any, n: int = 3) -> list[Episodes]:
    """Play and train ``n`` iterations."""
    found = []
    for _ in range(n):
        episodes = algorithm.collect()
        assert episodes is not None
        algorithm.train(episodes)
        found.append(episodes)
    return found


def differing(episodes: Episodes) -> np.ndarray[Any, Any]:
    """Return ``[N]`` True for responses to a prompt whose scores differ, group by group."""
    scores = np.round(episodes.rewards.sum(1), 4).reshape(-1, K)
    return np.repeat([len(set(group)) > 1 for group in scores.tolist()], K)


@pytest.mark.parametrize("reward", [rare, dense])
def test_an_iteration_has_as_many_informative_responses_as_were_asked_for(reward: Any) -> None:
    algorithm = make(TokenVectorEnv(task(reward), 8, "Disabled"))
    trained: list[int] = []
    update = algorithm.update

    def counted(scored: Any, estimated: Any) -> Any:
        trained.append(len(scored.episodes))
        assert (np.abs(estimated.advantages).sum(1) > 0).all()
        return update(scored, estimated)

    algorithm.update = counted
    everything = played(algorithm)
    assert [int(differing(episodes).sum()) for episodes in everything] == trained == [WANTED] * 3
    assert len({len(episodes) for episodes in everything}) > 1
    # A further collection has as many prompts as are still wanted; the last one therefore has no useless prompt.
    assert all(differing(episodes)[-1] for episodes in everything)


def test_discarded_tokens_count() -> None:
    """In the budget, in the number of episodes begun, and under a name of their own."""
    algorithm, watch, kept = make(), Watch(), []
    train = algorithm.train

    def keep(episodes: Episodes, *rest: Any) -> Any:
        kept.append(episodes)
        return train(episodes, *rest)

    algorithm.train = keep
    algorithm.learn(700, watch)
    assert algorithm.num_timesteps == sum(int(episodes.lengths.sum()) for episodes in kept)
    assert algorithm.episodes_begun == sum(map(len, kept))
    discarded = [int(episodes.lengths[~differing(episodes)].sum()) for episodes in kept]
    assert [logged["rollout/discarded_tokens"] for logged in watch.logged] == discarded
    assert sum(discarded) > 0


def test_the_prompts_played_next_are_the_next_of_the_order() -> None:
    """Groups follow each other as GRPO's do, which discards none; so do the numbers that key the random streams."""
    everything = played(make())
    prompts = np.concatenate([episodes.prompt_index for episodes in everything])
    numbers = np.concatenate([episodes.episode for episodes in everything])
    assert numbers.tolist() == list(range(len(numbers)))
    assert (prompts.reshape(-1, K) == prompts[::K, None]).all()
    plain = np.concatenate([episodes.prompt_index for episodes in played(make(kind=GRPO), len(prompts) // WANTED + 1)])
    assert prompts.tolist() == plain[: len(prompts)].tolist()


def test_a_collection_is_repeated_until_the_iteration_is_complete() -> None:
    algorithm = make()
    one, again = algorithm.collect(), algorithm.collect()
    assert len(one) > WANTED
    assert (one.input_ids == again.input_ids).all()
    assert (one.prompt_index == again.prompt_index).all()


# --- nothing to learn from ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [0, 3])
@pytest.mark.parametrize("score", [0.0, 0.1 + 0.2])
def test_scores_that_never_differ_stop_it_before_any_step(score: float, tries: int) -> None:
    same = task(lambda completions, **_: [score] * len(completions))
    algorithm = make(TokenVectorEnv(same, 8, "Disabled"), max_resamples=tries)
    before = parameters(algorithm)
    begun: list[int] = []
    with pytest.raises(
        TrainingError,
        match=rf"no prompt whose 4 responses differ in score, in {tries + 1} collections.*score of {score:.4g}:",
    ) as stopped:
        algorithm.learn(10_000, lambda local, _: not begun.append(int(local["dones"].sum())))  # type: ignore[func-returns-value]
    assert sum(begun) == len(stopped.value.batch) == (1 + tries) * WANTED
    assert (algorithm.iteration, algorithm.episodes_begun) == (0, 0)
    assert equal(parameters(algorithm), before)


def test_a_policy_that_was_trained_ends_where_nothing_differs_any_more() -> None:
    solved = False

    def score(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [1.0 if solved else float(ids[0] % 2) for ids in completion_ids]

    algorithm = make(TokenVectorEnv(task(score), 8, "Disabled"), max_resamples=2)
    algorithm.train(algorithm.collect())
    before, solved = parameters(algorithm), True
    algorithm.learn(10_000, reset_num_timesteps=False)
    assert algorithm.ended is not None
    assert "in 3 collections" in algorithm.ended
    assert "mean score of 1" in algorithm.ended
    assert algorithm.iteration == 1
    assert equal(parameters(algorithm), before)
    solved = False
    assert algorithm.collect() is not None
    assert algorithm.ended is None


def test_a_run_that_solves_its_task_is_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--task", "textgym/Emit-v0", "--algorithm", "dapo", "--beta", "0", "--learning-rate", "0.02")
    sizes = ("--episodes-per-iteration", "32", "--minibatch-size", "8", "--max-resamples", "1", "--eval-episodes", "16")
    main(["train", *flags, *sizes, "--total-timesteps", "60000", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "stopped early: DAPO found no prompt" in said
    kept = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert "in 2 collections of 8 prompts" in kept["stopped_early"]
    assert {"before", "after"} <= kept.keys()


def test_an_iteration_whose_tries_are_used_up_trains_on_what_was_found() -> None:
    algorithm = make(max_resamples=0)
    everything = played(algorithm)
    assert [len(episodes) for episodes in everything] == [WANTED] * 3
    assert any(0 < differing(episodes).sum() < WANTED for episodes in everything)
    assert algorithm.episodes_begun == 3 * WANTED


def test_uninformative_groups_by_hand() -> None:
    returns = np.array([1.0, 1.0, 1.0, 0.0, 0.3, 0.3, 0.1 + 0.2, 0.1, 0.1 + 1e-4])
    assert uninformative(returns, 3).tolist() == [True, False, False]
    assert uninformative(np.array([0.3, 0.1 + 0.2, 0.5, 0.5]), 2).tolist() == [True, True]
    # In float32 neighbours of 1000.1 are 6e-5 apart; sums of tokens' rewards differ by some of them.
    large = np.array([1000.1, 1000.1002, -1000.1, -1000.1002, 1000.1, 1000.2], np.float32)
    assert uninformative(large, 2).tolist() == [True, True, False]


# --- the loop's promises -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_it_resumes_bit_by_bit_between_iterations_of_different_lengths(together: bool, tmp_path: Path) -> None:
    settings = {"beta": AdaptiveKL(0.05, target=1.0, horizon=100), "score_together": together}
    whole = make(**settings)
    whole.learn(900, CheckpointCallback(10, str(tmp_path)))
    checkpoints = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("_")[-2]))
    for path in (checkpoints[len(checkpoints) // 3], checkpoints[-1]):
        resumed = DAPO.load(path, TokenVectorEnv(task(), 8, "Disabled"))
        assert 0 < resumed.num_timesteps < 900
        assert resumed.episodes_begun != WANTED * resumed.iteration
        resumed.learn(900 - resumed.num_timesteps, reset_num_timesteps=False)
        assert (resumed.num_timesteps, resumed.episodes_begun) == (whole.num_timesteps, whole.episodes_begun)
        assert equal(parameters(resumed), parameters(whole))


def test_when_scores_are_computed_changes_no_bit() -> None:
    weights = []
    for together in (True, False):
        algorithm = make(score_together=together)
        algorithm.learn(500)
        weights.append(parameters(algorithm))
    assert equal(*weights)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda mdp: DoubledRows(TokenVectorEnv(mdp, 8, "Disabled")),
        lambda mdp: vector_wrappers.RecordEpisodeStatistics(DoubledRows(TokenVectorEnv(mdp, 8, "NextStep"))),
        lambda mdp: SyncVectorEnv([lambda: Doubled(TokenEnv(mdp))] * 8, autoreset_mode=AutoresetMode.SAME_STEP),
        lambda mdp: VecMonitor(DummyVecEnv([lambda: Doubled(TokenEnv(mdp))] * 8)),
    ],
)
def test_behind_wrappers_the_same_prompts_are_discarded(wrapped: Any) -> None:
    bare, behind = (make(env).collect() for env in (None, wrapped(task())))
    assert len(bare) > WANTED
    assert (bare.input_ids == behind.input_ids).all()
    assert (bare.prompt_index == behind.prompt_index).all()
    np.testing.assert_allclose(behind.rewards, 2 * bare.rewards)


class StopsAt(BaseCallback):
    """Stops in the step in which response number ``n`` ends."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.ended = n, 0

    def _on_step(self) -> bool:
        self.ended += int(self.locals["dones"].sum())
        return self.ended < self.n


def test_a_callback_stops_it_in_a_further_collection() -> None:
    algorithm = make()
    assert len(algorithm.collect()) > WANTED + 2
    algorithm = make()
    before = parameters(algorithm)
    stops = StopsAt(WANTED + 2)
    algorithm.learn(10_000, stops)
    assert WANTED + 2 <= stops.ended < WANTED + 10
    assert algorithm.iteration == 0
    assert equal(parameters(algorithm), before)


def test_what_is_recorded_beside_the_tokens_is_joined() -> None:
    """Candidates of a nucleus, of which collections have different numbers, and the parts of a reward."""
    env = TokenVectorEnv(task([rare, (count, 0.0)]), 8, "Disabled")
    algorithm = make(env, sampling=Sampling(top_p=0.7))
    episodes = algorithm.collect()
    assert len(episodes) > WANTED
    assert set(episodes.components) == {"rare", "count"}
    assert episodes.components["count"].tolist() == episodes.lengths.tolist()
    assert episodes.components["rare"].tolist() == episodes.rewards.sum(1).tolist()
    own = episodes.own
    chosen = (episodes.kept == episodes.actions[..., None]).any(2)
    assert chosen[own].all()
    assert (episodes.kept[~own] == -1).all()
    algorithm.train(episodes)
    assert algorithm.metrics["train/first_minibatch_ratio_error"] < 1e-4


def test_parts_are_joined_by_hand() -> None:
    """Candidates of 2 and of 3 places; a component that only the second part has."""
    episodes = make().collect()
    horizon, x = episodes.own.shape[1], np.arange(2.0)
    one = replace(take(episodes, np.arange(2)), kept=np.full((2, horizon, 2), 5, np.int32), components={"x": x})
    other = replace(take(episodes, np.arange(2, 4)), kept=np.full((2, horizon, 3), 6, np.int32))
    found = joined([one, replace(other, components={"x": x + 2, "y": x + 4})])
    assert found.kept is not None
    assert found.kept[1, 0].tolist() == [5, 5, -1]
    assert found.kept[2, 0].tolist() == [6, 6, 6]
    np.testing.assert_array_equal(found.components["x"], [0, 1, 2, 3])
    np.testing.assert_array_equal(found.components["y"], [np.nan, np.nan, 4, 5])
    assert (found.input_ids == episodes.input_ids[:4]).all()
    assert (found.own == episodes.own[:4]).all()
    assert found.prompt_length == episodes.prompt_length


def test_with_the_kl_in_the_reward_scores_decide_all_the_same() -> None:
    """The KL makes all returns differ, though the scores teach nothing."""
    algorithm = make(TokenVectorEnv(task(), 8, "Disabled"), kl_in_loss=False, beta=0.3)
    for _ in range(2):
        episodes = algorithm.collect()
        scored = algorithm.select(algorithm.score(episodes))
        assert len(episodes) > len(scored.episodes) == differing(episodes).sum() == WANTED
        algorithm.train(episodes)


def test_it_plays_no_prompts_that_the_environment_chooses() -> None:
    class Deaf(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return self.env.reset(seed=seed)

    algorithm = make(Deaf(TokenEnv(task())))
    with pytest.raises(ValueError, match="a wrapper does not pass the options"):
        algorithm.learn(100)


def test_a_negative_number_of_tries_is_named() -> None:
    with pytest.raises(ValueError, match="max_resamples=-1; expected a whole number, at least 0"):
        make(max_resamples=-1)
