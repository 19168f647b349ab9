"""What the runs say: how much of the alignment tax each weight of pretraining text saves, and what it costs in gold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textgym.agents.forgetting import OF_TASK, OTHERS, PTX
from textgym.benchmarks.alignment_tax.task import GAMMA
from textgym.benchmarks.experiment import Cell, Estimate, Figure, Findings, Result, Results, Table
from textgym.benchmarks.figures import Line, lines
from textgym.benchmarks.statistics import FEWEST_SEEDS
from textgym.benchmarks.suite import over_seeds

SAVED = 0.5
"""The claim: at least this share of the increase of pretraining loss is saved …"""
EQUAL_GOLD = 0.03
"""… while gold falls by no more than this."""


@dataclass(frozen=True)
class Arm:
    """The runs of a task and an algorithm with one γ, by seed; and those without pretraining text.

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
        """Gold after training, of each seed."""
        return [run["after"]["gold"] for run in self.runs.values()]

    def tax(self, name: str = PTX) -> list[float]:
        """Increase of a loss, in nats per token, of each seed."""
        return [_rise(run, name) for run in self.runs.values()]

    def gold_change(self) -> list[float]:
        """Gold less that of the same seed at γ = 0."""
        return [run["after"]["gold"] - bare["after"]["gold"] for run, bare in self._pairs()]

    def saved(self) -> list[float]:
        """The share of the increase of pretraining loss at γ = 0 that γ saves, of each seed whose loss rises there."""
        return [1 - _rise(run, PTX) / _rise(bare, PTX) for run, bare in self._pairs() if _rise(bare, PTX) > 0]

    def compared(self) -> bool:
        """Whether there are runs without pretraining text beside those with it."""
        return self.gamma > 0 and bool(self.saved())

    def equal_gold(self) -> bool:
        """Whether gold is as high as without pretraining text, on the mean over seeds."""
        return float(np.mean(self.gold_change())) >= -EQUAL_GOLD

    def holds(self) -> bool:
        """Whether the claim does, on the mean over seeds."""
        return float(np.mean(self.saved())) >= SAVED and self.equal_gold()

    def _pairs(self) -> list[tuple[Result, Result]]:
        return [(run, self.bare[seed]) for seed, run in self.runs.items() if seed in self.bare]


def _rise(run: Result, name: str) -> float:
    return float(run["after"][name] - run["before"][name])


def arms(results: Results) -> list[Arm]:
    """Results grouped; γ rises within a task and an algorithm, which keep their first order."""
    grouped: dict[tuple[str, str], dict[float, dict[int, Result]]] = {}
    for job, result in results:
        by_gamma = grouped.setdefault((job.task, job.algorithm), {})
        by_gamma.setdefault(float(job.arm[GAMMA]), {})[job.seed] = result
    return [
        Arm(*names, gamma, by_gamma[gamma], by_gamma.get(0.0, {}))
        for names, by_gamma in grouped.items()
        for gamma in sorted(by_gamma)
    ]


def findings(results: Results) -> Findings:
    """The claim's verdict, the trade of gold for loss, and where the loss rises."""
    found = arms(results)
    return Findings(_headline(found), (_trade_table(found), _where_table(found)), (_figure(found),))


def _headline(found: Sequence[Arm]) -> str:
    groups = dict.fromkeys((arm.task, arm.algorithm) for arm in found)
    return "; ".join(_verdict([arm for arm in found if (arm.task, arm.algorithm) == group]) for group in groups) + "."


def _verdict(group: Sequence[Arm]) -> str:
    """What is to be said of a task and an algorithm."""
    where = f"{group[0].algorithm} on {group[0].task}"
    some = [arm for arm in group if arm.compared()]
    if not some:
        return f"{where}: nothing to compare yet"
    best = max(some, key=lambda arm: (arm.holds(), arm.equal_gold(), float(np.mean(arm.saved()))))
    said = (
        f"γ = {best.gamma:g} saves {np.mean(best.saved()):.0%} of the rise in pretraining loss, "
        f"gold {np.mean(best.gold_change()):+.3f}"
    )
    return f"{where}: {said}" if best.holds() else f"{where}: no γ saves half of the tax at equal gold (at best {said})"


def _trade_table(found: Sequence[Arm]) -> Table:
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
            over_seeds(arm.saved()) if arm.compared() else None,
            over_seeds(arm.tax(OTHERS)),
            float(np.mean([run["after"]["kl"] for run in arm.runs.values()])),
            ("holds" if arm.holds() else "fails") if arm.compared() else None,
        )
        for arm in found
    ]
    note = (
        "tax: increase of the loss on held-out pretraining text, in nats per token; others: that on the references of "
        "the other mini tasks. Gold change and the share of the tax that is saved are against γ = 0 with the same "
        f"seed. The claim: at least {SAVED:.0%} is saved and gold falls by at most {EQUAL_GOLD}, both on the mean. "
        f"Intervals are over seeds; fewer than {FEWEST_SEEDS} have none."
    )
    return Table("Gold against forgetting", columns, tuple(rows), note)


def _where_table(found: Sequence[Arm]) -> Table:
    """The increase of the loss on each other task; a task is no other one to itself."""
    names = sorted({name for arm in found for run in arm.runs.values() for name in run["after"]})
    languages = [name for name in names if name.startswith(OF_TASK) and name != OTHERS]
    rows: list[tuple[Cell, ...]] = []
    for arm in found:
        measured = next(iter(arm.runs.values()))["after"]
        rises = (float(np.mean(arm.tax(name))) if name in measured else None for name in languages)
        rows.append((arm.task, arm.algorithm, f"{arm.gamma:g}", *rises))
    columns = ("task", "algorithm", "γ", *(name.removeprefix(OF_TASK) for name in languages))
    note = "Increase of the loss on each other task's references, in nats per token, on the mean over seeds."
    return Table("Where it is forgotten", columns, tuple(rows), note)


def _figure(found: Sequence[Arm]) -> Figure:
    several = len({arm.algorithm for arm in found}) > 1
    series: dict[str, list[Arm]] = {}
    for arm in found:
        series.setdefault(f"{arm.task}, {arm.algorithm}" if several else arm.task, []).append(arm)
    drawn = {name: _line(group) for name, group in series.items()}
    gammas = ", ".join(f"{gamma:g}" for gamma in sorted({arm.gamma for arm in found}))
    caption = (
        f"Each point is one γ, and γ rises from right to left: {gammas}. The best corner is the upper left: much gold, "
        "little forgotten. Bands are intervals over seeds."
    )
    svg = lines(drawn, "increase of pretraining loss, nats per token", "gold")
    return Figure("Gold against the alignment tax", svg, caption)


def _line(group: Sequence[Arm]) -> Line:
    """γ by γ: the tax across, gold up, with its interval where every γ has one."""
    taxes = [float(np.mean(arm.tax())) for arm in group]
    means = [float(np.mean(arm.gold())) for arm in group]
    bands = [one for one in (over_seeds(arm.gold()) for arm in group) if isinstance(one, Estimate)]
    if len(bands) < len(group):
        return Line(taxes, means)
    return Line(taxes, means, [one.low for one in bands], [one.high for one in bands])
