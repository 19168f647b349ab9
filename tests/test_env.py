"""The single environment: what Gymnasium and stable-baselines3 ask of it, and what the token MDP promises."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import textgym  # noqa: F401 - registers the tasks
from tests.helpers import emit, tiny_gpt2, word_mdp, word_tokenizer
from textgym.env import TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.rewards import RewardEnsemble, RewardError, RewardModel
from textgym.tasks import TASKS
from textgym.types import Prompt

PAD, EOS, W0, W1, W2, W3 = 0, 1, 2, 3, 4, 5  # of the word tokenizer


def play(env: TokenEnv, actions: list[int], **reset: Any) -> list[tuple[Any, ...]]:
    env.reset(**reset)
    return [env.step(action) for action in actions]


def last_info(mdp: TokenMDP, actions: list[int], **reset: Any) -> dict[str, Any]:
    return play(TokenEnv(mdp), actions, **reset)[-1][4]


# --- the checkers ------------------------------------------------------------------------------------------------


def parity(completion_ids, **_):
    """Dense: 1 for an even token, −0.5 for an odd one."""
    return [[-0.5 if i % 2 else 1.0 for i in ids] for ids in completion_ids]


async def counted(completions, **_):
    await asyncio.sleep(0)
    return [len(text) for text in completions]


def without_w1(input_ids, attention_mask):
    allowed = np.ones((len(input_ids), 16), bool)
    allowed[:, W1] = False
    return allowed


CASES: dict[str, Callable[[], TokenMDP]] = {
    "plain": word_mdp,
    "stop rule": lambda: word_mdp(stop=lambda ids: sum(ids) % 3 == 0),
    "action mask": lambda: word_mdp(allowed=without_w1),
    "dense": lambda: word_mdp(parity),
    "async": lambda: word_mdp([counted, (parity, 0.5)]),
    "several end tokens": lambda: word_mdp(end_token_ids=tuple(range(1, 9))),
    "no end token": lambda: word_mdp(end_token_ids=()),
    "one token": lambda: word_mdp(max_new_tokens=1),
    "fixed score without an end": lambda: word_mdp(max_new_tokens=1, missing_end_score=-1.0),
    "small vocabulary": lambda: word_mdp(vocabulary_size=5),
}


class Lawful(gym.spaces.Discrete):
    """The checkers sample blindly, so this space keeps the law for them."""

    def sample(self, mask=None, probability=None):
        allowed = np.ones(16, np.int8)
        allowed[W1] = 0
        return super().sample(mask=allowed)


def make_case(case: str, render_mode: str | None = None) -> TokenEnv:
    env = TokenEnv(CASES[case](), render_mode)
    if env.mdp.allowed is not None:
        env.action_space = Lawful(16)
    return env


@pytest.fixture
def case_id(request):
    """A case under an id of its own: a checker makes it again for each render mode."""
    name = "textgym-tests/Case-v0"
    gym.register(name, entry_point=make_case, kwargs={"case": request.param})
    yield name
    del gym.registry[name]


@pytest.mark.parametrize("case_id", CASES, indirect=True)
def test_checkers_find_nothing_in_any_kind_of_task(case_id):
    check_env(gym.make(case_id).unwrapped)
    for render_mode in (None, "ansi", "human", "rgb_array"):
        check_env_sb3(gym.make(case_id, render_mode=render_mode).unwrapped, skip_render_check=False)


@pytest.mark.parametrize("name", TASKS)
def test_checkers_find_nothing_in_a_registered_task(name):
    env = gym.make(f"textgym/{name}-v0").unwrapped
    check_env(env)
    check_env_sb3(env, skip_render_check=False)


# --- what is observed --------------------------------------------------------------------------------------------


def test_prompt_stands_left_padded_and_the_response_follows_in_its_columns():
    env = TokenEnv(word_mdp(prompts=["w0 w1", "w2 w0 w1"], max_prompt_length=3, max_new_tokens=2))
    observation, info = env.reset(options={"prompt_index": 0})
    assert observation["input_ids"].tolist() == [PAD, W0, W1, PAD, PAD]
    assert observation["attention_mask"].tolist() == [0, 1, 1, 0, 0]
    assert observation["input_ids"].dtype == np.int64
    assert observation["attention_mask"].dtype == np.int8
    assert info == {"prompt": "w0 w1", "prompt_index": 0}
    observation, reward, terminated, truncated, info = env.step(W3)
    assert observation["input_ids"].tolist() == [PAD, W0, W1, W3, PAD]
    assert observation["attention_mask"].tolist() == [0, 1, 1, 1, 0]
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})


def test_sizes():
    env = TokenEnv(word_mdp(max_prompt_length=4, max_new_tokens=6))
    assert env.observation_space["input_ids"].shape == (10,)
    assert env.action_space == gym.spaces.Discrete(16)
    assert env.prompt_length == 4
    assert env.end_token_ids == (EOS,)


def test_prompts_are_drawn_uniformly_and_by_the_seed_alone():
    env = TokenEnv(word_mdp(prompts=["w0", "w1", "w2"]))

    def drawn(seed: int) -> list[int]:
        return [env.reset(seed=seed)[1]["prompt_index"], *(env.reset()[1]["prompt_index"] for _ in range(299))]

    np.random.seed(0)  # noqa: NPY002 - shows that the global generator is neither read nor moved
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = drawn(5)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert first == drawn(5)
    assert first != drawn(6)
    counts = np.bincount(first)
    assert len(counts) == 3
    assert counts.min() > 60  # 100 expected; fewer than 60 has a chance of 1 in 10⁶


def test_a_generator_set_by_hand_is_used():
    def drawn() -> list[dict[str, Any]]:
        env = TokenEnv(word_mdp(seed_reward))
        env.np_random = np.random.default_rng(3)
        played = [play(env, [EOS], options=options)[-1] for options in (None, None, {"prompt_index": 1, "episode": 4})]
        return [step[1] for step in played]

    assert drawn() == drawn()


def seed_reward(episode_seed, **_):
    return [float(seed) for seed in episode_seed]


# --- how an episode ends -----------------------------------------------------------------------------------------


def test_the_end_token_stops():
    *_, (_, reward, terminated, truncated, info) = play(TokenEnv(word_mdp(emit(W0))), [W0, W1, W0, EOS])
    assert (reward, terminated, truncated) == (0.5, True, False)  # two of four tokens are w0
    assert info == {
        "finish_reason": "stop",
        "completion": " w0 w1 w0",
        "score": 0.5,
        "components": {"reward": 0.5},
    }


def test_the_horizon_terminates_and_does_not_truncate():
    steps = play(TokenEnv(word_mdp(emit(W0), max_new_tokens=3)), [W0, W1, W2])
    assert [(step[2], step[3]) for step in steps] == [(False, False), (False, False), (True, False)]
    assert steps[-1][1] == pytest.approx(1 / 3)
    assert steps[-1][4]["finish_reason"] == "length"
    assert steps[-1][4]["completion"] == " w0 w1 w2"


def test_an_end_token_on_the_horizon_is_a_stop():
    assert last_info(word_mdp(max_new_tokens=2), [W0, EOS])["finish_reason"] == "stop"


def test_a_stop_rule_ends_and_its_last_token_stays_in_the_text():
    mdp = word_mdp(stop=lambda ids: list(ids[-2:]) == [W1, W2])
    info = last_info(mdp, [W2, W1, W2])
    assert (info["finish_reason"], info["completion"]) == ("stop", " w2 w1 w2")
    assert last_info(word_mdp(stop=lambda ids: len(ids) == 2, max_new_tokens=2), [W0, W0])["finish_reason"] == "stop"


def test_every_end_token_of_a_list_ends():
    mdp = word_mdp(end_token_ids=(EOS, W3))
    for end in (EOS, W3):
        info = last_info(mdp, [W0, end])
        assert (info["finish_reason"], info["completion"]) == ("stop", " w0")
    env = TokenEnv(mdp)
    assert [step[2] for step in play(env, [W0, W1, W2])] == [False] * 3


def test_without_end_tokens_only_the_horizon_ends():
    steps = play(TokenEnv(word_mdp(end_token_ids=(), max_new_tokens=3)), [EOS, EOS, EOS])
    assert [step[2] for step in steps] == [False, False, True]


def test_missing_end_score_replaces_the_reward_only_without_an_end():
    calls = []

    def five(completions, **_):
        calls.extend(completions)
        return [5.0] * len(completions)

    mdp = word_mdp(five, max_new_tokens=2, missing_end_score=-1)
    *_, (_, reward, terminated, _, info) = play(TokenEnv(mdp), [W0, W1])
    assert (reward, terminated) == (-1.0, True)
    assert info == {"finish_reason": "length", "completion": " w0 w1", "score": -1.0}
    assert calls == []  # nothing to score
    *_, (_, reward, _, _, info) = play(TokenEnv(mdp), [W0, EOS])
    assert (reward, info["score"], info["components"]) == (5.0, 5.0, {"five": 5.0})
    *_, (_, reward, _, _, _) = play(TokenEnv(replace(mdp, stop=lambda ids: ids[-1] == W3)), [W0, W3])
    assert reward == 5.0


# --- PAD is never EOS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [None, "<eos>", "<pad>"])
def test_filler_is_no_end_token_and_the_tokenizer_stays_as_it_was(pad):
    tokenizer = word_tokenizer()
    tokenizer.pad_token = pad
    state = (tokenizer.backend_tokenizer.to_str(), dict(tokenizer.special_tokens_map), tokenizer.padding_side)
    mdp = replace(word_mdp(), tokenizer=tokenizer, end_token_ids=(EOS, 0) if pad is None else (EOS,))
    env = TokenEnv(mdp)
    observation, _ = env.reset(options={"prompt_index": 1})
    fillers = set(observation["input_ids"][observation["attention_mask"] == 0].tolist())
    assert len(fillers) == 1
    assert not fillers & set(mdp.end_token_ids)
    env.step(W0)
    env.step(EOS)
    assert state == (tokenizer.backend_tokenizer.to_str(), dict(tokenizer.special_tokens_map), tokenizer.padding_side)
    assert tokenizer.pad_token == pad


def test_the_policy_may_sample_the_filler():
    seen = []

    def spy(completion_ids, completions, **_):
        seen.append((completion_ids, completions))
        return [0.0]

    mdp = word_mdp(spy, prompts=["w0"], max_prompt_length=2, max_new_tokens=4)
    assert mdp.filler == PAD
    steps = play(TokenEnv(mdp), [PAD, W1, PAD, EOS])
    assert [step[2] for step in steps] == [False, False, False, True]
    assert steps[-1][0]["input_ids"].tolist() == [PAD, W0, PAD, W1, PAD, EOS]
    assert steps[0][0]["attention_mask"].tolist() == [0, 1, 1, 0, 0, 0]
    assert steps[-1][0]["attention_mask"].tolist() == [0, 1, 1, 1, 1, 1]
    assert seen == [([[PAD, W1, PAD, EOS]], [" w1"])]


def test_a_vocabulary_smaller_than_the_tokenizer_limits_actions_but_not_prompts():
    env = TokenEnv(word_mdp(prompts=["w9 w8"], vocabulary_size=4))
    assert env.action_space.n == 4
    observation, _ = env.reset()
    assert observation in env.observation_space
    with pytest.raises(ValueError, match="action 4 lies outside the 4 tokens"):
        env.step(4)
    assert env.step(3)[2] is False


def test_the_filler_lies_inside_a_small_vocabulary():
    tokenizer = word_tokenizer()
    tokenizer.pad_token = "w9"
    mdp = replace(word_mdp(), tokenizer=tokenizer, vocabulary_size=6)
    assert mdp.filler < 6


# --- rewards -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(actions=st.lists(st.integers(2, 15), max_size=5), seed=st.integers(0, 9))
def test_dense_and_sparse_versions_pay_the_same_return(actions, seed):
    """The law that a return is conserved, however it is spread over the tokens."""

    def worth(i: int) -> float:
        return math.sin(i + seed)

    def dense(completion_ids, **_):
        return [[worth(i) for i in ids] for ids in completion_ids]

    def sparse(completion_ids, **_):
        return [math.fsum(worth(i) for i in ids) for ids in completion_ids]

    response = [*actions, EOS]
    returns = [sum(step[1] for step in play(TokenEnv(word_mdp(r)), response)) for r in (dense, sparse)]
    assert returns[0] == pytest.approx(math.fsum(map(worth, response)))
    assert returns[1] == pytest.approx(returns[0])


def test_the_parts_of_a_dense_reward_stand_in_info():
    steps = play(TokenEnv(word_mdp([(parity, 2.0), emit(W1)])), [W0, W1, EOS])
    assert [step[1] for step in steps[:2]] == [0.0, 0.0]
    info = steps[-1][4]
    assert info["token_rewards"] == pytest.approx([2.0, -1.0, -1.0 + 1 / 3])  # a scalar joins at the last token
    assert steps[-1][1] == info["score"] == pytest.approx(1 / 3)
    assert info["components"] == pytest.approx({"parity": 0.0, "reward": 1 / 3})
    assert "token_rewards" not in last_info(word_mdp(emit(W1)), [W0, EOS])


# Rewards as TRL's documentation has them: functions of the columns they name.
def format_reward(prompts, completions, ground_truth, **kwargs):
    matches = [re.search(r"w(\d)", completion) for completion in completions]
    return [1.0 if m and m.group(1) == truth else 0.0 for m, truth in zip(matches, ground_truth, strict=True)]


async def async_reward(prompts, completions, **kwargs):
    await asyncio.sleep(0.001)
    return [len(completion.split()) for completion in completions]


def test_rewards_written_for_trl_run_unchanged():
    rows = [{"prompt": "w0", "ground_truth": "3"}, {"prompt": "w1", "ground_truth": "4"}]
    mdp = word_mdp([format_reward, (async_reward, 0.1)], prompts=rows)
    for index, correct in ((0, 1.0), (1, 0.0)):
        *_, (_, reward, _, _, info) = play(TokenEnv(mdp), [W3, W0, EOS], options={"prompt_index": index})
        assert info["components"] == {"format_reward": correct, "async_reward": 2.0}
        assert reward == pytest.approx(correct + 0.2)


def test_a_reward_receives_everything_it_may_name():
    received = {}

    def spy(**columns):
        received.update(columns)
        return [0.0]

    conversation = [{"role": "user", "content": "w0 w1"}]
    rows = [{"prompt": conversation, "answer": 7}, {"prompt": "w2", "level": "hard"}]
    mdp = word_mdp(spy, prompts=rows, max_prompt_length=16)
    play(TokenEnv(mdp), [W1, EOS], options={"prompt_index": 0}, seed=1)
    assert isinstance(received.pop("episode_seed")[0], int)
    assert received.pop("prompt_ids") == [list(mdp.prompts[0].ids)]
    assert received == {
        "prompts": [conversation],
        "completions": [[{"role": "assistant", "content": " w1"}]],
        "completion_ids": [[W1, EOS]],
        "finish_reason": ["stop"],
        "episode_number": [0],
        "answer": [7],
        "level": [None],  # a column of the data that this row lacks
    }


def test_a_reward_that_asks_for_what_the_data_lacks_is_refused():
    def graded(completions, answer, **_):
        return [0.0 for _ in completions]

    rows = [{"prompt": "w0", "answers": 7}, {"prompt": "w2", "level": "hard"}]
    shown = r"'graded' requires 'answer', which .* not have: did you mean 'answers'\? Columns .* answers, level;"
    with pytest.raises(ValueError, match=shown):
        word_mdp([emit(W0), (graded, 0.0)], prompts=rows)
    mdp = word_mdp(graded, prompts=[{"prompt": "w0", "answer": 7}, "w2"])  # None where a row lacks it
    play(TokenEnv(mdp), [EOS], options={"prompt_index": 1})
    with pytest.raises(ValueError, match="Columns of the data are none"):
        replace(mdp, prompts=mdp.prompts[1:])


def test_a_reward_model_that_reads_less_than_the_task_can_produce_is_refused():
    def judge(positions, too_long="error"):
        model = RewardModel.from_causal_lm(tiny_gpt2(positions=positions), word_tokenizer(), torch.Generator())
        return replace(model, too_long=too_long)

    # The longest prompt has 3 tokens, T is 6; that P is 4 does not count.
    word_mdp(judge(9))
    with pytest.raises(ValueError, match=r"reads at most 8 tokens.* can produce 9: a prompt of 3 and a response of 6;"):
        word_mdp(judge(8))
    with pytest.raises(ValueError, match=r"too_long=\"truncate\" \(rm:DIR,too_long=truncate\)"):
        word_mdp(RewardEnsemble((judge(20), judge(8))))
    word_mdp(judge(8, "truncate"))
    # The model adds its own end token where a response ends by a word, or by a rule.
    for end in ({"end_token_ids": (W3,)}, {"stop": lambda ids: ids[-1] == W3}):
        word_mdp(judge(10), **end)
        with pytest.raises(ValueError, match="10: a prompt of 3 and a response of 6 and an end token"):
            word_mdp(judge(9), **end)
    # With another tokenizer only the prompt is known.
    word_mdp(judge(4), n_words=20)
    with pytest.raises(ValueError, match=r"prompt 'w3 w4 w5', even with no response: .*4 tokens, .* at most 3"):
        word_mdp(judge(3), n_words=20)


def test_a_component_that_does_not_apply_is_left_out():
    def sometimes(completions, **_):
        return [None for _ in completions]

    info = last_info(word_mdp([sometimes, emit(W0)]), [W0, W0, EOS])
    assert info["components"] == pytest.approx({"reward": 2 / 3})
    assert info["score"] == pytest.approx(2 / 3)


def _private(completions, **_):
    return [3.0 for _ in completions]


def test_a_component_may_have_any_name():
    """Also one with an underscore, which marks something else in Gymnasium's batched infos, and is left out."""
    assert last_info(word_mdp([_private, emit(W0)]), [W0, EOS])["components"] == {"private": 3.0, "reward": 0.5}


