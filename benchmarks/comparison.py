"""Before and after: means with 95 % intervals, how clear their difference is, and words that say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textgym.agents.forgetting import OTHERS, PTX, in_short
from textgym.benchmarks.curves import Z95


@dataclass(frozen=True)
class Metric:
    """How a number is called and read.

    Attributes:
        label: its name.
        hint: what it measures, in a few words.
        better: 1 where more is better, −1 where less is, 0 where neither.
    """

    label: str
    hint: str = ""
    better: int = 0


METRICS: Mapping[str, Metric] = {
    "score": Metric("Score", "the reward that the policy is trained on", 1),
    "gold": Metric("Gold", "the true objective, hidden from training", 1),
    "kl": Metric("KL", "nats per sequence from the reference"),
    "grammatical": Metric("Grammatical", "share accepted by the true grammar", 1),
    "length": Metric("Length", "tokens per response"),
    PTX: Metric("Pretraining loss", "nats per token of held-out pretraining text", -1),
    OTHERS: Metric("Loss on other tasks", "nats per token of the other mini tasks' references", -1),
}


def metric(name: str) -> Metric:
    """What is known of a metric; an unknown one is called by its name."""
    return METRICS.get(name) or Metric(name.replace("_", " ").capitalize())


# -- Numbers ---------------------------------------------------------------------------------------


def exponent(value: float) -> int:
    """The power of ten of the first significant digit: 0 for 3.2, −2 for 0.032."""
    return math.floor(math.log10(abs(value)))


def decimals(uncertainty: float) -> int:
    """Decimal places that an uncertainty deserves: two digits of it if it starts with 1 or 2, else one."""
    power = exponent(uncertainty)
    digits = 2 if abs(uncertainty) / 10.0**power < 3 else 1
    return min(max(digits - 1 - power, 0), 5)


def number(value: float | None, places: int | None = None, sign: bool = False) -> str:
    """A number for a reader: three significant digits unless ``places`` is given, and a true minus."""
    if value is None or not math.isfinite(value):
        return "–"
    if places is None:
        if 0 < abs(value) < 1e-3:
            power = exponent(value)
            return f"{value / 10.0**power:.2g}e{power}".replace("-", "−")
        places = 0 if value == round(value) else max(2 - exponent(value), 0)
    value = round(value, places) + 0.0  # adding 0.0 makes a plain zero of a negative one
    return f"{value:{'+' if sign else ''},.{places}f}".replace("-", "−")


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error; None where that is not known."""

    mean: float
    sem: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval."""
        return None if self.sem is None else Z95 * self.sem

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


@dataclass(frozen=True)
class Comparison:
    """One metric before and after training."""

    name: str
    before: Estimate
    after: Estimate

    @property
    def metric(self) -> Metric:
        return metric(self.name)

    @property
    def places(self) -> int:
        """Decimal places for the whole row, by its finest known interval."""
        known = [e.half for e in (self.before, self.after) if e.half]
        return decimals(min(known)) if known else 3

    @property
    def change(self) -> Estimate:
        """After minus before, the two evaluations taken as independent."""
        sems = [self.before.sem, self.after.sem]
        known = [sem for sem in sems if sem is not None]
        sem = math.hypot(*known) if len(known) == len(sems) else None
        return Estimate(self.after.mean - self.before.mean, sem)

    @property
    def clear(self) -> bool:
        """Whether the interval of the change leaves out zero. Without an interval nothing is clear."""
        half = self.change.half
        return half is not None and abs(self.change.mean) > half

    @property
    def direction(self) -> int:
        """1 for a clear rise, −1 for a clear fall, 0 for neither."""
        return int(math.copysign(1, self.change.mean)) if self.clear else 0

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``changed`` (where neither way is better) or ``unclear``."""
        if not self.clear:
            return "unclear"
        return {1: "better", -1: "worse", 0: "changed"}[self.direction * self.metric.better]

    def percent(self, value: float) -> float:
        """Where ``value`` stands in the row's picture: 0 at the lowest interval's end, 100 at the highest."""
        low = min(self.before.low, self.after.low)
        width = max(self.before.high, self.after.high) - low
        return 100 * (value - low) / width if width else 50.0


def compare(evaluation: Mapping[str, Any]) -> list[Comparison]:
    """The metrics that were evaluated before and after, the best-known first."""
    before, after = evaluation.get("before", {}), evaluation.get("after", {})
    known = [name for name in METRICS if name in before]
    names = known + [name for name in in_short(before) if name not in METRICS]
    return [Comparison(name, _estimate(before[name]), _estimate(after[name])) for name in names if name in after]


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    return Estimate(float(entry["mean"]), None if entry.get("sem") is None else float(entry["sem"]))


# -- Words -----------------------------------------------------------------------------------------

NBSP = "\u00a0"  # keeps a number and its interval on one line
_VERBS = {1: "raised", -1: "lowered"}
_MOVES = {1: "rose", -1: "fell", 0: "did not clearly move"}


def headline(algorithm: str, comparisons: Sequence[Comparison]) -> str:
    """What training did to the first metric, in one line."""
    first = comparisons[0]
    label = first.metric.label.lower()
    before, after = (number(e.mean, first.places) for e in (first.before, first.after))
    if not first.clear:
        return f"No clear change in {label}: {before} before {algorithm}, {after} after"
    return f"{algorithm} {_VERBS[first.direction]} the {label} from {before} to {after}"


def explain(comparisons: Sequence[Comparison]) -> str:
    """What a reader should know beside the headline: how sure it is, the true objective, the price in KL."""
    by_name = {comparison.name: comparison for comparison in comparisons}
    sentences = []
    for first in comparisons[:1]:
        sure = "its interval is unknown" if first.change.half is None else "a 95 % interval"
        sentences.append(f"The change is {_with_interval(first.change, first.places, sign=True)}, {sure}.")
    if gold := by_name.get("gold"):
        change = _with_interval(gold.change, gold.places, sign=True)
        sentences.append(f"The true objective, gold, {_MOVES[gold.direction]}: {change}.")
        score = by_name.get("score")
        if score is not None and score.direction > 0 and gold.direction < 0:
            sentences.append("The policy earns reward that the true objective denies: reward hacking.")
    if kl := by_name.get("kl"):
        distance = _with_interval(kl.after, kl.places)
        sentences.append(f"The policy ended {distance} nats per sequence away from its reference.")
    return " ".join(sentences)


def _with_interval(estimate: Estimate, places: int, sign: bool = False) -> str:
    spread = "" if estimate.half is None else f"{NBSP}±{NBSP}{number(estimate.half, places)}"
    return number(estimate.mean, places, sign) + spread
