"""Interleaved timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from textgym.types import FloatArray

Timed: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Spread:
    """The median and the range of several repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: FloatArray) -> Spread:
        return cls(float(np.median(values)), float(values.min()), float(values.max()))


def in_turns(runs: Mapping[str, Timed], repeats: int) -> dict[str, FloatArray]:
    """Return the CPU seconds of each run, ``[repeats]``: A B A B …, after one warm-up of each.

    CPU seconds of this process, not wall-clock time: with one thread, other load on the machine does not count.
    """
    # The first call pays for allocations and caches.
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: np.array(values) for name, values in seconds.items()}


class Stopwatch:
    """Total time spent inside wrapped functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start

        return timed
