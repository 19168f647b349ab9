"""The experiments by name; each is imported when it is asked for."""

from __future__ import annotations

import importlib

from textgym.benchmarks.runner.experiment import Experiment
from textgym.names import suggest

EXPERIMENTS: tuple[str, ...] = (
    "diagnostic",
    "mini",
    "references",
    "nlpo_mask",
    "kl_frontier",
    "reward_noise",
    "alignment_tax",
    "overoptimization",
    "ensembles",
    "distillation",
)
"""Each is a folder beside this file, which defines ``EXPERIMENT``."""


def find_experiment(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    if name == "throughput":
        raise ValueError(
            "experiment='throughput' has no seeds and no results file; run 'python -m textgym.benchmarks.throughput'"
        )
    if name not in EXPERIMENTS:
        hint = suggest(name, EXPERIMENTS, after=" ")
        raise ValueError(f"experiment={name!r} is unknown; {hint}Known: {', '.join(EXPERIMENTS)}")
    found: Experiment = importlib.import_module(f"{__name__}.{name}").EXPERIMENT
    return found
