"""Calls of many functions: in their order, together where they can wait, and within a time limit."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from textgym.calls import OvertimeError, Raised, call_all


def test_results_keep_their_order_and_exceptions_are_results() -> None:
    async def late(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def fails() -> None:
        raise KeyError("b")

    def fails_at_once() -> None:
        raise ValueError("a")

    def later() -> Any:
        return late(3)  # a sync function whose result must be awaited

    for seconds in (None, 10.0):
        found = call_all([lambda: 1, lambda: late(2), fails, later, fails_at_once], seconds)
        assert [found[i] for i in (0, 1, 3)] == [1, 2, 3]
        assert isinstance(found[2], Raised)
        assert isinstance(found[4], Raised)
        assert (repr(found[2].error), repr(found[4].error)) == ("KeyError('b')", "ValueError('a')")
    assert call_all([]) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_the_slow_one_is_named(is_async: bool) -> None:
    async def slow_later() -> None:
        await asyncio.sleep(30)

    async def quick() -> int:
        return 1

    def slow() -> None:
        threading.Event().wait(30)

    begun = time.monotonic()
    with pytest.raises(OvertimeError) as caught:
        call_all([lambda: 0, quick, slow_later if is_async else slow, quick], 0.2)
    assert caught.value.which == 2
    assert time.monotonic() - begun < 5  # and no coroutine is left behind: that would warn


def test_an_interrupt_passes_and_leaves_no_coroutine_behind() -> None:
    async def quick() -> int:
        return 1

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_all([quick, interrupted])
