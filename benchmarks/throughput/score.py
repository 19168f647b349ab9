"""The measurements, as rows of a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from textgym.benchmarks.throughput.peers import Generation, StockIteration, prefilled_conversations
from textgym.benchmarks.throughput.task import (
    TURNS,
    Collection,
    FrozenUpdate,
    Iteration,
    RankingStep,
    Size,
    conversations,
    kl_update,
)
from textgym.benchmarks.throughput.timing import Spread, Stopwatch, in_turns
from textgym.lm.behaviour import Behaviour, draw
from textgym.types import FloatArray


@dataclass(frozen=True)
class Measure:
    """A measurement with its target.

    Attributes:
        name: name of the measurement.
        size: on which model and episodes.
        value: median, lowest and highest over the repetitions.
        target: the bound for the median; None for tiny models, whose speed means nothing.
        at_least: True if the target is a lower bound.
        note: further numbers.
    """

    name: str
    size: str
    value: Spread
    target: float | None
    at_least: bool
    note: str = ""

    @property
    def met(self) -> bool | None:
        """True if the median meets the target; None without a target."""
        if self.target is None:
            return None
        return self.value.median >= self.target if self.at_least else self.value.median <= self.target


def collection_speed(size: Size, repeats: int, target: float | None) -> Measure:
    """Measure tokens per second of textgym's collection, relative to ``generate``."""
    seconds = in_turns({"ours": Collection(size), "peer": Generation(size)}, repeats)
    tokens = size.prompts * size.new_tokens
    note = f"{tokens / np.median(seconds['ours']):.0f} tokens/s"
    ratio = Spread.of(seconds["peer"] / seconds["ours"])
    return Measure("collection over generate()", size.name, ratio, target, True, note)


def reply_speed(size: Size, repeats: int, target: float | None) -> Measure:
    """Measure conversations whose replies are prefilled with all before them, relative to decoding the new tokens."""
    seconds = in_turns({"ours": conversations(size), "peer": prefilled_conversations(size)}, repeats)
    length = size.new_tokens // (2 * TURNS)
    note = f"{TURNS} × ({length} own + {length} replied); {np.median(seconds['ours']):.2f} s"
    ratio = Spread.of(seconds["peer"] / seconds["ours"])
    return Measure("replies prefilled over decoded", size.name, ratio, target, True, note)


def layer_shares(size: Size, repeats: int, target: float | None) -> list[Measure]:
    """Measure the share of collection outside the cached decoder and sampling, and outside the bare forward pass."""
    run = Collection(size)
    run()
    # Alternating measurements, so that a drift of the machine's speed affects both alike.
    outside = np.array([_outside(run, bare) for _ in range(repeats) for bare in (False, True)]).reshape(-1, 2)
    return [
        Measure("share of the Gymnasium layer", size.name, Spread.of(outside[:, 0]), target, False),
        Measure("… with the cache's bookkeeping", size.name, Spread.of(outside[:, 1]), None, False),
    ]


def _outside(run: Collection, bare: bool) -> float:
    """Return the share of one collection that is neither the model's work nor sampling."""
    watch = Stopwatch()
    model: Any = run.model if bare else run.session.decoder
    method = "forward" if bare else "logits"
    with (
        patch.object(model, method, watch.around(getattr(model, method))),
        patch.object(Behaviour, "logits", watch.around(Behaviour.logits)),
        patch("textgym.agents.policy.lm_policy.draw", watch.around(draw)),
    ):
        start = time.process_time()
        run()
        whole = time.process_time() - start
    return 1 - watch.seconds / whole


def iteration_speed(size: Size, repeats: int, share: int, target: float | None) -> Measure:
    """Measure the time of a stock PPO iteration, relative to textgym's."""
    stock = StockIteration(size, share)
    seconds = in_turns({"ours": Iteration(size), "peer": stock}, repeats)
    scaled = f"stock timed on 1/{stock.share:g} of the episodes, scaled linearly"
    note = f"{np.median(seconds['ours']):.2f} s{'; ' + scaled if stock.share > 1 else ''}"
    ratio = Spread.of(stock.share * seconds["peer"] / seconds["ours"])
    return Measure("PPO iteration over stock SB3", size.name, ratio, target, True, note)


def frozen_speed(size: Size, repeats: int, target: float | None) -> Measure:
    """Measure scoring and epochs with frozen layers in every pass, relative to keeping their activations."""
    kept = FrozenUpdate(size, True)
    seconds = in_turns({"kept": kept, "run": FrozenUpdate(size, False)}, repeats)
    note = f"{kept.frozen} of {size.layers} layers frozen; {np.median(seconds['kept']):.2f} s"
    return Measure(
        "frozen layers run over kept", size.name, Spread.of(seconds["run"] / seconds["kept"]), target, True, note
    )


def exact_kl_cost(size: Size, repeats: int, target: float | None) -> Measure:
    """Measure scoring and epochs of GRPO with the KL over the vocabulary in its loss, relative to k3 with the ratio."""
    seconds = in_turns({"exact": kl_update(size, "exact"), "sampled": kl_update(size, "k3-corrected")}, repeats)
    ratio = Spread.of(seconds["exact"] / seconds["sampled"])
    note = f"{np.median(seconds['exact']):.2f} s"
    return Measure("GRPO's exact KL over k3-corrected", size.name, ratio, target, False, note)


def ranking_speed(size: Size, k: int, repeats: int, target: float | None) -> Measure:
    """Measure a reward model's step that encodes texts pair by pair, relative to encoding each text once."""
    once = RankingStep(size, k, True)
    seconds = in_turns({"once": once, "pairs": RankingStep(size, k, False)}, repeats)
    note = f"K = {k}; {np.median(seconds['once']):.2f} s"
    ratio = Spread.of(seconds["pairs"] / seconds["once"])
    return Measure("rankings pair by pair over at once", size.name, ratio, target, True, note)


def growth(size: Size, lengths: Sequence[int], repeats: int, target: float | None) -> Measure:
    """Measure the exponent with which collection time grows in the response's length."""
    # The slope of log time over log length: 1 is linear, 2 is quadratic.
    runs = {str(length): Collection(size.but(new_tokens=length)) for length in lengths}
    seconds = np.array(list(in_turns(runs, repeats).values()))
    exponents = Spread.of(np.array([_exponent(lengths, column) for column in seconds.T]))
    note = f"{' → '.join(map(str, lengths))} new tokens"
    return Measure("growth exponent in length", size.name, exponents, target, False, note)


def _exponent(lengths: Sequence[int], seconds: FloatArray) -> float:
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def measure_table(measures: Sequence[Measure]) -> str:
    """Return the measurements as aligned text."""
    verdicts = {None: "", True: "met", False: "MISSED"}
    rows = [("measure", "size", "median", "min–max", "target", "", "")]
    for m in measures:
        spread = f"{m.value.low:.2f}–{m.value.high:.2f}"
        target = "" if m.target is None else f"{'≥' if m.at_least else '≤'} {m.target:g}"
        rows.append((m.name, m.size, f"{m.value.median:.2f}", spread, target, verdicts[m.met], m.note))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
