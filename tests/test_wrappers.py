"""Wrappers: Gymnasium's around our environments, and the KL to a reference as a reward."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo, TimeLimit
from gymnasium.wrappers import vector as vector_wrappers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import emit, tiny_gpt2, tiny_llama, word_mdp
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv, find_attribute
from textgym.env.wrappers import ReferenceKL, VectorReferenceKL
from textgym.lm.sampling import Sampling

PAD, EOS, W0, W1, W2, W3 = 0, 1, 2, 3, 4, 5
DISABLED, NEXT_STEP, SAME_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP
V = 16
BETA = 0.25
GPT2, OTHER, LLAMA = tiny_gpt2(seed=1), tiny_gpt2(seed=2), tiny_llama(seed=3)


def make_plain() -> TokenEnv:
    return TokenEnv(word_mdp(emit(W0)))


# --- Gymnasium's wrappers ----------------------------------------------------------------------------------------


def test_record_episode_statistics():
    env = RecordEpisodeStatistics(make_plain())
    env.reset(seed=0)
    env.step(W0)
    env.step(W1)
    *_, info = env.step(EOS)
    assert info["episode"]["r"] == pytest.approx(1 / 3)
    assert info["episode"]["l"] == 3
    assert info["finish_reason"] == "stop"


def test_a_time_limit_truncates_and_the_horizon_does_not():
    env = TimeLimit(make_plain(), max_episode_steps=2)
    env.reset()
    assert env.step(W0)[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(W0)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "finish_reason" not in info
    longer = TimeLimit(TokenEnv(word_mdp(max_new_tokens=2)), max_episode_steps=3)
    longer.reset()
    longer.step(W0)
    assert longer.step(W0)[2:4] == (True, False)


def test_a_video_is_recorded(tmp_path):
    pytest.importorskip("moviepy")
    folder = tmp_path / "videos"
    inner = TokenEnv(word_mdp(), "rgb_array")
    env = RecordVideo(inner, str(folder), episode_trigger=lambda _: True, disable_logger=True)
    env.reset(seed=0)
    for action in (W0, W3, EOS):
        env.step(action)
    shapes = {frame.shape for frame in env.recorded_frames}
    env.close()
    assert len(shapes) == 1
    videos = list(folder.glob("*.mp4"))
    assert len(videos) == 1
    assert videos[0].stat().st_size > 1000


def test_vector_statistics():
    env = vector_wrappers.RecordEpisodeStatistics(TokenVectorEnv(word_mdp(emit(W0)), 2, SAME_STEP))
    env.reset(seed=0)
    env.step(np.array([W0, W0]))
    *_, info = env.step(np.array([EOS, W0]))
    assert info["_episode"].tolist() == [True, False]
    assert (info["episode"]["r"][0], info["episode"]["l"][0]) == (0.5, 2)


def test_asynchronous_and_synchronous_vectors_play_the_same():
    """Spawned, not forked: a fork of a process that ran several threads may hang. One, since each imports torch."""
    together = AsyncVectorEnv([make_plain], context="spawn")
    try:
        in_turn = SyncVectorEnv([make_plain])
        runs: list[list[Any]] = []
        for env in (together, in_turn):
            observation, info = env.reset(seed=3)
            run: list[Any] = [observation["input_ids"], info["prompt"].tolist()]
            for action in (W0, W2, W0, EOS, W0, W1):
                observation, rewards, terminated, _, info = env.step(np.array([action]))
                run += [observation["input_ids"], observation["attention_mask"], rewards, terminated]
                run += [info.get("completion", np.zeros(0)).tolist()]
            runs.append([value.tolist() if isinstance(value, np.ndarray) else value for value in run])
        assert runs[0] == runs[1]
        assert [" w0 w2 w0"] in runs[0]
    finally:
        together.close()


def test_attributes_are_found_through_wrappers():
    single = TimeLimit(RecordEpisodeStatistics(make_plain()), 3)
    vector = vector_wrappers.RecordEpisodeStatistics(SyncVectorEnv([lambda: TimeLimit(make_plain(), 3)] * 2))
    own = vector_wrappers.RecordEpisodeStatistics(TokenVectorEnv(word_mdp(), 2))
    for env in (single, vector, own):
        assert find_attribute(env, "prompt_length") == 4
        assert find_attribute(env, "end_token_ids") == (EOS,)
        with pytest.raises(AttributeError, match="nonsense"):
            find_attribute(env, "nonsense")


# --- the KL to a reference ---------------------------------------------------------------------------------------


def by_hand(
    model: torch.nn.Module,
    prompt: list[int],
    response: list[int],
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ends: tuple[int, ...] = (EOS,),
    forbidden: Any = lambda ids: [],  # noqa: ARG005
) -> list[float]:
    """log-probabilities of a response from one uncached forward pass over prompt and response, without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].double()
    found = []
    for t, token in enumerate(response):
        scores = logits[len(prompt) - 1 + t, :V] / sampling.temperature
        if t < sampling.min_new_tokens:
            scores[list(ends)] = -torch.inf
        scores[forbidden([*prompt, *response[:t]])] = -torch.inf
        if sampling.top_k:
            scores[scores < scores.sort(descending=True).values[sampling.top_k - 1]] = -torch.inf
        found.append(float(scores[token] - scores.logsumexp(0)))
    return found


