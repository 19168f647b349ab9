"""The collection loop plays what was planned, around every kind of vector environment, and notes what happened."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers.vector import TransformReward as VectorTransformReward
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.agents.replay import prompt_and_response, replayed_log_probs, session_for
from tests.helpers import tiny_gpt2, tiny_llama, word_mdp
from textgym.agents import PPO
from textgym.agents.loop.episodes import EpisodePlan, collect, sampling_plan
from textgym.agents.loop.slots import AdmittingSlots, SB3VecEnv, Slots, make_slots
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.sampling import Sampling
from textgym.prompts import encode_prompts
from textgym.rewards import RewardError
from textgym.types import Episodes

PROMPTS = ["w0 w1", "w2", "w3 w4 w5", "w6 w7 w8 w9"]
MODEL = tiny_gpt2()


def parity(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
    """Dense: 1 for an even token, −0.5 for an odd one."""
    return [[-0.5 if i % 2 else 1.0 for i in ids] for ids in completion_ids]


def after(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """Admits the six tokens that follow the last one, and the end."""
    last = attention_mask.shape[1] - 1 - attention_mask[:, ::-1].argmax(1)
    start = input_ids[np.arange(len(input_ids)), last]
    allowed = np.zeros((len(input_ids), 16), bool)
    for k in range(1, 7):
        allowed[np.arange(len(input_ids)), (start + k) % 16] = True
    allowed[:, 1] = True
    return allowed


Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


def admitting(mdp: TokenMDP, n: int, wrap: Any = lambda env: env, together: bool = False) -> Slots:
    env = wrap(TokenVectorEnv(mdp, n, "Disabled"))
    env.reset(seed=0)
    return make_slots(SB3VecEnv(env), together)


def vector(mdp: TokenMDP, n: int, mode: str, wrap: Wrap) -> Slots:
    """Our own vector environment; Gymnasium's where rows are wrapped."""
    if wrap is plain:
        env: Any = TokenVectorEnv(mdp, n, mode)
    else:
        env = SyncVectorEnv([lambda: wrap(TokenEnv(mdp))] * n, autoreset_mode=AutoresetMode(mode))
    env.reset(seed=0)
    return make_slots(SB3VecEnv(env))


def sync(mdp: TokenMDP, n: int, mode: str, wrap: Wrap) -> Slots:
    env = SyncVectorEnv([lambda: wrap(TokenEnv(mdp))] * n, autoreset_mode=AutoresetMode(mode))
    env.reset(seed=0)
    return make_slots(SB3VecEnv(env))


def dummy(mdp: TokenMDP, n: int, wrap: Wrap) -> Slots:
    env = DummyVecEnv([lambda: wrap(TokenEnv(mdp))] * n)
    env.seed(0)
    return make_slots(env)


def plain(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env


RESTARTING: dict[str, Callable[[TokenMDP, int, Wrap], Slots]] = {
    "NextStep": lambda mdp, n, wrap: vector(mdp, n, "NextStep", wrap),
    "SameStep": lambda mdp, n, wrap: vector(mdp, n, "SameStep", wrap),
    "sync NextStep": lambda mdp, n, wrap: sync(mdp, n, "NextStep", wrap),
    "sync SameStep": lambda mdp, n, wrap: sync(mdp, n, "SameStep", wrap),
    "sync Disabled": lambda mdp, n, wrap: sync(mdp, n, "Disabled", wrap),
    "DummyVecEnv": dummy,
}
"""Environments whose rows restart by themselves."""


def play(
    slots: Slots, mdp: TokenMDP, n: int, sampling: Sampling | None = None, model: Any = MODEL, on_step: Any = None
) -> Episodes:
    episode = np.arange(n) + 100
    plan = EpisodePlan(episode % len(mdp.prompts) if slots.admits else np.full(n, -1), episode)
    episodes = collect(slots, session_for(model, mdp, slots.n, sampling), plan, on_step)
    assert episodes is not None
    return episodes


def assert_complete(episodes: Episodes, mdp: TokenMDP) -> None:
    """Each is a prompt and a whole response, with its reward at the end and nothing beyond."""
    prompts = [list(prompt.ids) for prompt in mdp.prompts]
    for i in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, i)
        assert prompt in prompts
        assert 1 not in response[:-1]
        assert bool(episodes.stopped[i]) == (response[-1] == 1)
        assert episodes.stopped[i] or episodes.truncated[i] or len(response) == mdp.max_new_tokens
    assert not episodes.log_probs[~episodes.own].any()
    assert not episodes.rewards[~episodes.own].any()


