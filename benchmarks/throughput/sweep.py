"""The measurements: their sizes, repetitions and targets."""

from __future__ import annotations

from collections.abc import Iterator

from textgym.benchmarks.throughput.score import (
    Measure,
    collection_speed,
    exact_kl_cost,
    frozen_speed,
    growth,
    iteration_speed,
    layer_shares,
    ranking_speed,
    reply_speed,
)
from textgym.benchmarks.throughput.task import LARGE, SMALL, TINY


def all_measures(quick: bool) -> Iterator[Measure]:
    """Yield all measurements, one after the other.

    With ``quick``, tiny models show that the code runs; their times mean nothing.
    """
    if quick:
        yield collection_speed(TINY, 1, None)
        yield from layer_shares(TINY, 1, None)
        yield growth(TINY, (2, 4, 8), 1, None)
        yield iteration_speed(TINY, 1, 2, None)
        yield frozen_speed(TINY, 1, None)
        yield exact_kl_cost(TINY, 1, None)
        yield ranking_speed(TINY, 3, 1, None)
        yield reply_speed(TINY.but(new_tokens=16), 1, None)
        return
    yield collection_speed(SMALL, 15, 1.1)
    yield collection_speed(LARGE, 7, 1.0)
    yield from layer_shares(SMALL, 7, 0.10)
    yield from layer_shares(LARGE, 3, 0.10)
    yield growth(SMALL, (32, 64, 128, 256), 5, 1.2)
    yield iteration_speed(SMALL, 3, 8, 25)
    yield iteration_speed(LARGE, 2, 16, 25)
    yield frozen_speed(SMALL, 5, 1.1)
    yield frozen_speed(LARGE, 3, 1.1)
    yield exact_kl_cost(SMALL, 5, 1.3)
    yield exact_kl_cost(SMALL.but(vocabulary=16_000), 3, 2.0)
    yield ranking_speed(SMALL, 6, 5, 2.0)
    yield reply_speed(SMALL.but(prompts=32, new_tokens=64), 7, 1.5)
    yield reply_speed(LARGE, 3, 1.5)