def play(env: gym.Env, actions: list[int], **options: Any) -> list[tuple[Any, ...]]:
    env.reset(options=options or None)
    return [env.step(action) for action in actions]


@settings(deadline=None, max_examples=25)
@given(
    model=st.sampled_from([GPT2, LLAMA]),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    min_new_tokens=st.integers(0, 3),
    episodes=st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(2, V - 1), min_size=3, max_size=5)), min_size=1, max_size=3
    ),
)
def test_the_episodes_total_is_beta_times_the_references_log_probability(model, temperature, min_new_tokens, episodes):
    """Under left padding too: the prompts have 1 to 3 tokens in 4 columns, and the hand count has no padding."""
    sampling = Sampling(temperature, min_new_tokens)
    mdp = word_mdp(emit(W0))
    env = ReferenceKL(TokenEnv(mdp), model, BETA, sampling)
    for index, words in episodes:
        response = [*words, EOS]
        steps = play(env, response, prompt_index=index)
        expected = by_hand(model, list(mdp.prompts[index].ids), response, sampling)
        assert [step[4]["kl_reward"] for step in steps] == pytest.approx([BETA * x for x in expected], abs=1e-5)
        score = response.count(W0) / len(response)
        assert sum(step[1] for step in steps) == pytest.approx(score + BETA * sum(expected), abs=1e-5)


@pytest.mark.parametrize("policy_sampling", [Sampling(0.7, 2), Sampling(0.7, 2, top_k=5)])
def test_given_the_policy_the_total_is_the_whole_penalty(policy_sampling):
    mdp = word_mdp(emit(W0))
    shared = Sampling(0.7, 2)
    policy = SimpleNamespace(lm=OTHER, sampling=policy_sampling)
    env = ReferenceKL(TokenEnv(mdp), GPT2, BETA, shared, policy)
    for index, prompt in enumerate(mdp.prompts):
        response: list[int] = []
        while len(response) < 6:  # the policy's second choice each time, which top-k leaves in
            ranked = [by_hand(OTHER, list(prompt.ids), [*response, i], Sampling(0.7, 2))[-1] for i in range(V)]
            response.append(int(np.argsort(ranked)[-2]))
            if response[-1] == EOS:
                break
        steps = play(env, response, prompt_index=index)
        log_pi = by_hand(OTHER, list(prompt.ids), response, policy_sampling)
        log_ref = by_hand(GPT2, list(prompt.ids), response, shared)
        expected = [-BETA * (p - q) for p, q in zip(log_pi, log_ref, strict=True)]
        assert [step[4]["kl_reward"] for step in steps] == pytest.approx(expected, abs=1e-5)
        score = response.count(W0) / len(response)
        assert sum(step[1] for step in steps) == pytest.approx(score + sum(expected), abs=1e-5)


def test_a_policy_that_equals_the_reference_pays_nothing():
    env = ReferenceKL(make_plain(), GPT2, BETA, policy=SimpleNamespace(lm=GPT2, sampling=Sampling()))
    assert [step[4]["kl_reward"] for step in play(env, [W0, W1, EOS])] == [0.0, 0.0, 0.0]


def test_a_policy_that_was_trained_meanwhile_is_asked_anew():
    policy = SimpleNamespace(lm=tiny_gpt2(seed=4), sampling=Sampling())
    mdp = word_mdp()
    env = ReferenceKL(TokenEnv(mdp), GPT2, 1.0, policy=policy)
    play(env, [W0, W1], prompt_index=0)
    with torch.no_grad():
        for parameter in policy.lm.parameters():
            parameter.mul_(1.5)
    paid = env.step(W2)[4]["kl_reward"]
    ids = [*mdp.prompts[0].ids]
    log_pi, log_ref = (by_hand(model, ids, [W0, W1, W2])[-1] for model in (policy.lm, GPT2))
    assert paid == pytest.approx(log_ref - log_pi, abs=1e-5)