def broken(completions, **_):
    raise KeyError(completions[0])


BAD_REWARDS = {
    "raises": (broken, r"(?s)'broken' raised KeyError.*prompt: 'w2'.*completion: ' w0 w1'"),
    "beyond float32": (lambda **_: [1e39], r"(?s)got 1e\+39, which float32.*prompt: 'w2'.*completion: ' w0 w1'"),
    "too many scores": (lambda **_: [1.0, 2.0], "one score for each of the 1 completions, got 2"),
    "no list": (lambda **_: 1.0, "must return a list"),
    "None": (lambda **_: None, "must return a list"),
    "does not apply at all": (lambda **_: [None], "every reward .* returned None"),
    "nan": (lambda **_: [math.nan], r"(?s)finite number, got nan.*prompt: 'w2'.*completion: ' w0 w1'"),
    "infinity": (lambda **_: [math.inf], r"(?s)finite number, got inf.*prompt: 'w2'.*completion: ' w0 w1'"),
    "text": (lambda **_: ["0.5"], r"(?s)got str: '0\.5'.*prompt: 'w2'.*completion: ' w0 w1'"),
    "dense of wrong length": (lambda **_: [[1.0, 2.0]], r"(?s)expected 3, got 2.*prompt: 'w2'.*completion: ' w0 w1'"),
    "dense nan": (lambda **_: [[0.0, math.nan, 0.0]], "finite number, got nan"),
}