# --- our own environment -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3, 16, 40])
def test_exactly_the_planned_episodes_are_played(slots):
    mdp = word_mdp(prompts=PROMPTS)
    episodes = play(admitting(mdp, slots), mdp, 16)
    assert_complete(episodes, mdp)
    assert episodes.episode.tolist() == list(range(100, 116))
    for i, index in enumerate(episodes.prompt_index):
        assert prompt_and_response(episodes, i)[0] == list(mdp.prompts[index].ids)


def test_rows_work_without_a_pause():
    """Continuous batching: a slot is idle only when no episode is left to begin."""
    mdp = word_mdp(prompts=PROMPTS)
    busy: list[int] = []
    play(admitting(mdp, 4), mdp, 24, on_step=lambda *args: busy.append(int(args[2].sum())) or True)
    assert busy == sorted(busy, reverse=True)
    assert busy[0] == 4


def test_a_callback_stops_the_collection():
    mdp = word_mdp(prompts=PROMPTS)
    slots, session = admitting(mdp, 2), session_for(MODEL, mdp, 2)
    plan = EpisodePlan(np.arange(4), np.arange(4))
    assert collect(slots, session, plan, lambda *_: False) is None
    episodes = collect(slots, session, plan)
    assert episodes is not None
    assert_complete(episodes, mdp)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.6, min_new_tokens=3), Sampling(top_k=3), Sampling(top_p=0.6, min_new_tokens=1)],
    ids=str,
)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_log_probs_are_those_of_an_uncached_pass(name, sampling):
    model = {"gpt2": MODEL, "llama": tiny_llama()}[name]
    mdp = word_mdp(prompts=PROMPTS, max_new_tokens=10)
    episodes = play(admitting(mdp, 5), mdp, 16, sampling, model)
    np.testing.assert_allclose(episodes.log_probs, replayed_log_probs(model, episodes, mdp, sampling), atol=1e-5)
    assert (episodes.kept is None) == (not sampling.truncates)


def test_log_probs_of_a_real_model(assets):
    """It ends its stories with either of two tokens, and has none for padding."""
    from transformers import AutoTokenizer

    source = assets / "models" / "stories260K"
    # In float64: rounding in fp32 reaches 1e-5 with trained weights, more on some kinds of CPU than on others.
    tokenizer, model = AutoTokenizer.from_pretrained(source), load_causal_lm(source).double()
    prompts = encode_prompts(["Once upon a time", "Tim and Sue went to the", "The"], tokenizer, 12)
    reward = lambda completions, **_: [float(len(text)) for text in completions]  # noqa: E731
    mdp = TokenMDP(tokenizer, prompts, reward, (1, 2), max_prompt_length=12, max_new_tokens=40)
    episodes = play(admitting(mdp, 4), mdp, 8, model=model)
    np.testing.assert_allclose(episodes.log_probs, replayed_log_probs(model, episodes, mdp, Sampling()), atol=2e-6)
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    both = [prompt_and_response(episodes, i) for i in range(8)]
    assert (episodes.rewards.sum(1) == [len(decode(asked + said)) - len(decode(asked)) for asked, said in both]).all()


# --- environments that restart by themselves ---------------------------------------------------------------------


