"""Calls of a user's functions, sync and async, within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

IN_FLIGHT = 8
"""Awaitables that run at the same time."""

FAILURES = (Exception, SystemExit, asyncio.CancelledError)
"""Exceptions that count as a failure of the code that was called; KeyboardInterrupt is the user's, and passes."""


@dataclass(frozen=True)
class Raised:
    """Exception that a call raised instead of returning a result."""

    error: BaseException


class OvertimeError(Exception):
    """Time limit of a call exceeded.

    Attributes:
        which: the index of the call among those that ran together.
    """

    def __init__(self, which: int) -> None:
        super().__init__(which)
        self.which = which


def call_all(functions: Sequence[Callable[[], Any]], seconds: float | None = None) -> list[Any]:
    """Call ``N`` functions in turn, then await together what they returned to be awaited.

    Args:
        functions: the functions. They may be coroutine functions, or return any awaitable.
        seconds: time limit of each; None for no limit, and no thread.

    Returns:
        ``N`` results, in their order; :class:`Raised` for those that raised.

    Raises:
        OvertimeError: one took too long; the others are cancelled.
    """
    results: list[Any] = []
    try:
        for function in functions:
            results.append(_outcome(function, seconds, len(results)))
    except BaseException:
        # A call that ends this one must not leave the coroutines of the others behind.
        for result in results:
            if inspect.iscoroutine(result):
                result.close()  # a coroutine that is never awaited would warn
        raise
    # A sync function may also return an awaitable, so the results decide, not the signatures.
    pending = [i for i, result in enumerate(results) if inspect.isawaitable(result)]
    try:
        awaited = await_all([results[i] for i in pending], seconds) if pending else []
    except OvertimeError as late:
        raise OvertimeError(pending[late.which]) from None
    for i, result in zip(pending, awaited, strict=True):
        results[i] = result
    return results


def _outcome(function: Callable[[], T], seconds: float | None, which: int) -> T | Raised:
    try:
        return call_in_time(function, seconds)
    except OvertimeError:
        raise OvertimeError(which) from None
    except FAILURES as error:
        return Raised(error)


def call_in_time(function: Callable[[], T], seconds: float | None) -> T:
    """Call a function; with a limit in a daemon thread, which is abandoned when the time is over.

    Raises:
        OvertimeError: the function did not return in time.
    """
    if seconds is None:
        return function()
    return _in_thread(function, {0: time.monotonic()}, seconds)


def await_all(awaitables: Sequence[Awaitable[Any]], seconds: float | None = None) -> list[Any]:
    """Await ``N`` awaitables, at most :data:`IN_FLIGHT` at the same time.

    This also works if an event loop already runs in this thread, as in a notebook.

    Args:
        awaitables: the awaitables.
        seconds: time limit of each, counted from its start; None for no limit.

    Returns:
        ``N`` results, in their order; :class:`Raised` for those that raised.

    Raises:
        OvertimeError: one took too long; the others are cancelled.
    """
    begun: dict[int, float] = {}  # start times of those in flight
    places: dict[asyncio.Task[Any] | None, int] = {}
    whole: list[asyncio.Task[Any]] = []

    async def one(i: int, awaitable: Awaitable[Any], gate: asyncio.Semaphore) -> Any:
        places[asyncio.current_task()] = i
        try:
            async with gate:
                begun[i] = time.monotonic()
                return await awaitable
        except FAILURES as error:
            return Raised(error)
        finally:
            begun.pop(i, None)
            if inspect.iscoroutine(awaitable):
                awaitable.close()  # a coroutine that was cancelled before it started would warn

    async def every() -> list[Any]:
        task = asyncio.current_task()
        assert task is not None
        whole.append(task)
        gate = asyncio.Semaphore(IN_FLIGHT)
        return await asyncio.gather(*(one(i, awaitable, gate) for i, awaitable in enumerate(awaitables)))

    if seconds is None and not _loop_runs():
        return asyncio.run(every())
    try:
        return _in_thread(lambda: asyncio.run(every()), begun, seconds)
    except OvertimeError as late:
        loop = whole[0].get_loop()
        # A task that blocks the loop also delays older tasks, whose limits may run out first. The error must name the
        # task that the loop is executing.
        blocking = asyncio.current_task(loop)
        with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(whole[0].cancel)
        raise OvertimeError(places.get(blocking, late.which)) from None


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(function: Callable[[], T], begun: Mapping[int, float], seconds: float | None) -> T:
    """Run a function in a daemon thread, which does not keep the process from ending.

    Args:
        function: the function.
        begun: start times of its parts that still run; it may change in the meantime.
        seconds: time limit of each part.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    # Context variables (of tracing, say) are per thread; the copy gives the function those of its caller.
    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="textgym-call", daemon=True).start()
    while not outcome.done():
        left = None
        if seconds is not None:
            now = time.monotonic()
            which, since = min(dict(begun).items(), key=lambda part: part[1], default=(0, now))
            left = since + seconds - now
            if left <= 0:
                raise OvertimeError(which)
        wait([outcome], left)
    return outcome.result()
