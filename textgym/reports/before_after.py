"""Metrics before and after training: means with 95 % intervals, the clarity of their difference, and its wording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from textgym.agents.offline.alignment_tax import OTHERS, PTX, in_short
from textgym.intervals import SampleMean
from textgym.lm.guards import alarms
from textgym.reports.formatting import NBSP, decimals, is_finite, number


@dataclass(frozen=True)
class Metric:
    """The label of a number, and whether more of it is better.

    Attributes:
        label: its name.
        hint: its meaning or unit, in a few words.
        better: 1 where more is better, −1 where less is, 0 where neither.
    """

    label: str
    hint: str = ""
    better: int = 0


METRICS: Mapping[str, Metric] = {
    "score": Metric("Score", "the reward of a response", 1),
    "gold": Metric("Gold", "the true objective of the task", 1),
    "kl": Metric("KL", "nats per sequence from the reference"),
    "grammatical": Metric("Grammatical", "share accepted by the true grammar", 1),
    "length": Metric("Length", "tokens per response"),
    PTX: Metric("Pretraining loss", "nats per token of held-out pretraining text", -1),
    OTHERS: Metric("Loss on other tasks", "nats per token of the other mini tasks' references", -1),
}
_JUDGED = replace(METRICS["score"], hint="a reward that judges samples; nothing is trained on it")
OF_COMMANDS: Mapping[str, Mapping[str, Metric]] = {
    "train": {"score": replace(METRICS["score"], hint="the reward that the policy is trained on")},
    "sft": {"score": _JUDGED},
    "dpo": {"score": _JUDGED},
    "kto": {"score": _JUDGED},
    "distill": {
        "kl": Metric("KL to the teacher", "nats per response, exact over the vocabulary", -1),
        "score": _JUDGED,
    },
}
"""Metrics with another meaning in the runs of a command."""
LEADING = {"distill": "kl"}
"""The metric that a command's runs are about, where it is not the first of :data:`METRICS`."""
GOLD_IS_REWARD = "the true objective of the task, which is the reward here"


def metric(name: str, command: str = "") -> Metric:
    """Return the description of a metric; an unknown one is called by its name.

    Args:
        name: as ``evaluation.json`` has it.
        command: the command that made the run, which decides the meaning of some.
    """
    known = OF_COMMANDS.get(command, {}).get(name) or METRICS.get(name)
    return known or Metric(name.replace("_", " ").capitalize())


# -- Numbers ---------------------------------------------------------------------------------------


FEWEST_THAT_AGREE = 4
"""Values on either side from which a difference is clear although neither side varies: fewer would fall so by chance
in more than 1 of 20 cases (of 3 and 3 values, 2 of the 20 ways to part them do)."""


@dataclass(frozen=True)
class Change:
    """One metric before and after training.

    Attributes:
        name: as ``evaluation.json`` has it.
        before, after: the two evaluations.
        described: its label and hint, where they are others than usual.
        far: True of a KL so large that training warns of it (:func:`textgym.lm.guards.alarms`).
    """

    name: str
    before: SampleMean
    after: SampleMean
    described: Metric | None = None
    far: bool = False

    @property
    def metric(self) -> Metric:
        return self.described or metric(self.name)

    @property
    def places(self) -> int:
        """Decimal places for the whole row, by its narrowest known interval."""
        known = [e.half for e in (self.before, self.after) if e.half]  # a half of 0 says nothing about precision
        return decimals(min(known)) if known else 3

    @property
    def change(self) -> SampleMean:
        """After minus before, the two evaluations taken as independent; degrees of freedom by Welch (1947)."""
        mean = self.after.mean - self.before.mean
        if self.before.sem is None or self.after.sem is None or self.before.half is None or self.after.half is None:
            return SampleMean(mean)
        parts = [(e.sem or 0.0, e.n) for e in (self.before, self.after)]
        return SampleMean(mean, math.hypot(*(sem for sem, _ in parts)), _welch(parts))

    @property
    def clear(self) -> bool:
        """True if the interval of the change excludes zero. Without an interval nothing is clear."""
        half = self.change.half
        if half == 0 and min(e.n or math.inf for e in (self.before, self.after)) < FEWEST_THAT_AGREE:
            return False
        return half is not None and abs(self.change.mean) > half

    @property
    def direction(self) -> int:
        """1 for a clear rise, −1 for a clear fall, 0 for neither."""
        return int(math.copysign(1, self.change.mean)) if self.clear else 0

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``far``, ``changed`` (where neither way is better) or ``unclear``."""
        if self.far:
            return "far"
        if not self.clear:
            return "unclear"
        return {1: "better", -1: "worse", 0: "changed"}[self.direction * self.metric.better]

    def percent(self, value: float) -> float:
        """Return the place of ``value`` in the row's picture: 0 at the lowest interval's end, 100 at the highest."""
        low = min(self.before.low, self.after.low)
        width = max(self.before.high, self.after.high) - low
        return 100 * (value - low) / width if width else 50.0


def _welch(parts: Sequence[tuple[float, float | None]]) -> float | None:
    """Return one more than the degrees of freedom of a difference; None if neither side counts its values."""
    total = sum(sem**2 for sem, _ in parts)
    lost = sum(sem**4 / (n - 1) for sem, n in parts if n is not None)
    if lost == 0:
        known = [n for _, n in parts if n is not None]
        return min(known) if known and total == 0 else None
    return 1 + total**2 / lost


def changes_of(evaluation: Mapping[str, Any], command: str = "", episodes: int | None = None) -> list[Change]:
    """Return the metrics that were evaluated before and after, the best-known first.

    Args:
        evaluation: as ``evaluation.json`` keeps it.
        command: the command that made the run.
        episodes: number of evaluated episodes, if the file does not hold it.
    """
    before, after = (_objects(evaluation.get(stage)) for stage in ("before", "after"))
    known = [name for name in METRICS if name in before]
    names = known + [name for name in in_short(before) if name not in METRICS]
    names = sorted(names, key=lambda name: name != LEADING.get(command))  # stable: the others keep their order
    # A run on gold itself has the same score and gold; the headline then speaks of gold.
    paid = command == "train" and gold_is_the_reward(before) and gold_is_the_reward(after)
    return [
        Change(
            name,
            sample_mean(before[name], episodes),
            sample_mean(after[name], episodes),
            replace(METRICS["gold"], hint=GOLD_IS_REWARD) if name == "gold" and paid else metric(name, command),
            far=name == "kl" and kl_is_alarming(after),
        )
        for name in names
        if name in after
    ]


def gold_is_the_reward(measured: Mapping[str, Any]) -> bool:
    """Return True if score and gold are equal up to single precision."""
    if "gold" not in measured or "score" not in measured:
        return False
    pairs = [(measured["gold"].get(part, 0.0), measured["score"].get(part, 0.0)) for part in ("mean", "sem")]
    return all(math.isclose(gold or 0.0, score or 0.0, rel_tol=1e-5, abs_tol=1e-6) for gold, score in pairs)


def kl_is_alarming(measured: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return True if the KL of a policy is one that training warns of."""
    row = {f"rollout/{name}": float(measured[name]["mean"]) for name in ("kl", "length") if name in measured}
    return "kl" in alarms(row, row)


