"""A reward model's accuracy on held-out preferences, compared with chance and with preferring the longer text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textgym.reports.formatting import NBSP, count_of, number, percent

CHANCE = 0.5


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] with its 95 % interval, where that is known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The share as text, without its interval."""
        return percent(self.value)

    @property
    def bounds(self) -> str:
        """The interval as text; empty where it is not known."""
        if self.low is None or self.high is None:
            return ""
        return f"{number(100 * self.low, 1)} … {number(100 * self.high, 1)}{NBSP}%"


@dataclass(frozen=True)
class HeldOutAccuracy:
    """Measurements of a reward model on held-out preferences.

    Attributes:
        accuracy: pairs, or with ``labels`` texts, that it judges as the labeller did; None without any.
        chance: the baseline: ½ for pairs; for labels, the share of the more frequent one.
        longer: pairs in which the longer text is the better one; None where that was not measured.
        over_length: accuracy less that share, with its interval; None where that was not measured.
        ceiling: pairs that gold itself orders as the labeller did; None without gold.
        agreement: pairs that the model orders as gold does; None without gold.
        by_distance: accuracy of pairs by the ranks between them.
        prompts, pairs: how many were held out; None where that is not known.
        labels: True if single texts were labelled, rather than ranked.
    """

    accuracy: Share | None
    chance: float
    longer: Share | None
    over_length: tuple[float, float, float] | None
    ceiling: float | None
    agreement: float | None
    by_distance: Mapping[str, float]
    prompts: int | None
    pairs: int | None
    labels: bool

    @property
    def things(self) -> str:
        """The judged items, in the plural."""
        return "held-out texts" if self.labels else "held-out pairs"

    @property
    def verb(self) -> str:
        """The verb for judging them, in the third person."""
        return "labels" if self.labels else "orders"

    @property
    def beats_chance(self) -> bool | None:
        """True if the accuracy's interval lies above chance; None without an interval."""
        low = None if self.accuracy is None else self.accuracy.low
        return None if low is None else low > self.chance

    @property
    def of_ceiling(self) -> float | None:
        """The share of the way from chance to gold's own accuracy; None where there is no way."""
        if self.accuracy is None or self.ceiling is None or self.labels:
            return None
        if not min(self.accuracy.value, self.ceiling) > CHANCE:
            return None
        return (self.accuracy.value - CHANCE) / (self.ceiling - CHANCE)

    @property
    def shares(self) -> list[Share]:
        """Accuracy, baselines and ceiling, as rows of a table."""
        rows = [self.accuracy, self.longer]
        if len(self.by_distance) > 1:  # or it would be the accuracy again
            rows += [Share(f"{count_of(int(d), 'rank')} apart", share) for d, share in self.by_distance.items()]
        if self.ceiling is not None:
            rows.append(Share("gold itself", self.ceiling))
        return [row for row in rows if row is not None]


def heldout_accuracy(reward_model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> HeldOutAccuracy:
    """Return the accuracies in ``reward_model.json`` and ``evaluation.json`` of a run; either may be empty."""
    found = {**evaluation, **reward_model}
    labels = found.get("label_accuracy") is not None
    gold = evaluation.get("gold") or {}
    value = found.get("label_accuracy") if labels else found.get("heldout_accuracy", found.get("accuracy"))
    bounds = found.get("label_accuracy_interval" if labels else "accuracy_interval")
    longer, over = found.get("length_baseline"), found.get("accuracy_over_length") or {}
    ends = over.get("interval")
    return HeldOutAccuracy(
        accuracy=_share("reward model", value, bounds),
        chance=found.get("label_baseline", CHANCE) if labels else CHANCE,
        longer=None if labels else _share("the longer text", longer, found.get("length_baseline_interval")),
        over_length=(over["mean"], ends[0], ends[1]) if ends and not labels else None,
        ceiling=found.get("ceiling", gold.get("ceiling")),
        agreement=gold.get("agreement"),
        by_distance=found.get("accuracy_by_distance", found.get("accuracy_by_rank_distance")) or {},
        prompts=found.get("prompts"),
        pairs=found.get("pairs"),
        labels=labels,
    )


def _share(name: str, value: float | None, bounds: Sequence[float] | None) -> Share | None:
    if value is None:
        return None
    low, high = bounds or (None, None)
    return Share(name, float(value), low, high)


# -- Words -----------------------------------------------------------------------------------------


def accuracy_headline(found: HeldOutAccuracy) -> str:
    """Return the accuracy with its interval, in one line."""
    share = found.accuracy
    if share is None:
        return "The reward model was trained; no pair was held out to judge it by"
    did = f"{found.verb} {share.text} of {found.things} as the labeller did"
    if not share.bounds:
        return f"The reward model {did}{', of a single prompt' if found.prompts == 1 else ''}"
    if found.beats_chance:
        return f"The reward model {did} ({share.bounds} at 95{NBSP}%)"
    if share.high is not None and share.high < found.chance:
        return f"The reward model is worse than chance: it {did} ({share.bounds} at 95{NBSP}%)"
    return f"The reward model is not clearly better than chance: it {did} ({share.bounds} at 95{NBSP}%)"


def accuracy_explained(found: HeldOutAccuracy) -> str:
    """Return sentences about chance, the length baseline, the ceiling, and the number of prompts."""
    sentences = [_of_chance(found), _of_length(found), _of_gold(found), _of_prompts(found)]
    return " ".join(sentence for sentence in sentences if sentence)


def _of_chance(found: HeldOutAccuracy) -> str:
    if found.accuracy is None:
        return ""
    if found.labels:
        return f"Always giving the more frequent label would be right in {percent(found.chance)}."
    return f"Chance is {percent(found.chance)}."


def _of_length(found: HeldOutAccuracy) -> str:
    """Return a sentence about the length baseline, and how far above it the model is."""
    if found.longer is None:
        return ""
    text = f"The longer text is the better one in {found.longer.text}"
    if found.over_length is None:
        return f"{text}."
    ahead, low, high = found.over_length
    points = f"{number(100 * ahead, 1, sign=True)} points, {number(100 * low, 1, sign=True)} … "
    points += f"{number(100 * high, 1, sign=True)} at 95{NBSP}%"
    if ahead == low == high == 0:
        return f"{text}: the model is right exactly as often."
    way = "clearly above" if low > 0 else "clearly below" if high < 0 else "not clearly apart from"
    return f"{text}: the model is {way} that ({points})."


def _of_gold(found: HeldOutAccuracy) -> str:
    if found.ceiling is None:
        return ""
    text = f"Gold itself orders {percent(found.ceiling)} as the labeller did"
    reached = found.of_ceiling
    return f"{text}." if reached is None else f"{text}: of what it gains on chance, the model has {percent(reached)}."


def _of_prompts(found: HeldOutAccuracy) -> str:
    if found.prompts is None:
        noted = "; their prompts were not counted, so there is no interval"
        return "" if found.pairs is None else f"It was judged on {number(found.pairs)} held-out pairs{noted}."
    counted = count_of(found.prompts, "held-out prompt")
    pairs = "" if found.pairs is None else f" with {count_of(found.pairs, 'pair')}"
    if found.prompts == 1:
        return f"It was judged on {counted}{pairs}: there is no interval of a single prompt."
    return f"It was judged on {counted}{pairs}; intervals are over prompts, as pairs of one prompt are alike."