@pytest.mark.parametrize("kind", BAD_REWARDS)
def test_a_mistake_in_a_reward_is_raised_and_shown(kind):
    reward, message = BAD_REWARDS[kind]
    env = TokenEnv(word_mdp(reward))
    play(env, [W0, W1], options={"prompt_index": 1})
    with pytest.raises(RewardError, match=message):
        env.step(EOS)


def test_an_async_mistake_is_raised_too():
    async def late(completions, **_):
        await asyncio.sleep(0)
        raise ZeroDivisionError(completions[0])

    with pytest.raises(RewardError, match="ZeroDivisionError"):
        play(TokenEnv(word_mdp(late)), [EOS])


# --- bad input ---------------------------------------------------------------------------------------------------


def test_step_before_reset_and_after_the_end():
    env = TokenEnv(word_mdp())
    with pytest.raises(gym.error.ResetNeeded):
        env.step(W0)
    play(env, [EOS])
    for _ in range(2):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(W0)
    env.reset()
    assert env.step(W0)[2] is False


@pytest.mark.parametrize("action", [-1, 16, 10**6])
def test_an_action_outside_the_vocabulary(action):
    env = TokenEnv(word_mdp())
    env.reset()
    with pytest.raises(ValueError, match=f"action {action} lies outside the 16 tokens"):
        env.step(action)