def test_dropout_of_the_reference_is_off():
    reference = tiny_gpt2(seed=1, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    paid = [step[4]["kl_reward"] for step in play(ReferenceKL(make_plain(), reference, 1.0), [W0, W1], prompt_index=0)]
    assert paid == pytest.approx(by_hand(GPT2, [W0, W1], [W0, W1]), abs=1e-5)


def test_beta_zero_pays_nothing():
    steps = play(ReferenceKL(make_plain(), GPT2, 0.0), [W0, W1, EOS])
    assert [step[1] for step in steps] == [0.0, 0.0, pytest.approx(1 / 3)]


# --- masks -------------------------------------------------------------------------------------------------------


def never_twice(input_ids, attention_mask):
    """Admits every token but the one that stands last."""
    end = attention_mask.shape[1] - 1 - attention_mask[:, ::-1].argmax(1)
    return np.arange(V) != input_ids[np.arange(len(input_ids)), end][:, None]


def test_the_tasks_mask_bounds_the_reference_too():
    mdp = word_mdp(allowed=never_twice)
    response = [W3, W0, W3, EOS]
    for index, prompt in enumerate(mdp.prompts):
        steps = play(ReferenceKL(TokenEnv(mdp), GPT2, 1.0), response, prompt_index=index)
        expected = by_hand(GPT2, list(prompt.ids), response, forbidden=lambda ids: [ids[-1]])
        assert [step[4]["kl_reward"] for step in steps] == pytest.approx(expected, abs=1e-5)


# --- vector environments -----------------------------------------------------------------------------------------


def kl_mdp(masked: bool = False) -> TokenMDP:
    return word_mdp(emit(W0), max_new_tokens=4, end_token_ids=(EOS, 9), allowed=never_twice if masked else None)


@settings(deadline=None, max_examples=25)
@given(
    mode=st.sampled_from([NEXT_STEP, SAME_STEP, DISABLED]),
    masked=st.booleans(),
    given_policy=st.booleans(),
    ours=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_a_vector_environment_pays_every_row_that_plays_by_the_hand_count(mode, masked, given_policy, ours, seed):
    """Rows start, end, restart and idle; each is followed by hand, beside the same environment without the wrapper."""
    sampling = Sampling(0.8, 1)
    mdp = kl_mdp(masked)
    n = 3

    def make() -> Any:
        return TokenVectorEnv(mdp, n, mode) if ours else SyncVectorEnv([lambda: TokenEnv(mdp)] * n, autoreset_mode=mode)

    policy = SimpleNamespace(lm=OTHER, sampling=sampling) if given_policy else None
    env, plain = VectorReferenceKL(make(), GPT2, BETA, sampling, policy), make()
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    plain.reset(seed=seed)
    playing = np.ones(n, bool)
    for _ in range(10):
        rows = [observation["input_ids"][i][observation["attention_mask"][i] == 1].tolist() for i in range(n)]
        elapsed = observation["attention_mask"][:, 4:].sum(1)
        actions = np.array(
            [rng.choice([a for a in range(V) if a != rows[i][-1] and a not in (EOS, 9)]) for i in range(n)]
        )
        may_end = (elapsed >= 1) & (rng.random(n) < 0.4)
        actions[may_end] = rng.choice([EOS, 9], may_end.sum())
        expected = np.zeros(n)
        for i in np.flatnonzero(playing):
            cut = len(rows[i]) - elapsed[i]
            known = {"ends": (EOS, 9), "forbidden": (lambda ids: [ids[-1]]) if masked else (lambda _: [])}
            told = (rows[i][:cut], [*rows[i][cut:], int(actions[i])], sampling)
            expected[i] = BETA * by_hand(GPT2, *told, **known)[-1]
            if given_policy:
                expected[i] -= BETA * by_hand(OTHER, *told, **known)[-1]
        observation, rewards, terminated, _, info = env.step(actions)
        plain_observation, plain_rewards, plain_terminated, _, plain_info = plain.step(actions)
        assert info["kl_reward"] == pytest.approx(expected, abs=1e-5)
        assert info["_kl_reward"].tolist() == playing.tolist()
        assert rewards - plain_rewards == pytest.approx(expected, abs=1e-5)
        assert terminated.tolist() == plain_terminated.tolist()
        assert set(info) - {"kl_reward", "_kl_reward"} == set(plain_info)
        assert np.array_equal(observation["input_ids"], plain_observation["input_ids"])
        if mode is NEXT_STEP:
            playing = ~terminated
        if mode is DISABLED:
            playing = playing & ~terminated
            if not playing.any() or (not playing.all() and (not ours or rng.random() < 0.5)):
                options = {"reset_mask": ~playing}
                observation, _ = env.reset(options=dict(options))
                plain.reset(options=dict(options))
                playing = np.ones(n, bool)


def test_single_and_vector_agree():
    sampling = Sampling(0.8)
    ours = VectorReferenceKL(TokenVectorEnv(kl_mdp(True), 2), GPT2, BETA, sampling)
    theirs = SyncVectorEnv([lambda: ReferenceKL(TokenEnv(kl_mdp(True)), GPT2, BETA, sampling)] * 2)
    ours.reset(seed=1)
    theirs.reset(seed=1)
    for actions in ([11, 12], [12, EOS], [9, 0], [0, 13], [12, 12]):
        one, other = ours.step(np.array(actions)), theirs.step(np.array(actions))
        assert one[1] == pytest.approx(other[1], abs=1e-5)
        assert one[4]["kl_reward"] == pytest.approx(other[4]["kl_reward"], abs=1e-5)
        assert one[4]["_kl_reward"].tolist() == other[4]["_kl_reward"].tolist()


def test_rows_that_never_began_are_not_paid():
    env = VectorReferenceKL(TokenVectorEnv(word_mdp(), 3, DISABLED), GPT2, BETA)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    _, rewards, _, _, info = env.step(np.array([W0, W0, W0]))
    assert info["_kl_reward"].tolist() == [False, True, False]
    assert rewards[[0, 2]].tolist() == [0.0, 0.0]
    assert rewards[1] < 0


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "policys"),
    [
        (None, Sampling(0.7)),
        (Sampling(0.7), Sampling()),
        (Sampling(min_new_tokens=2), Sampling(min_new_tokens=1)),
        (Sampling(0.7, 2), Sampling(0.7)),
    ],
)
def test_another_temperature_or_minimum_length_than_the_policys_is_refused(own, policys):
    policy = SimpleNamespace(lm=OTHER, sampling=policys)
    with pytest.raises(ValueError, match="temperature and minimum length must be the same"):
        ReferenceKL(make_plain(), GPT2, BETA, own, policy)
    with pytest.raises(ValueError, match="temperature and minimum length must be the same"):
        VectorReferenceKL(TokenVectorEnv(word_mdp(), 2), GPT2, BETA, own, policy)


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf")])
def test_a_bad_beta_is_refused(beta):
    with pytest.raises(ValueError, match=f"beta={beta}"):
        ReferenceKL(make_plain(), GPT2, beta)


