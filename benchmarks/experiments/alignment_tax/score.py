"""The alignment tax that each weight of pretraining text saves, and its cost in gold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textgym.agents.offline.alignment_tax import OF_TASK, OTHERS, PTX
from textgym.benchmarks.analysis.seeds import with_bounds
from textgym.benchmarks.analysis.statistics import FEWEST_SEEDS
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.experiments.alignment_tax.ratio import ratio_of_means
from textgym.benchmarks.experiments.alignment_tax.task import GAMMA
from textgym.benchmarks.runner.experiment import Result, Results
from textgym.intervals import Estimate
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table

SAVED = 0.5
"""The claim: at least this share of the increase of pretraining loss is saved …"""
EQUAL_GOLD = 0.03
"""… while gold falls by no more than this."""
CLAIMS = FAILS, TOO_FEW_SEEDS, UNDECIDED, HOLDS = ("fails", "too few seeds", "undecided", "holds")
"""What may be said of it, from worst to best: only if all γ fail, none does save half."""


@dataclass(frozen=True)
class TaxArm:
    """The runs of a task and an algorithm with one γ, by seed, and the runs at γ = 0.

    Attributes:
        task: its name.
        algorithm: its name.
        gamma: γ.
        runs: results by seed.
        bare: the results at γ = 0, by seed.
    """

    task: str
    algorithm: str
    gamma: float
    runs: Mapping[int, Result]
    bare: Mapping[int, Result]

    def gold(self) -> list[float]:
        """Return gold after training, of each seed."""
        return [run["after"]["gold"] for run in self.runs.values()]

    def tax(self, name: str = PTX) -> list[float]:
        """Return the increase of a loss, in nats per token, of each seed."""
        return [_rise(run, name) for run in self.runs.values()]

    def gold_change(self) -> list[float]:
        """Return gold less that of the same seed at γ = 0."""
        return [run["after"]["gold"] - bare["after"]["gold"] for run, bare in self._pairs()]

    def saved(self) -> Estimate | float | None:
        """Return the share of the increase of pretraining loss at γ = 0 that γ saves, a ratio of means over seeds.

        None where that increase is not surely above 0: there is nothing to be saved.
        """
        rises = [(_rise(run, PTX), _rise(bare, PTX)) for run, bare in self._pairs()]
        kept = ratio_of_means(*np.transpose(rises))
        if isinstance(kept, Estimate):
            return Estimate(1 - kept.value, 1 - kept.high, 1 - kept.low)
        return None if kept is None else 1 - kept

    def compared(self) -> bool:
        """Return True if γ is above 0 and there are runs at γ = 0 to compare with."""
        return self.gamma > 0 and bool(self._pairs())

    def claim(self) -> str:
        """Return the verdict on saving at least :data:`SAVED` at equal gold, by the whole intervals."""
        change, saved = over_seeds(self.gold_change()), self.saved()
        if not isinstance(change, Estimate):
            return TOO_FEW_SEEDS
        known = saved if isinstance(saved, Estimate) else Estimate(math.nan, -math.inf, math.inf)
        if known.low >= SAVED and change.low >= -EQUAL_GOLD:
            return HOLDS
        return FAILS if known.high < SAVED or change.high < -EQUAL_GOLD else UNDECIDED

    def _pairs(self) -> list[tuple[Result, Result]]:
        return [(run, self.bare[seed]) for seed, run in self.runs.items() if seed in self.bare]


def _rise(run: Result, name: str) -> float:
    return float(run["after"][name] - run["before"][name])


def tax_arms(results: Results) -> list[TaxArm]:
    """Group results into arms; γ rises within a task and an algorithm, which keep their first order."""
    grouped: dict[tuple[str, str], dict[float, dict[int, Result]]] = {}
    for job, result in results:
        by_gamma = grouped.setdefault((job.task, job.label), {})
        by_gamma.setdefault(float(job.arm[GAMMA]), {})[job.seed] = result
    return [
        TaxArm(*names, gamma, by_gamma[gamma], by_gamma.get(0.0, {}))
        for names, by_gamma in grouped.items()
        for gamma in sorted(by_gamma)
    ]


def alignment_tax_findings(results: Results) -> Findings:
    """Return the claim's verdict, the trade of gold for loss, and where the loss rises."""
    found = tax_arms(results)
    return Findings(_headline(found), (_trade_table(found), _where_table(found)), (_figure(found),))


def _headline(found: Sequence[TaxArm]) -> str:
    groups = dict.fromkeys((arm.task, arm.algorithm) for arm in found)
    return "; ".join(_verdict([arm for arm in found if (arm.task, arm.algorithm) == group]) for group in groups) + "."