class Trace(gym.Wrapper[Any, Any, Any, Any]):
    """Notes every episode, in the order of their beginnings, with its tokens."""

    def __init__(self, env: gym.Env[Any, Any], begun: list[list[int]]) -> None:
        super().__init__(env)
        self.begun = begun

    def reset(self, **kwargs: Any) -> Any:
        self.own: list[int] = []
        self.begun.append(self.own)
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.own.append(int(action))
        return super().step(action)


@pytest.mark.parametrize("kind", RESTARTING)
def test_the_first_begun_are_kept_not_the_first_to_end(kind):
    """Short responses end first; keeping those would favour them."""
    mdp, begun = word_mdp(prompts=PROMPTS, max_new_tokens=10), []
    slots = RESTARTING[kind](mdp, 4, lambda env: Trace(env, begun))
    begun.clear()
    episodes = play(slots, mdp, 21)
    assert [prompt_and_response(episodes, i)[1] for i in range(21)] == begun[:21]
    assert len(begun) > 21


@pytest.mark.parametrize("kind", RESTARTING)
def test_every_kind_of_environment_gives_complete_on_policy_episodes(kind):
    mdp = word_mdp(prompts=PROMPTS)
    episodes = play(RESTARTING[kind](mdp, 3, plain), mdp, 12)
    assert_complete(episodes, mdp)
    np.testing.assert_allclose(episodes.log_probs, replayed_log_probs(MODEL, episodes, mdp, Sampling()), atol=1e-5)
    for i in range(12):
        response = prompt_and_response(episodes, i)[1]
        assert episodes.rewards[i].sum() == pytest.approx(sum(t == 7 for t in response) / len(response))


@pytest.mark.parametrize("kind", RESTARTING)
def test_episodes_of_one_length_end_together(kind):
    """All rows restart in the same step, in which there may be no one to ask."""
    mdp = word_mdp(prompts=PROMPTS, end_token_ids=())
    episodes = play(RESTARTING[kind](mdp, 3, plain), mdp, 7)
    assert episodes.lengths.tolist() == [6] * 7


@pytest.mark.parametrize("kind", RESTARTING)
def test_a_time_limit_truncates(kind):
    mdp = word_mdp(prompts=PROMPTS)
    episodes = play(RESTARTING[kind](mdp, 4, lambda env: gym.wrappers.TimeLimit(env, 3)), mdp, 24)
    assert_complete(episodes, mdp)
    assert episodes.lengths.max() == 3
    ended = np.array([prompt_and_response(episodes, i)[1][-1] == 1 for i in range(24)])
    assert (ended & (episodes.lengths == 3)).any(), "both at once: a termination, with nothing beyond it"
    assert (episodes.truncated == ~ended).all()


class Cut(VectorWrapper[Any, Any, Any]):
    """Truncates our vector environment's rows, which live on inside."""

    def step(self, actions: Any) -> Any:
        observation, rewards, terminated, _, infos = self.env.step(actions)
        return observation, rewards, terminated, observation["attention_mask"][:, 4:].sum(1) >= 3, infos


def test_rows_that_live_on_behind_a_wrapper_are_no_ones_episodes():
    mdp = word_mdp(prompts=PROMPTS, allowed=after)
    ends: list[int] = []
    slots = admitting(mdp, 4, Cut)
    episodes = play(
        slots, mdp, 10, on_step=lambda step, *_: ends.append(int((step.terminated | step.truncated).sum())) or True
    )
    assert_complete(episodes, mdp)
    assert episodes.truncated.any()
    assert sum(ends) == 10


# --- rewards, masks, and what cannot be trained on ---------------------------------------------------------------


def half(reward: Any) -> Any:
    return 0.5 * reward


