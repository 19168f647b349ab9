"""Stopping of a run by a signal, such that complete work is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


class Stopped(KeyboardInterrupt):
    """Interrupt of a run by a signal; a ``KeyboardInterrupt``, so that no ``except Exception`` of a reward swallows it.

    Attributes:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def stopped_by(*numbers: int) -> Iterator[None]:
    """Raise :class:`Stopped` immediately if one of these signals arrives while the block runs."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(stop, *numbers):
        yield


class StopAtBoundary(BaseCallback):
    """Callback that ends training before its next token after a signal; the unfinished iteration is dropped.

    During :meth:`listening`, the first SIGINT or SIGTERM requests the end, and a second one raises :class:`Stopped` at
    once.
    """

    requested: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals while the block runs; raise :class:`Stopped` at its end if one arrived."""

        def request(number: int, _: FrameType | None) -> None:
            if self.requested is not None:
                raise Stopped(number)
            self.requested = number

        with _handled(request, signal.SIGINT, signal.SIGTERM):
            yield
        if self.requested is not None:
            raise Stopped(self.requested)

    def _on_step(self) -> bool:
        return self.requested is None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Handle signals while the block runs; only the main thread can, so others leave them unchanged.

    A signal that is ignored stays ignored: shells ignore SIGINT for background jobs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in heeded]
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)
