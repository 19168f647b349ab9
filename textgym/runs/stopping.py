"""Stopping a run by a signal, so that what is complete is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


class Stopped(KeyboardInterrupt):
    """A signal ended the run. It is an interrupt, so that no ``except Exception`` of a reward takes it for its own.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def stopped_by(*numbers: int) -> Iterator[None]:
    """Raise :class:`Stopped` at once where one of these signals arrives while the block runs."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(stop, *numbers):
        yield


class StopAtBoundary(BaseCallback):
    """End training before its next token once a signal has asked for it; the unfinished iteration is dropped.

    While :meth:`listening`, the first SIGINT or SIGTERM asks, and a second one raises :class:`Stopped` at once.
    """

    asked: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals while the block runs; raises :class:`Stopped` at its end where one has asked."""

        def ask(number: int, _: FrameType | None) -> None:
            if self.asked is not None:
                raise Stopped(number)
            self.asked = number

        with _handled(ask, signal.SIGINT, signal.SIGTERM):
            yield
        if self.asked is not None:
            raise Stopped(self.asked)

    def _on_step(self) -> bool:
        return self.asked is None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Handle signals while the block runs; other threads than the main one cannot, and leave them as they are.

    A signal that is ignored stays ignored: a shell has it so for what it runs in the background.
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
