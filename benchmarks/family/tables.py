"""From results to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from textgym.benchmarks.diagnostic.score import interval
from textgym.benchmarks.family.runs import Job
from textgym.benchmarks.grid import Result

Results = Sequence[tuple[Job, Result]]


def diagnostic_table(results: Results) -> str:
    """Mean normalised score of each algorithm (rows) on each task (columns), and over all tasks with its interval."""
    rng = np.random.default_rng(0)
    tasks = list(dict.fromkeys(job.task for job, _ in results))
    lines = [_row("algorithm", *tasks, "mean", "95 % interval", "CPU s"), _row("---", *["---:"] * (len(tasks) + 3))]
    for name, group in _by_label(results).items():
        scores = np.array([[r["score"] for job, r in group if job.task == task] for task in tasks])
        # A seed is a draw of the whole suite, so the interval is over seeds.
        low, high = interval(list(scores.mean(0)), rng)
        cells = [f"{score:.2f}" for score in scores.mean(1)]
        seconds = sum(r["cpu_seconds"] for _, r in group)
        lines.append(_row(name, *cells, f"{scores.mean():.3f}", f"{low:.3f} … {high:.3f}", f"{seconds:.0f}"))
    return "\n".join(lines) + "\n"


def gold_table(results: Results) -> str:
    """Gold before and after with the gain's interval over seeds, naturalness, KL and length."""
    rng = np.random.default_rng(0)
    first = results[0][1]["after"]
    metrics = [name for name in first if name not in ("score", "gold", "kl", "length")]
    lines = [
        _row("algorithm", "gold before", "gold after", "gain", "95 % interval", *metrics, "KL", "length", "CPU s"),
        _row("---", *["---:"] * (len(metrics) + 7)),
    ]
    for name, group in _by_label(results).items():
        mean = {
            stage: {key: float(np.mean([r[stage][key] for _, r in group])) for key in first}
            for stage in ("before", "after")
        }
        gains = [r["after"]["gold"] - r["before"]["gold"] for _, r in group]
        low, high = interval(gains, rng)
        after = mean["after"]
        lines.append(
            _row(
                name,
                f"{mean['before']['gold']:.3f}",
                f"{after['gold']:.3f}",
                f"{np.mean(gains):+.3f}",
                f"{low:+.3f} … {high:+.3f}",
                *(f"{after[metric]:.3f}" for metric in metrics),
                f"{after['kl']:.2f}",
                f"{after['length']:.1f}",
                f"{np.mean([r['cpu_seconds'] for _, r in group]):.0f}",
            )
        )
    return "\n".join(lines) + "\n"


def _by_label(results: Results) -> Mapping[str, list[tuple[Job, Result]]]:
    """Results grouped by algorithm and settings, in their first order."""
    labels = [_label(job) for job, _ in results]
    return {
        label: [result for known, result in zip(labels, results, strict=True) if known == label]
        for label in dict.fromkeys(labels)
    }


def _label(job: Job) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in job.settings.items())
    return f"{job.algorithm} ({settings})" if settings else job.algorithm


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