@pytest.mark.parametrize("action", [1.0, 2.5, True, "w0", None, [1], [1, 2], np.array([3]), np.float32(2.0)])
def test_an_action_that_is_no_integer(action):
    env = TokenEnv(word_mdp())
    env.reset()
    with pytest.raises(ValueError, match="action"):
        env.step(action)


@pytest.mark.parametrize("action", [2, np.int64(2), np.int32(2), np.uint8(2), np.array(2)])
def test_every_kind_of_integer_is_an_action(action):
    env = TokenEnv(word_mdp())
    env.reset()
    assert env.step(action)[0]["input_ids"][4] == 2


def test_a_refused_action_changes_nothing():
    env = TokenEnv(word_mdp(allowed=without_w1))
    before, _ = env.reset(seed=0)
    for action in (16, -1, W1, 0.5):
        with pytest.raises(ValueError, match="action"):
            env.step(action)
    after = env.step(W2)[0]
    assert after["input_ids"].tolist() == [*before["input_ids"][:4], W2, *before["input_ids"][5:]]
    assert after["attention_mask"].sum() == before["attention_mask"].sum() + 1


def test_action_masks_follow_the_state():
    def never_twice(input_ids, attention_mask):
        columns = attention_mask.cumsum(1).argmax(1)
        return np.arange(16) != input_ids[np.arange(len(input_ids)), columns][:, None]

    env = TokenEnv(word_mdp(allowed=never_twice, prompts=["w0 w1"]))
    _, info = env.reset()
    assert info["action_mask"].dtype == np.int8
    assert np.flatnonzero(info["action_mask"] == 0).tolist() == [W1]
    assert np.flatnonzero(~env.action_masks()).tolist() == [W1]
    with pytest.raises(ValueError, match="action 3 is forbidden"):
        env.step(W1)
    _, _, _, _, info = env.step(W0)
    assert np.flatnonzero(info["action_mask"] == 0).tolist() == [W0]
    env.step(EOS)
    assert env.action_masks().all()  # nothing is to be chosen after the end


