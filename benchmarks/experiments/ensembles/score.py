"""Gold at the end of RL, under ensembles and under a single reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textgym.benchmarks.analysis.seeds import (
    block_means,
    by_kl,
    mean_line,
    paired,
    root_kl,
    surely_positive,
    with_bounds,
)
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.experiments.ensembles.task import SINGLE
from textgym.benchmarks.runner.experiment import Result, Results
from textgym.reports.charts.suites import line_plot
from textgym.reports.findings import Cell, Figure, Findings, Table
from textgym.types import FloatArray


@dataclass(frozen=True)
class EnsembleArm:
    """The runs of one way to combine reward models.

    Attributes:
        task: its name.
        algorithm: its name.
        combine: the way, or :data:`SINGLE`.
        runs: results by seed.
        name: ``combine``, with algorithm and task where there are several of either.
    """

    task: str
    algorithm: str
    combine: str
    runs: dict[int, Result]
    name: str

    def after(self, name: str) -> dict[int, float]:
        """Return a measure of the trained policies, one number per seed."""
        return {seed: run["after"][name] for seed, run in self.runs.items()}

    def ways(self) -> dict[int, tuple[FloatArray, FloatArray]]:
        """Return KL and gold in the course of RL, of each seed."""
        return {
            seed: by_kl(*([point[name] for point in run["rl"]] for name in ("kl", "gold")))
            for seed, run in self.runs.items()
        }

    def at(self, kl: float) -> dict[int, float]:
        """Return gold in the course of RL at a KL, of each seed."""
        return {seed: float(np.interp(kl, *way)) for seed, way in self.ways().items()}


@dataclass(frozen=True)
class Gain:
    """The improvement of an ensemble over the single model, one number for each seed that both have.

    Attributes:
        arm: the ensemble's.
        single: the single model's.
        kl: the largest that all runs of their task and algorithm reach, in nats.
        end: in gold after RL.
        same: in gold at ``kl``.
    """

    arm: EnsembleArm
    single: EnsembleArm
    kl: float
    end: list[float]
    same: list[float]


def ensembles_findings(results: Results) -> Findings:
    """Return the findings about any part of the sweep."""
    if not results:
        return Findings("No run has been done yet.")
    arms = ensemble_arms(results)
    return Findings(ensembles_headline(arms), (gold_at_the_end_table(arms),), tuple(figures(arms)))


def ensemble_arms(results: Results) -> list[EnsembleArm]:
    """Group results by all but their seeds; the single model comes first."""
    runs: dict[tuple[str, str, str], dict[int, Result]] = {}
    for job, result in results:
        runs.setdefault((job.task, job.label, job.arm["combine"]), {})[job.seed] = result
    order = sorted(runs.items(), key=lambda item: (*item[0][:2], item[0][2] != SINGLE))
    several = len({key[:2] for key in runs}) > 1
    return [
        EnsembleArm(task, algorithm, combine, own, f"{combine} ({algorithm} on {task})" if several else combine)
        for (task, algorithm, combine), own in order
    ]


def gold_at_the_end_table(arms: Sequence[EnsembleArm]) -> Table:
    """Return gold at the end of RL, and the improvement of each ensemble over the single model."""
    found = gains(arms)
    rows: list[tuple[Cell, ...]] = [
        (
            arm.name,
            arm.algorithm,
            over_seeds([run["agreement"] for run in arm.runs.values()]),
            float(np.mean([run["gold"] for run in arm.runs.values()])),
            over_seeds(list(arm.after("gold").values())),
            over_seeds(found[arm.name].end) if arm.name in found else None,
            float(np.mean(list(arm.after("proxy").values()))),
            float(np.mean(list(arm.after("kl").values()))),
            (kl := reached(arm, arms)),
            over_seeds(list(arm.at(kl).values())),
            over_seeds(found[arm.name].same) if arm.name in found else None,
            len(arm.runs),
        )
        for arm in arms
    ]
    return Table(
        "Gold at the end of RL, at equal budgets",
        (
            "proxy",
            "algorithm",
            "agrees with gold",
            "gold before",
            "gold after",
            "gain over single",
            "proxy after",
            "KL after, nats",
            "common KL",
            "gold at common KL",
            "gain at common KL",
            "seeds",
        ),
        tuple(rows),
        "On held-out prompts. Gains are paired by seed: the single model of a seed is the first member of its "
        "ensembles, and all learned the same labels. Common KL: the largest KL that all runs reach; gold there is "
        "measured on RL's own prompts. Intervals are for each gain alone; the headline's significance is corrected for "
        "the number of ensembles. Agreement: share of pairs of the base model's responses, unequal in gold, that the "
        "proxy orders as gold does.",
    )


def reached(arm: EnsembleArm, arms: Sequence[EnsembleArm]) -> float:
    """Return the largest KL that all runs of the arm's task and algorithm reach.

    Members' mean or least score varies less than a single one's, so that the same β lets RL go less far from the base
    model. Where it is hacked less, that may be the reason.
    """
    # Arms of other tasks or algorithms reach other KLs, and are not compared.
    alike = [other for other in arms if (other.task, other.algorithm) == (arm.task, arm.algorithm)]
    return min(float(kl[-1]) for other in alike for kl, _ in other.ways().values())


def gains(arms: Sequence[EnsembleArm]) -> dict[str, Gain]:
    """Return the ensembles that share a seed with a single model, by their names."""
    single = {(arm.task, arm.algorithm): arm for arm in arms if arm.combine == SINGLE}
    found = {}
    for arm in arms:
        base = single.get((arm.task, arm.algorithm))
        if base is None or arm.combine == SINGLE or not arm.runs.keys() & base.runs.keys():
            continue
        kl = reached(arm, arms)
        end, same = paired(arm.after("gold"), base.after("gold")), paired(arm.at(kl), base.at(kl))
        found[arm.name] = Gain(arm, base, kl, end, same)
    return found


def figures(arms: Sequence[EnsembleArm]) -> list[Figure]:
    """Draw gold and proxy over √KL in the course of RL."""

    def column(arm: EnsembleArm, name: str) -> FloatArray:
        return block_means([[float(point[name]) for point in run["rl"]] for run in arm.runs.values()])

    return [
        Figure(
            title,
            line_plot(
                {arm.name: mean_line(root_kl(column(arm, "kl")), column(arm, name)) for arm in arms},
                "√KL to the base model, √nats",
                label,
            ),
        )
        for title, name, label in (
            ("Gold during RL", "gold", "gold reward"),
            ("Proxy score during RL", "proxy", "proxy, standard deviations"),
        )
    ]


def ensembles_headline(arms: Sequence[EnsembleArm]) -> str:
    """Return the best ensemble against the single model, at the end and at equal KL, and the significant ones."""
    found = gains(arms)
    if not found:
        return "No seed has both an ensemble and a single reward model yet."
    best = max(found, key=lambda name: float(np.mean(found[name].end)))
    gain = found[best]
    own, base = (float(np.mean(list(arm.after("kl").values()))) for arm in (gain.arm, gain.single))
    end, same = (with_bounds(over_seeds(values), sign=True) for values in (gain.end, gain.same))
    sure_end, sure_same = (
        ", ".join(surely_positive(values)) or "none"
        for values in ({name: one.end for name, one in found.items()}, {name: one.same for name, one in found.items()})
    )
    return (
        f"At the end of RL, gold under the {best} of an ensemble differs by {end} from gold under a single reward "
        f"model, with a KL of {own:.1f} and {base:.1f} nats; at a common KL of {gain.kl:.1f} nats it differs by "
        f"{same}. Significantly better, with Holm's correction for {len(found)} ensemble{'s' * (len(found) > 1)}: "
        f"{sure_end} at the end, {sure_same} at equal KL."
    )