@pytest.mark.parametrize("kind", ["Disabled", *RESTARTING])
def test_dense_rewards_stand_at_their_tokens(kind):
    mdp = word_mdp(parity, prompts=PROMPTS)
    slots = admitting(mdp, 3) if kind == "Disabled" else RESTARTING[kind](mdp, 3, plain)
    episodes = play(slots, mdp, 8)
    for i in range(8):
        response = prompt_and_response(episodes, i)[1]
        np.testing.assert_allclose(episodes.rewards[i, : len(response)], parity([response])[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["Disabled", *RESTARTING])
def test_dense_rewards_keep_the_sum_that_a_wrapper_made(kind):
    mdp = word_mdp(parity, prompts=PROMPTS)
    if kind == "Disabled":
        slots = admitting(mdp, 3, lambda env: VectorTransformReward(env, half))
    else:
        slots = RESTARTING[kind](mdp, 3, lambda env: gym.wrappers.TransformReward(env, half))
    episodes = play(slots, mdp, 8)
    for i in range(8):
        response = prompt_and_response(episodes, i)[1]
        dense = parity([response])[0]
        assert episodes.rewards[i].sum() == pytest.approx(0.5 * sum(dense), abs=1e-6)
        np.testing.assert_allclose(episodes.rewards[i, : len(response) - 1], dense[:-1], atol=1e-6)


def test_components_are_kept_under_their_names():
    length = lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids]  # noqa: E731
    length.__name__ = "length"
    mdp = word_mdp([(length, 0.1)], prompts=PROMPTS)
    episodes = play(admitting(mdp, 3), mdp, 8)
    assert episodes.components["length"].tolist() == episodes.lengths.tolist()


@pytest.mark.parametrize("kind", ["Disabled", *RESTARTING])
def test_a_tasks_masks_hold_everywhere(kind):
    mdp = word_mdp(prompts=PROMPTS, allowed=after)
    slots = admitting(mdp, 3) if kind == "Disabled" else RESTARTING[kind](mdp, 3, plain)
    episodes = play(slots, mdp, 12)
    assert episodes.kept is not None
    inside = (episodes.kept == episodes.actions[:, :, None]).any(-1)
    assert (inside == episodes.own).all()
    assert (episodes.kept[~episodes.own] == -1).all()
    np.testing.assert_allclose(episodes.log_probs, replayed_log_probs(MODEL, episodes, mdp, Sampling()), atol=1e-5)


class Whisper(gym.ObservationWrapper[Any, Any, Any]):
    """Replaces the prompt's last token once the response has begun."""

    def observation(self, observation: Any) -> Any:
        if observation["attention_mask"][4:].any():
            observation["input_ids"][3] = 2 + (observation["input_ids"][3] + 1) % 14
        return observation


def test_an_environment_that_rewrites_tokens_cannot_be_trained_on():
    mdp = word_mdp(prompts=PROMPTS)
    with pytest.raises(ValueError, match="rewrites what it has shown can be played"):
        play(dummy(mdp, 2, Whisper), mdp, 4)


def test_monitoring_changes_nothing():
    mdp = word_mdp(prompts=PROMPTS)
    env = VecMonitor(DummyVecEnv([lambda: TokenEnv(mdp)] * 3))
    env.seed(0)
    monitored, bare = play(make_slots(env), mdp, 9), play(dummy(mdp, 3, plain), mdp, 9)
    assert (monitored.input_ids == bare.input_ids).all()
    assert (monitored.rewards == bare.rewards).all()


@pytest.mark.parametrize("begun", [0, 12, 15])
def test_groups_begin_with_the_iteration(begun: int) -> None:
    """Also where earlier ones were of another size: the estimators count from the iteration's first episode."""
    plan = sampling_plan(seed=0, n_prompts=50, begun=begun, count=12, group=4, samples=3)
    groups = plan.prompt_index.reshape(3, 4)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) == 3
    assert plan.greedy is not None
    np.testing.assert_array_equal(plan.greedy.reshape(3, 4), [[False, False, False, True]] * 3)
    np.testing.assert_array_equal(plan.episode, begun + np.arange(12))


# --- scored together ---------------------------------------------------------------------------------------------