def test_without_a_rule_every_action_is_admitted_and_info_holds_no_mask():
    env = TokenEnv(word_mdp())
    assert "action_mask" not in env.reset()[1]
    assert env.action_masks().tolist() == [True] * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_index": 3}, r"prompt_index.*there are 3 prompts"),
        ({"prompt_index": -1}, r"prompt_index.*there are 3 prompts"),
        ({"prompt_index": 1.0}, "prompt_index"),
        ({"prompt_index": True}, "prompt_index"),
        ({"prompt_index": [1]}, "prompt_index"),
        ({"prompt_index": None}, "prompt_index"),
        ({"prompt_index": 0, "episode": -2}, "episode"),
        ({"episode": "one"}, "episode"),
        ({"promt_index": 1}, "promt_index.*prompt_index"),
    ],
)
def test_bad_reset_options(options, message):
    with pytest.raises(ValueError, match=message):
        TokenEnv(word_mdp()).reset(options=options)


def test_render_mode_is_checked():
    with pytest.raises(ValueError, match=r"render_mode='rgb'.*rgb_array"):
        TokenEnv(word_mdp(), render_mode="rgb")


BAD_MDPS: dict[str, tuple[dict[str, Any], str]] = {
    "no horizon": ({"max_new_tokens": 0}, "max_new_tokens=0; expected a whole number, from 1 to 16777216"),
    "no prompts": ({"prompts": ()}, "prompts is empty"),
    "an end token outside": ({"end_token_ids": (1, 16)}, r"end_token_ids=\[16\].*16 actions"),
    "a prompt too long": ({"max_prompt_length": 2}, r"prompt 3 has 3 tokens.*max_prompt_length=2.*'w3 w4 w5'"),
    "an empty prompt": ({"prompts": (Prompt("", "", ()),)}, "prompt 1 has 0 tokens"),
    "a foreign prompt": ({"prompts": (Prompt("x", "x", (99,)),)}, r"prompt 1 .*99.*16 tokens"),
    "a column with a taken name": (
        {"prompts": (Prompt("w0", "w0", (2,), {"finish_reason": "x"}),)},
        r"prompt 1 has columns \['finish_reason'\]",
    ),
    "no actions": ({"vocabulary_size": 0}, "vocabulary_size=0"),
    "a score that is none": ({"missing_end_score": math.nan}, "missing_end_score=nan"),
    "a score beyond float32": ({"missing_end_score": -1e39}, r"missing_end_score=-1e\+39"),
}