def _verdict(group: Sequence[TaxArm]) -> str:
    """Return the verdict on a task and an algorithm, in words."""
    where = f"{group[0].algorithm} on {group[0].task}"
    some = [arm for arm in group if arm.compared()]
    if not some:
        return f"{where}: nothing to compare yet"
    best = max(some, key=_rank)
    saved, gold = best.saved(), with_bounds(over_seeds(best.gold_change()), sign=True)
    if saved is None:
        said = f"the loss does not significantly rise at γ = 0; at γ = {best.gamma:g} gold {gold}"
    else:
        said = f"γ = {best.gamma:g} saves {_percent(saved)} of the rise in pretraining loss, gold {gold}"
    return {
        HOLDS: f"{where}: half of the tax is saved at equal gold: {said}",
        UNDECIDED: f"{where}: undecided whether any γ saves half of the tax at equal gold ({said})",
        TOO_FEW_SEEDS: f"{where}: too few seeds for a verdict ({said})",
        FAILS: f"{where}: no γ saves half of the tax at equal gold (at best {said})",
    }[best.claim()]


def _rank(arm: TaxArm) -> tuple[int, bool, float]:
    """Return a sort key, the better the higher: the claim, then equal gold on the mean, then the share saved."""
    saved = arm.saved()
    value = saved.value if isinstance(saved, Estimate) else -math.inf if saved is None else saved
    return CLAIMS.index(arm.claim()), float(np.mean(arm.gold_change())) >= -EQUAL_GOLD, value


def _percent(share: Estimate | float) -> str:
    if not isinstance(share, Estimate):
        return f"{share:.0%}"
    return f"{share.value:.0%} ({share.low:.0%} … {share.high:.0%})".replace("-", "−")


def _trade_table(found: Sequence[TaxArm]) -> Table:
    columns = ("task", "algorithm", "γ", "seeds", "gold", "gold change", "tax", "tax saved", "others", "KL", "claim")
    rows: list[tuple[Cell, ...]] = [
        (
            arm.task,
            arm.algorithm,
            f"{arm.gamma:g}",
            len(arm.runs),
            over_seeds(arm.gold()),
            over_seeds(arm.gold_change()) if arm.compared() else None,
            over_seeds(arm.tax()),
            ("no significant tax" if (saved := arm.saved()) is None else saved) if arm.compared() else None,
            over_seeds(arm.tax(OTHERS)),
            float(np.mean([run["after"]["kl"] for run in arm.runs.values()])),
            arm.claim() if arm.compared() else None,
        )
        for arm in found
    ]
    note = (
        "tax: increase of the loss on held-out pretraining text, in nats per token; others: the same on the references "
        "of the other mini tasks. Gold change and tax saved are relative to γ = 0 with the same seeds; tax saved is a "
        "ratio of means with Fieller's interval, which exists only where the tax at γ = 0 is significantly above 0. "
        f"Claim: at least {SAVED:.0%} of the tax is saved and gold falls by at most {EQUAL_GOLD}. It holds if both "
        "intervals are within these limits, fails if one is outside, and is undecided otherwise; each γ is judged "
        f"alone. Intervals are over seeds and need at least {FEWEST_SEEDS}."
    )
    return Table("Gold and alignment tax", columns, tuple(rows), note)


def _where_table(found: Sequence[TaxArm]) -> Table:
    """Return the increase of the loss on each other task."""
    names = sorted({name for arm in found for run in arm.runs.values() for name in run["after"]})
    languages = [name for name in names if name.startswith(OF_TASK) and name != OTHERS]
    rows: list[tuple[Cell, ...]] = []
    for arm in found:
        measured = next(iter(arm.runs.values()))["after"]
        rises = (float(np.mean(arm.tax(name))) if name in measured else None for name in languages)
        rows.append((arm.task, arm.algorithm, f"{arm.gamma:g}", *rises))
    columns = ("task", "algorithm", "γ", *(name.removeprefix(OF_TASK) for name in languages))
    note = "Increase of the loss on the references of each other task, in nats per token; means over seeds."
    return Table("Forgetting by task", columns, tuple(rows), note)


def _figure(found: Sequence[TaxArm]) -> Figure:
    several = len({arm.algorithm for arm in found}) > 1
    series: dict[str, list[TaxArm]] = {}
    for arm in found:
        series.setdefault(f"{arm.task}, {arm.algorithm}" if several else arm.task, []).append(arm)
    drawn = {name: _line(group) for name, group in series.items()}
    gammas = ", ".join(f"{gamma:g}" for gamma in sorted({arm.gamma for arm in found}))
    caption = (
        f"Each point is one γ, and γ rises from right to left: {gammas}. The upper left is best: much gold, little "
        "forgetting. Bands are 95 % intervals over seeds."
    )
    svg = line_plot(drawn, "increase of pretraining loss, nats per token", "gold")
    return Figure("Gold over the alignment tax", svg, caption)


def _line(group: Sequence[TaxArm]) -> PlotLine:
    """Return a point for each γ: the tax across, gold up, with intervals if every γ has one."""
    taxes = [float(np.mean(arm.tax())) for arm in group]
    means = [float(np.mean(arm.gold())) for arm in group]
    bands = [one for one in (over_seeds(arm.gold()) for arm in group) if isinstance(one, Estimate)]
    if len(bands) < len(group):
        return PlotLine(taxes, means)
    return PlotLine(taxes, means, [one.low for one in bands], [one.high for one in bands])
