"""Train PPO on the mini tasks with turns: the table of docs/benchmark.md.

Usage: python scripts/turns_gold.py [SEEDS]

Waiter learns with guests of the first simulator, and is measured with guests of both; Calculator is learned once with
the tool and once without it. Gold is that of the same test prompts for all seeds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textgym.agents import PPO, evaluate
from textgym.env.vector import TokenVectorEnv
from textgym.intervals import SampleMean
from textgym.registration import load_task, task_mdp
from textgym.reports.formatting import number

EVALUATED, SLOTS = 512, 128
SETTINGS = {"learning_rate": 1e-3, "beta": 0.02, "target_kl": 0.02}


@dataclass(frozen=True)
class Arm:
    """A task to learn, and the variants of it that are measured.

    Attributes:
        task: its name.
        tokens: the budget.
        parameters: of the task that is learned.
        variants: title -> parameters of a task that is measured.
    """

    task: str
    tokens: int
    variants: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)


ARMS = (
    Arm(
        "Waiter",
        100_000,
        {"Waiter, first simulator": {}, "Waiter, second simulator": {"simulator": "second"}},
    ),
    Arm("Calculator", 30_000, {"Calculator": {}}),
    Arm("Calculator", 30_000, {"Calculator, without the tool": {"tool": False}}, {"tool": False}),
)


def run(arm: Arm, seed: int) -> dict[str, tuple[float, float, float]]:
    """Train once; return gold before and after, and KL after in nats a response, by title."""
    mdp = task_mdp(load_task(arm.task, **arm.parameters))
    env = TokenVectorEnv(mdp, SLOTS, AutoresetMode.DISABLED)
    algorithm = PPO("LMPolicy", env, seed=seed, **SETTINGS)

    def measured() -> dict[str, dict[str, float]]:
        tests = {title: task_mdp(load_task(arm.task, **own), split="test") for title, own in arm.variants.items()}
        reports = {
            title: evaluate(algorithm.policy, algorithm.reference_trunk, test, EVALUATED, seed=0).summary()
            for title, test in tests.items()
        }
        return {title: {name: value["mean"] for name, value in report.items()} for title, report in reports.items()}

    before = measured()
    algorithm.learn(arm.tokens, log_interval=0)
    after = measured()
    return {title: (before[title]["score"], after[title]["score"], after[title]["kl"]) for title in before}


def interval(values: list[float]) -> str:
    """Return a mean over seeds with Student's 95 % interval."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    mean = SampleMean(float(np.mean(values)), error, len(values))
    return number(mean.mean, 3) if mean.half is None else f"{number(mean.mean, 3)} ± {number(mean.half, 3)}"


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    print("| measured | base | PPO | KL, nats | CPU s a run |\n| --- | ---: | ---: | ---: | ---: |")
    for arm in ARMS:
        started = time.process_time()
        runs = [run(arm, seed) for seed in range(seeds)]
        spent = (time.process_time() - started) / seeds
        for title in arm.variants:
            before, after, kl = (list(values) for values in zip(*(one[title] for one in runs), strict=True))
            # The base model says the same in every run.
            cells = (title, number(before[0], 3), interval(after), number(float(np.mean(kl)), 1), f"{spent:.0f}")
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