@pytest.mark.parametrize("kind", BAD_MDPS)
def test_a_task_that_cannot_be_played_is_refused_before_it_starts(kind):
    changes, message = BAD_MDPS[kind]
    with pytest.raises(ValueError, match=message):
        replace(word_mdp(), **changes)


def test_a_reward_without_kwargs_is_refused_before_it_starts():
    def narrow(completions):
        return [0.0 for _ in completions]

    with pytest.raises(TypeError, match=r"'narrow' must accept any column"):
        word_mdp(narrow)


# --- rendering ---------------------------------------------------------------------------------------------------


def test_ansi_shows_prompt_response_and_numbers():
    env = TokenEnv(word_mdp(emit(W0)), render_mode="ansi")
    play(env, [W0, W1], options={"prompt_index": 1})
    text = re.sub(r"\x1b\[[\d;]*m", "", env.render())
    assert text.startswith("w2")
    assert "w0 w1" in text
    assert "length 2 / 6" in text
    assert "finish running" in text
    env.step(EOS)
    text = re.sub(r"\x1b\[[\d;]*m", "", env.render())
    assert "return +0.333" in text
    assert "finish stop" in text


def test_human_prints_at_every_reset_and_step_as_gymnasium_has_it(capsys):
    env = TokenEnv(word_mdp(emit(W0)), render_mode="human")
    env.reset(options={"prompt_index": 1})
    assert "w2" in capsys.readouterr().out
    env.step(W3)
    assert "w3" in capsys.readouterr().out
    assert env.render() is None
    assert "w3" in capsys.readouterr().out


def test_rgb_array_has_one_shape_all_along():
    env = TokenEnv(word_mdp(emit(W0)), render_mode="rgb_array")
    env.reset()
    frames = [env.render()]
    for action in (W0, W1, EOS):
        env.step(action)
        frames.append(env.render())
    assert {(frame.shape, frame.dtype) for frame in frames} == {(frames[0].shape, np.dtype(np.uint8))}
    assert frames[0].ndim == 3
    assert all((one != other).any() for one, other in pairwise(frames))


def test_no_render_mode_renders_nothing_and_nothing_is_rendered_before_reset():
    env = TokenEnv(word_mdp())
    env.reset()
    assert env.render() is None
    with pytest.raises(gym.error.ResetNeeded):
        TokenEnv(word_mdp(), render_mode="ansi").render()
