"""From results to findings: gold at the end, single against ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textgym.benchmarks.ensembles.task import SINGLE
from textgym.benchmarks.experiment import Cell, Figure, Findings, Result, Results, Table
from textgym.benchmarks.figures import lines
from textgym.benchmarks.seed_curves import in_blocks, mean_line, root_kl, surely_above
from textgym.benchmarks.suite import over_seeds
from textgym.types import FloatArray


@dataclass(frozen=True)
class Arm:
    """The runs of one way to combine.

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

    def after(self, name: str) -> list[float]:
        """What the trained policies earned, one number for each seed."""
        return [run["after"][name] for run in self.runs.values()]


def findings(results: Results) -> Findings:
    """What results of any part of the sweep say."""
    if not results:
        return Findings("No run has been done yet.")
    arms = group(results)
    return Findings(headline(arms), (table(arms),), tuple(figures(arms)))


def group(results: Results) -> list[Arm]:
    """Results by all but their seeds; the single model comes first."""
    runs: dict[tuple[str, str, str], dict[int, Result]] = {}
    for job, result in results:
        runs.setdefault((job.task, job.algorithm, job.arm["combine"]), {})[job.seed] = result
    order = sorted(runs.items(), key=lambda item: (*item[0][:2], item[0][2] != SINGLE))
    several = len({key[:2] for key in runs}) > 1
    return [
        Arm(task, algorithm, combine, own, f"{combine} ({algorithm} on {task})" if several else combine)
        for (task, algorithm, combine), own in order
    ]


def table(arms: Sequence[Arm]) -> Table:
    """Gold at the end of RL, and by how much each ensemble betters the single model."""
    rows: list[tuple[Cell, ...]] = [
        (
            arm.name,
            arm.algorithm,
            over_seeds([run["agreement"] for run in arm.runs.values()]),
            float(np.mean([run["gold"] for run in arm.runs.values()])),
            over_seeds(arm.after("gold")),
            _better(arm, arms),
            float(np.mean(arm.after("proxy"))),
            float(np.mean(arm.after("kl"))),
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
            "less that of the single one",
            "proxy after",
            "KL after, nats",
            "seeds",
        ),
        tuple(rows),
        "Held-out prompts. The difference is taken seed by seed: a seed's single model is the first member of its "
        "ensembles, and all learned the same labels. Agreement is the share of pairs of the base model's responses, "
        "unequal in gold, that a proxy orders as gold does.",
    )


def _better(arm: Arm, arms: Sequence[Arm]) -> Cell:
    gains = _gains(arm, arms)
    return over_seeds(gains) if gains and arm.combine != SINGLE else None


def _gains(arm: Arm, arms: Sequence[Arm]) -> list[float]:
    """Gold less that of the single model, of the seeds that both have."""
    where = (arm.task, arm.algorithm, SINGLE)
    single = {seed: run for a in arms if (a.task, a.algorithm, a.combine) == where for seed, run in a.runs.items()}
    return [run["after"]["gold"] - single[seed]["after"]["gold"] for seed, run in arm.runs.items() if seed in single]


def figures(arms: Sequence[Arm]) -> list[Figure]:
    """Gold and proxy against √KL, while RL goes on."""

    def column(arm: Arm, name: str) -> FloatArray:
        return in_blocks([[float(point[name]) for point in run["rl"]] for run in arm.runs.values()])

    return [
        Figure(
            title,
            lines(
                {arm.name: mean_line(root_kl(column(arm, "kl")), column(arm, name)) for arm in arms},
                "√KL to the base model, √nats",
                label,
            ),
        )
        for title, name, label in (
            ("Gold while RL optimises each proxy", "gold", "gold reward"),
            ("What each proxy says meanwhile", "proxy", "proxy, standard deviations"),
        )
    ]


def headline(arms: Sequence[Arm]) -> str:
    """The best of the ensembles against the single model."""
    gains = {arm.name: gained for arm in arms if arm.combine != SINGLE and (gained := _gains(arm, arms))}
    if not gains:
        return "There is no seed yet that has both an ensemble and a single reward model."
    best = max(gains, key=lambda name: float(np.mean(gains[name])))
    sure = [name for name, gained in gains.items() if surely_above(gained)]
    verdict = f"surely better at 95 %: {', '.join(sure)}" if sure else "no ensemble is surely better at 95 %"
    return (
        f"At the end of RL, gold under the {best} of an ensemble is {np.mean(gains[best]):+.3f} from that under a "
        f"single reward model; {verdict}."
    )