def _objects(found: Any) -> dict[str, Any]:
    """Return the measures of a stage that have a finite mean."""
    entries = found.items() if isinstance(found, dict) else ()
    return {name: e for name, e in entries if isinstance(e, dict) and is_finite(e.get("mean"))}


def sample_mean(entry: Mapping[str, Any], episodes: int | None = None) -> SampleMean:
    """Return an entry of ``evaluation.json`` as a mean with its error.

    ``episodes`` is the number of values for older files, which do not have it.
    """
    sem = entry.get("sem")
    return SampleMean(float(entry["mean"]), None if sem is None else float(sem), entry.get("n", episodes))


# -- Words -----------------------------------------------------------------------------------------

_VERBS = {1: "raised", -1: "lowered"}
_MOVES = {1: "rose", -1: "fell", 0: "did not clearly move"}


def leading_change(comparisons: Sequence[Change]) -> Change:
    """Return the metric of the headline: gold where that is the reward, else the first."""
    paid = [row for row in comparisons if row.metric.hint == GOLD_IS_REWARD]
    return paid[0] if paid else comparisons[0]


def change_headline(algorithm: str, comparisons: Sequence[Change]) -> str:
    """Return the change of the leading metric by training, in one line."""
    first = leading_change(comparisons)
    label = first.metric.label.lower()
    before, after = (number(e.mean, first.places) for e in (first.before, first.after))
    if not first.clear:
        return f"No clear change in {label}: {before} before {algorithm}, {after} after"
    named = label if first.name == "gold" else f"the {label}"
    return f"{algorithm} {_VERBS[first.direction]} {named} from {before} to {after}"


def explain_changes(comparisons: Sequence[Change]) -> str:
    """Return the context of the headline: its interval, the true objective, and the KL paid."""
    by_name = {comparison.name: comparison for comparison in comparisons}
    sentences = []
    first = leading_change(comparisons) if comparisons else None
    if first is not None:
        sure = "its interval is unknown" if first.change.half is None else "a 95 % interval"
        sentences.append(f"The change is {with_interval(first.change, first.places, sign=True)}, {sure}.")
    gold = by_name.get("gold")
    if gold is not None and gold is not first:
        change = with_interval(gold.change, gold.places, sign=True)
        sentences.append(f"The true objective, gold, {_MOVES[gold.direction]}: {change}.")
        score = by_name.get("score")
        if score is not None and score.direction > 0 and gold.direction < 0:
            sentences.append("The policy earns reward that the true objective denies: reward hacking.")
    if kl := by_name.get("kl"):
        sentences.append(kl_sentence(kl))
    return " ".join(sentences)


def kl_sentence(kl: Change) -> str:
    """Return the KL from the reference at the end, as a sentence."""
    return f"The policy ended {with_interval(kl.after, kl.places)} nats per sequence away from its reference."


def with_interval(estimate: SampleMean, places: int, sign: bool = False) -> str:
    """Return a number for a sentence, ± half its interval where it has one."""
    spread = "" if estimate.half is None else f"{NBSP}±{NBSP}{number(estimate.half, places)}"
    return number(estimate.mean, places, sign) + spread
