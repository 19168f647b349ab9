"""From runs to the table of normalised scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from textgym.benchmarks.diagnostic.runs import Run

PASS = 0.95
RESAMPLES = 2000


def interval(values: Sequence[float], rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean over seeds."""
    array = np.asarray(values, np.float64)
    means = rng.choice(array, (RESAMPLES, len(array))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def by_task(runs: Sequence[Run]) -> Mapping[str, list[Run]]:
    """Runs grouped, tasks in their first order."""
    return {name: [run for run in runs if run.task == name] for name in dict.fromkeys(run.task for run in runs)}


def score_table(runs: Sequence[Run]) -> str:
    """One line a task, as Markdown, and how many tasks passed."""
    rng = np.random.default_rng(0)
    lines = [
        "| task | score | 95 % interval | worst seed | CPU s | β | J(π_ref) | J(π) | J* |",
        "| --- | ---: | :---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    passed = 0
    for name, group in by_task(runs).items():
        scores = [run.score for run in group]
        low, high = interval(scores, rng)
        passed += float(np.mean(scores)) >= PASS
        objective, seconds = (float(np.mean([getattr(r, f) for r in group])) for f in ("objective", "cpu_seconds"))
        first = group[0]
        lines.append(
            f"| {name} | {np.mean(scores):.3f} | {low:.3f} … {high:.3f} | {min(scores):.3f} | {seconds:.1f} "
            f"| {first.beta:g} | {first.reference:.4f} | {objective:.4f} | {first.optimum:.4f} |"
        )
    total = sum(run.cpu_seconds for run in runs)
    lines.append(
        f"\n{passed} of {len(by_task(runs))} tasks reach a mean score of {PASS} "
        f"({len(runs)} runs, {total:.0f} CPU-seconds together, the longest {max(r.cpu_seconds for r in runs):.1f})."
    )
    return "\n".join(lines)
