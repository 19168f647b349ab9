"""Calling a reward: TRL's signature works unchanged, and no mistake passes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import math
import re
import threading
import time

import numpy as np
import pytest
import torch

from textgym.calls import IN_FLIGHT
from textgym.rewards import RewardError, call_reward, reward_name
from textgym.rewards.functions import Batch, call_rewards, check_columns, check_signature

LARGEST = 3.4028234663852886e38  # (2 − 2⁻²³) · 2¹²⁷
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
        ([float(np.finfo(np.float32).max), 0, -float(np.finfo(np.float32).max)], [LARGEST, 0.0, -LARGEST]),
        (np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]), [1.0, None, 3.0]),
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
        ([1.0, 1e39, 1.0], r"(?s)completion 1 of 3: .*got 1e\+39, which float32 cannot hold.*'two'.*'b b'"),
        ([1.0, -1e39, 1.0], "float32"),
        ([1.0, 1.0, [0.0, 0.0, 1e39]], "(?s)float32.*'three'"),
        (torch.tensor([1.0, 1.0, 1e39], dtype=torch.float64), "float32"),
        ([10**400, 1.0, 1.0], "(?s)completion 0 of 3: .*type int that is too large.*'one'.*'a'"),
        ([1.0, 10**5000, 1.0], "too large"),
        (torch.ones(3, device="meta"), "(?s)Tensor that cannot be read.*'one'.*'a'"),
        ([1.0, torch.ones((), device="meta"), 1.0], "(?s)completion 1 of 3: got a Tensor that cannot be read.*'two'"),
        ([], "(?s)one score for each of the 3 completions, got 0.*'one'.*'a'"),
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


@pytest.mark.parametrize("error", [SystemExit(0), asyncio.CancelledError("gone")], ids=repr)
def test_leaving_is_a_mistake_of_the_reward(error):
    def leaves(completions, **_):
        if "b b" in completions:
            raise error
        return [0.0] * len(completions)

    async def leaves_later(completions, **_):
        await asyncio.sleep(0)
        return leaves(completions)

    shown = rf"(?s)raised {type(error).__name__}: .*on completion 1 of 3.*'two'.*'b b'"
    for reward in (leaves, leaves_later):
        with pytest.raises(RewardError, match=shown) as caught:
            call(reward)
        assert caught.value.__cause__ is error


def test_the_user_may_interrupt():
    def interrupted(**_):
        raise KeyboardInterrupt

    async def interrupted_later(**_):
        raise KeyboardInterrupt

    for reward in (interrupted, interrupted_later):
        with pytest.raises(KeyboardInterrupt):
            call(reward)


@pytest.mark.parametrize("bad", [{0}, {63}, {127}, {70, 71, 100}], ids=str)
@pytest.mark.parametrize("is_async", [False, True])
def test_the_offender_is_found_by_halving(bad, is_async):
    asked = []

    def fails(completions, **_):
        asked.append(len(completions))
        if found := bad & {int(text) for text in completions}:
            raise ValueError(f"no {max(found)}")
        return [0.0] * len(completions)

    async def fails_later(completions, **_):
        return fails(completions)

    n = 128
    with pytest.raises(RewardError, match=rf"(?s)raised ValueError: no {min(bad)} on completion .*'{min(bad)}'"):
        call_reward(fails_later if is_async else fails, ["p"] * n, [str(i) for i in range(n)], [[1]] * n, {})
    first_calls = IN_FLIGHT if is_async else 1
    assert len(asked) <= first_calls + 2 * math.log2(n)


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


# --- copies -------------------------------------------------------------------------------------------------------


def test_what_a_reward_does_to_its_inputs_stays_with_it():
    handle = threading.Lock()  # cannot be copied
    given = {
        "prompts": [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]],
        "completions": ["a", [{"role": "assistant", "content": "b"}]],
        "completion_ids": [[1, 2], [3]],
        "tags": [{"seen": []}, {"seen": []}],
        "prompt_ids": [[5], [6]],
        "handle": [handle, handle],
    }
    seen = []

    def edits(**arguments):
        seen.append(copied(arguments))
        arguments["prompts"][0][0]["content"] = "edited"
        arguments["completions"][1][0]["content"] = "edited"
        arguments["tags"][1]["seen"].append("edited")
        for name in ("completion_ids", "prompt_ids"):
            arguments[name][0].append(99)
        for values in arguments.values():
            values.clear()
        return [0.0, 0.0]

    def copied(arguments):
        rest = {name: values for name, values in arguments.items() if name != "handle"}
        assert all(value is handle for value in arguments["handle"])
        return copy.deepcopy(rest)

    before = copied(given)
    columns = {name: given[name] for name in ("tags", "prompt_ids", "handle")}
    batch = Batch(given["prompts"], given["completions"], given["completion_ids"], columns)
    for _ in range(2):
        call_rewards([edits, edits], batch)
    assert seen == [before] * 4
    assert copied(given) == before


def test_scores_are_counted_by_the_true_number_of_completions():
    def empties(prompts, completions, **_):
        prompts.clear()
        completions.clear()
        return []

    with pytest.raises(RewardError, match="each of the 3 completions, got 0"):
        call(empties)


# --- several calls in flight --------------------------------------------------------------------------------------


def test_async_rewards_share_the_places_in_flight_and_keep_their_order():
    now, most, sizes = 0, 0, []

    async def waits(completions, **_):
        nonlocal now, most
        now += 1
        most = max(most, now)
        sizes.append(len(completions))
        await asyncio.sleep(0.001 * (int(completions[0]) % 3))
        now -= 1
        return [float(text) for text in completions]

    class Judge:
        async def __call__(self, completions, **_):
            return [-score for score in await waits(completions)]

    n = 131
    rewards = [waits, Judge(), functools.partial(waits, judge="x")]
    found = call_rewards(rewards, Batch(["p"] * n, [str(i) for i in range(n)], [[1]] * n, {}))
    expected = [float(i) for i in range(n)]
    assert found == [expected, [-x for x in expected], expected]
    assert most == IN_FLIGHT
    assert len(sizes) == 3 * IN_FLIGHT
    assert max(sizes) - min(sizes) <= 1


def test_small_batches_and_sync_rewards_are_one_call():
    sizes = []

    def counts(completions, **_):
        sizes.append(len(completions))
        return [0.0] * len(completions)

    async def counts_later(completions, **_):
        return counts(completions)

    call_reward(counts, ["p"] * 500, ["c"] * 500, [[1]] * 500, {})
    call_reward(counts_later, ["p"] * 31, ["c"] * 31, [[1]] * 31, {})
    assert sizes == [500, 31]


# --- the time limit -----------------------------------------------------------------------------------------------


@pytest.fixture
def forever():
    """An event that ends the threads that a test left hanging."""
    event = threading.Event()
    yield event
    event.set()


def slow_rewards(forever):
    def hangs(**_):
        assert threading.current_thread().daemon, "the process could not end"
        forever.wait(30)
        return [0.0] * 3

    async def hangs_awaiting(**_):
        await asyncio.sleep(30)

    async def hangs_blocking(**_):
        forever.wait(30)

    async def refuses_to_end(**_):
        while not forever.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    return [hangs, hangs_awaiting, hangs_blocking, refuses_to_end]


@pytest.mark.parametrize("which", range(4), ids=["sync", "async", "blocking", "stubborn"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_time_limit_names_the_reward_and_what_it_was_given(which, forever):
    reward = slow_rewards(forever)[which]
    shown = rf"(?s){reward.__name__!r} took longer than its time limit of 0.05 seconds on 3 completions.*'one'.*'a'"
    began = time.monotonic()
    with pytest.raises(RewardError, match=shown):
        call_rewards([trl_async_reward, reward], Batch(PROMPTS, TEXTS, IDS, {}), timeout=0.05)
    assert time.monotonic() - began < 5


def test_the_limit_is_of_a_call_and_not_of_all_calls():
    async def naps(completions, **_):
        await asyncio.sleep(0.05)
        return [0.0] * len(completions)

    n = 160
    batch = Batch(["p"] * n, ["c"] * n, [[1]] * n, {})
    assert call_rewards([naps] * 8, batch, timeout=0.3) == [[0.0] * n] * 8  # eight rounds of 0.05 s


def test_a_limit_that_holds_changes_nothing():
    rewards = [trl_reward, trl_async_reward]
    batch = Batch(PROMPTS, TEXTS, IDS, COLUMNS)
    assert call_rewards(rewards, batch, timeout=60) == call_rewards(rewards, batch)

    def divides(completions, **_):
        return [1 / (len(text) - 3) for text in completions]

    with pytest.raises(RewardError, match=r"ZeroDivisionError.*completion 1 of 3"):
        call_reward(divides, PROMPTS, TEXTS, IDS, {}, timeout=60)


def test_without_a_limit_there_is_no_thread():
    def where(**_):
        assert threading.current_thread() is threading.main_thread()
        return [0.0] * 3

    async def where_later(**_):
        return where()

    assert call_rewards([where, where_later], Batch(PROMPTS, TEXTS, IDS, {})) == [[0.0] * 3] * 2


# --- names and signatures -----------------------------------------------------------------------------------------


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

    def by_position(prompts, completions, /, **_):
        return [0.0 for _ in completions]

    with pytest.raises(TypeError, match=r"'by_position'.*takes 'prompts' by position only.*remove the /"):
        check_signature(by_position)


def test_columns_are_checked_before_work_starts():
    def asks(prompts, answer, *, episode_seed, finish_reason, level="easy", **_):
        return [0.0 for _ in prompts]

    check_columns(asks, ["answer"])
    check_columns(functools.partial(asks, answer=[]), [])
    check_columns(lambda **_: [], [])
    with pytest.raises(
        ValueError, match=r"'asks' requires 'answer'.*did you mean 'answers'\? Columns.*are answers, tag;"
    ):
        check_columns(asks, ["tag", "answers"])
    with pytest.raises(ValueError, match=r"requires 'answer'.*Columns of the data are none"):
        check_columns(asks, [])

    class Metric:
        required_columns = ("reference",)

        def __call__(self, completions, **columns):
            return columns["reference"]

    check_columns(Metric(), ["reference"])
    with pytest.raises(ValueError, match="'Metric' requires 'reference'"):
        check_columns(Metric(), ["answer"])
