"""Calling a reward: TRL's signature works unchanged, and no mistake passes."""

from __future__ import annotations

import asyncio
import functools
import math
import re

import numpy as np
import pytest
import torch

from textgym.rewards import RewardError, call_reward, reward_name
from textgym.rewards.functions import Batch, call_rewards, check_signature

PROMPTS, TEXTS, IDS = ["one", "two", "three"], ["a", "b b", "c c c"], [[1], [2, 2], [3, 3, 3]]
COLUMNS = {"answer": ["a", "x", "c c c"], "episode_seed": [1, 2, 3], "finish_reason": ["stop", "stop", "length"]}


def call(reward, columns=COLUMNS):
    return call_reward(reward, PROMPTS, TEXTS, IDS, columns)


# As in TRL's documentation of custom rewards, whose functions name what they use.
def trl_reward(completions, answer, **kwargs):
    return [1.0 if text == a else 0.0 for text, a in zip(completions, answer, strict=True)]


async def trl_async_reward(prompts, completions, completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [float(len(ids)) for ids in completion_ids]


def test_trl_rewards_run_unchanged():
    assert call(trl_reward) == [1.0, 0.0, 1.0]
    assert call(trl_async_reward) == [1.0, 2.0, 3.0]


def test_async_reward_where_a_loop_already_runs():
    async def notebook():
        return call(trl_async_reward)

    assert asyncio.run(notebook()) == [1.0, 2.0, 3.0]


def test_async_rewards_wait_together():
    """Each waits for the other, so awaiting them in turn would never end."""
    events = {}

    async def first(**_):
        events["one"] = asyncio.Event()
        await asyncio.sleep(0)
        events["one"].set()
        await asyncio.wait_for(events["two"].wait(), 5)
        return [0.0] * 3

    async def second(**_):
        events["two"] = asyncio.Event()
        await asyncio.wait_for(events["one"].wait(), 5)
        events["two"].set()
        return [1.0] * 3

    batch = Batch(PROMPTS, TEXTS, IDS, {})
    assert call_rewards([first, second], batch) == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([1, None, 2.5], [1.0, None, 2.5]),
        ((True, np.bool_(False), np.float32(0.5)), [1.0, 0.0, 0.5]),
        (np.array([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]),
        (torch.tensor([1.0, 2.0, 3.0], requires_grad=True), [1.0, 2.0, 3.0]),
        ([torch.tensor(1), np.array(2.0), np.int64(3)], [1.0, 2.0, 3.0]),
        ([[1], [1, 2], [1, 2, 3]], [[1.0], [1.0, 2.0], [1.0, 2.0, 3.0]]),
        ([0.5, torch.tensor([1.0, 2.0]), np.array([1, 2, 3])], [0.5, [1.0, 2.0], [1.0, 2.0, 3.0]]),
    ],
)
def test_every_kind_of_number_becomes_a_float(result, expected):
    scores = call(lambda **_: result)
    assert scores == expected
    flat = [x for s in scores for x in (s if isinstance(s, list) else [s])]
    assert all(x is None or type(x) is float for x in flat)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0], "one score for each of the 3 completions, got 2"),
        (1.0, "a list with one score for each completion, got float"),
        (None, "got NoneType"),
        ("abc", "got str"),
        (np.array(1.0), "got ndarray"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, "got dict"),
        ([1.0, math.nan, 1.0], "(?s)completion 1 of 3: expected a finite number, got nan.*'two'.*'b b'"),
        ([1.0, 1.0, -math.inf], "completion 2 of 3: expected a finite number, got -inf"),
        ([1.0, [1.0, math.inf], 1.0], "finite"),
        (["1.0", 1.0, 1.0], "completion 0 of 3: expected a number, a list of numbers or None, got str: '1.0'"),
        (["True", 1.0, 1.0], "got str: 'True'"),
        ([1 + 2j, 1.0, 1.0], "got complex"),
        ([1.0, [1.0], 1.0], "one number for each sampled token, expected 2, got 1"),
        ([1.0, [1.0, None], 1.0], "got NoneType"),
        (np.zeros((3, 3)), "expected 1, got 3"),
    ],
)
def test_what_is_not_a_score_is_an_error(result, message):
    def odd(**_):
        return result

    with pytest.raises(RewardError, match=message) as caught:
        call(odd)
    assert "'odd'" in str(caught.value)


def test_an_exception_names_reward_and_offender():
    def divides(completions, **_):
        return [1 / (len(text) - 3) for text in completions]

    with pytest.raises(RewardError) as caught:
        call(divides)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    for part in ("'divides'", "ZeroDivisionError", "completion 1 of 3", "'two'", "'b b'"):
        assert part in str(caught.value)
    assert "'three'" not in str(caught.value)


def test_an_exception_of_batches_alone_shows_the_smallest_and_says_so():
    def batches(completions, **_):
        if len(completions) > 1:
            raise ValueError("too many")
        return [0.0]

    shown = r"(?s)too many on completions 1 to 2 of 3 together, but on neither half.*'two'.*'three'"
    with pytest.raises(RewardError, match=shown):
        call(batches)


def test_an_async_exception_is_raised_too():
    async def fails(**_):
        raise KeyError("judge")

    with pytest.raises(RewardError, match="'fails' raised KeyError: 'judge'") as caught:
        call(fails)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_failure_leaves_no_coroutine_behind():
    def fails(**_):
        raise ValueError("no")

    # The un-awaited coroutine would warn, and warnings are errors here.
    with pytest.raises(RewardError, match="no"):
        call_rewards([trl_async_reward, fails], Batch(PROMPTS, TEXTS, IDS, {}))


def test_long_texts_are_cut_in_messages():
    def fails(**_):
        raise ValueError("no")

    with pytest.raises(RewardError) as caught:
        call_reward(fails, ["p" * 10_000], ["c" * 10_000], [[1]], {})
    assert len(str(caught.value)) < 1_000
    assert "the completion:" in str(caught.value)


def test_uneven_or_clashing_columns_are_refused():
    with pytest.raises(ValueError, match="each of the 3 prompts, got 2 in 'answer'"):
        call(trl_reward, {"answer": ["a", "b"]})
    with pytest.raises(ValueError, match=re.escape("columns ['prompts']")):
        call(trl_reward, {"prompts": ["a", "b", "c"]})


def test_names():
    class Judge:
        def __call__(self, **_):
            return [0.0]

    class Named(Judge):
        name = "politeness"

    assert reward_name(trl_reward) == "trl_reward"
    assert reward_name(functools.partial(trl_reward, answer=[])) == "trl_reward"
    assert reward_name(Judge()) == "Judge"
    assert reward_name(Named()) == "politeness"
    assert reward_name(lambda **_: [0.0]) == "lambda"


def test_signatures_are_checked_before_work_starts():
    check_signature(trl_reward)
    check_signature(functools.partial(trl_reward, answer=[]))

    def closed(completions):
        return [0.0 for _ in completions]

    with pytest.raises(TypeError, match=r"'closed' must accept any column.*add \*\*kwargs"):
        check_signature(closed)
    with pytest.raises(TypeError, match="must be callable, got float"):
        check_signature(0.5)