def by_row(completions: list[str], episode_seed: list[int], finish_reason: list[str], **_: Any) -> list[Any]:
    """Depends on everything of a row: its text, its own random number, how it ended; does not always apply."""
    draws = [np.random.default_rng(seed).standard_normal() for seed in episode_seed]
    lengths = [len(text) + (reason == "stop") for text, reason in zip(completions, finish_reason, strict=True)]
    return [None if n % 3 == 0 else n / 7 + draw for n, draw in zip(lengths, draws, strict=True)]


async def later(completions: list[str], **_: Any) -> list[float]:
    return [len(text) / 3 for text in completions]


def wide(completion_ids: list[list[int]], episode_seed: list[int], **_: Any) -> list[list[float]]:
    """Dense, of numbers whose sum depends on the order of adding."""
    draws = [np.random.default_rng(seed).lognormal(0, 9, 20) for seed in episode_seed]
    return [own[: len(ids)].tolist() for own, ids in zip(draws, completion_ids, strict=True)]


REWARDS: dict[str, list[Any]] = {
    "scalar": [(by_row, 0.3), later],
    "dense": [wide, (parity, 0.1), (by_row, 0.7)],
    "async": [later],
}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("missing_end_score", [None, -1.0])
def test_scored_together_or_in_the_step_gives_the_same_bits(name, missing_end_score):
    calls: list[int] = []

    def counts(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [1.0] * len(completions)

    reward = [*REWARDS[name], (counts, 0.0)]
    mdp = word_mdp(reward, prompts=PROMPTS, max_new_tokens=12, missing_end_score=missing_end_score)
    apart = play(admitting(mdp, 5), mdp, 40)
    n_calls, scored = len(calls), sum(calls)
    calls.clear()
    together = play(admitting(mdp, 5, together=True), mdp, 40)
    assert calls == [scored]
    assert n_calls > 10
    assert scored == (40 if missing_end_score is None else int(apart.stopped.sum())) > 20
    for field in ("input_ids", "attention_mask", "log_probs", "rewards", "stopped", "truncated"):
        np.testing.assert_array_equal(getattr(together, field), getattr(apart, field))
    assert together.components.keys() == apart.components.keys()
    for component, values in apart.components.items():
        np.testing.assert_array_equal(together.components[component], values)
    assert len(np.unique(apart.rewards)) > 10


def test_many_are_scored_in_calls_of_at_most_512(monkeypatch):
    calls: list[int] = []

    def counts(completion_ids: list[list[int]], **_: Any) -> list[float]:
        calls.append(len(completion_ids))
        return [float(sum(ids)) for ids in completion_ids]

    monkeypatch.setattr("textgym.agents.loop.episodes.SCORED_AT_ONCE", 16)
    mdp = word_mdp(counts, prompts=PROMPTS)
    episodes = play(admitting(mdp, 4, together=True), mdp, 40)
    assert calls == [16, 16, 8]
    assert episodes.rewards.sum(1).tolist() == [sum(prompt_and_response(episodes, e)[1]) for e in range(40)]


def test_infos_are_complete_once_the_collection_is_over():
    mdp = word_mdp([(by_row, 1.0), later], prompts=PROMPTS)
    infos: list[dict[str, Any]] = []

    def on_step(step: Any, *_: Any) -> bool:
        for row in step.finals:
            assert not {"score", "components", "unscored"} & step.info(row).keys()
            assert step.rewards[row] == 0
            infos.append(step.info(row))
        return True

    episodes = play(admitting(mdp, 3, together=True), mdp, 9, on_step=on_step)
    assert sorted(info["score"] for info in infos) == pytest.approx(sorted(episodes.rewards.sum(1)), abs=1e-6)
    assert sorted(info["components"]["later"] for info in infos) == sorted(episodes.components["later"])


def test_nothing_is_scored_where_the_collection_was_stopped():
    def never(**_: Any) -> list[float]:
        raise AssertionError("asked")

    mdp = word_mdp(never, prompts=PROMPTS)
    slots, session = admitting(mdp, 2, together=True), session_for(MODEL, mdp, 2)
    ended: list[int] = []
    plan = EpisodePlan(np.arange(4), np.arange(4))
    assert collect(slots, session, plan, lambda step, *_: not (ended.extend(step.finals) or ended)) is None
    assert ended


def test_a_mistake_of_a_reward_is_raised_at_the_end():
    def fails(completions: list[str], **_: Any) -> list[float]:
        return [1 / 0 if text == completions[-1] else 0.0 for text in completions]

    mdp = word_mdp(fails, prompts=PROMPTS)
    with pytest.raises(RewardError, match=r"(?s)'fails' raised ZeroDivisionError.*prompt: 'w"):
        play(admitting(mdp, 2, together=True), mdp, 6)


class Plain(VectorWrapper[Any, Any, Any]):
    pass


class Own(TokenVectorEnv):
    """Pays a bonus of its own in each step."""

    def step(self, actions: Any) -> Any:
        observation, rewards, terminated, truncated, infos = super().step(actions)
        return observation, rewards + terminated, terminated, truncated, infos


def test_it_is_off_where_somebody_may_read_the_reward_in_its_step():
    mdp = word_mdp(prompts=PROMPTS)
    bare = TokenVectorEnv(mdp, 2, "Disabled")
    assert AdmittingSlots(bare, score_together=True).puts_aside
    assert not AdmittingSlots(bare).puts_aside
    for env in (Plain(bare), Own(mdp, 2, "Disabled"), TokenVectorEnv(mdp, 2, "Disabled", render_mode="ansi")):
        assert not AdmittingSlots(env, score_together=True).puts_aside
    for together in (True, False):
        slots = admitting(mdp, 3, lambda env: VectorTransformReward(env, half), together)
        episodes = play(slots, mdp, 8)
        share = (episodes.actions == 7).sum(1) / episodes.lengths
        np.testing.assert_allclose(episodes.rewards.sum(1), 0.5 * share, atol=1e-6)


def test_an_algorithm_scores_together_unless_told_otherwise(tmp_path):
    """The same training to the bit, with fewer calls; a checkpoint keeps the choice."""
    calls: list[int] = []

    def counts(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [float(len(text)) for text in completions]

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.ended: list[dict[str, Any]] = []

        def _on_step(self) -> bool:
            self.ended += [self.locals["infos"][row] for row in np.flatnonzero(self.locals["dones"])]
            return True

        def _on_rollout_end(self) -> None:
            assert len(self.ended) == 16
            assert all(set(info["components"]) == {"counts"} for info in self.ended)

    mdp = word_mdp(counts, prompts=PROMPTS)
    weights = []
    for together in (True, False):
        env = TokenVectorEnv(mdp, 4, "Disabled")
        settings = {"episodes_per_iteration": 16, "minibatch_size": 8, "n_epochs": 1, "seed": 0, "device": "cpu"}
        given = {} if together else {"score_together": False}
        algorithm = PPO(env=env, model=tiny_gpt2(), **settings, **given)
        calls.clear()
        algorithm.learn(150, Watch())
        assert (calls == [16] * algorithm.iteration) is together
        assert sum(calls) == 16 * algorithm.iteration
        weights.append(algorithm.policy.state_dict())
        algorithm.save(tmp_path / str(together))
        assert PPO.load(tmp_path / str(together), env).score_together is together
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("group", "samples"), [(1, 1), (2, 2), (2, 1)])
def test_iterations_go_through_the_prompts_one_after_another(group: int, samples: int) -> None:
    """Eight prompts in iterations of four: two of them are an epoch, which holds each prompt once."""
    plans = [sampling_plan(3, 8, begun, 4 * group, group, samples) for begun in (0, 4 * group)]
    shown = np.concatenate([plan.prompt_index for plan in plans]).reshape(-1, group)
    assert sorted(shown[:, 0].tolist()) == list(range(8))
    assert (shown == shown[:, :1]).all()
    numbers = np.concatenate([plan.episode for plan in plans])
    assert numbers.tolist() == list(range(8 * group))