def test_a_model_that_cannot_play_the_task_is_refused():
    with pytest.raises(ValueError, match="16 tokens, the model embeds 8"):
        ReferenceKL(make_plain(), tiny_gpt2(8), BETA)
    with pytest.raises(ValueError, match="context of 9"):
        VectorReferenceKL(TokenVectorEnv(word_mdp(), 2), tiny_gpt2(positions=9), BETA)


def test_a_token_that_the_sampling_excludes_is_an_error_and_no_infinite_reward():
    env = ReferenceKL(make_plain(), GPT2, BETA, Sampling(min_new_tokens=2))
    env.reset()
    env.step(W0)
    with pytest.raises(ValueError, match=r"token 1 in row 0, which .*min_new_tokens=2.* excludes"):
        env.step(EOS)


@pytest.mark.parametrize("vector", [False, True])
def test_the_environments_own_complaints_come_through(vector):
    def asked(action: int) -> Any:
        return np.array([action]) if vector else action

    inner = TokenVectorEnv(word_mdp(), 1, DISABLED) if vector else make_plain()
    env = (VectorReferenceKL if vector else ReferenceKL)(inner, GPT2, BETA)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(asked(W0))
    env.reset(seed=0)
    first = env.step(asked(W0))[1]
    with pytest.raises(ValueError, match="action 16 lies outside"):
        env.step(asked(16))
    second = env.step(asked(W1))[1]
    env.step(asked(EOS))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(asked(W0))
    env.reset(seed=0)
    assert env.step(asked(W0))[1] == pytest.approx(first, abs=1e-6)  # the refused action left no trace
    assert env.step(asked(W1))[1] == pytest.approx(second, abs=1e-6)
