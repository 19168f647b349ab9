"""One run: an algorithm, a task, a seed."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from gymnasium.vector import AutoresetMode

from textgym.agents.evaluation import evaluate
from textgym.agents.names import find_algorithm
from textgym.benchmarks.diagnostic import runs as diagnostic
from textgym.benchmarks.diagnostic.settings import Settings
from textgym.registration import load_task, task_mdp
from textgym.vector import TokenVectorEnv

LEARNING_RATE = 1e-3
BETA = 0.05
SLOTS = 128
EVALUATED = 512  # responses, to validation prompts; the same ones for all runs


@dataclass(frozen=True)
class Job:
    """What tells a run from others.

    Attributes:
        task: its name: a diagnostic task is scored by its optimum, another one by its gold reward.
        algorithm: its name.
        seed: of everything random in training.
        tokens: the budget; for a diagnostic task that of ``benchmarks.diagnostic``, and 0 here.
        settings: of the algorithm, where they are not its own defaults.
        fixed: everything else that the numbers depend on, so that no file mixes runs of different defaults.
    """

    task: str
    algorithm: str
    seed: int
    tokens: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)


def diagnostic_job(task: str, algorithm: str, seed: int, **settings: Any) -> Job:
    """A run on a diagnostic task, with the settings of ``benchmarks.diagnostic``."""
    used = Settings(algorithm=algorithm, **settings)
    own = find_algorithm(algorithm).settings_class(**_without_rate(used.arguments()))
    return Job(task, algorithm, seed, 0, settings, {**asdict(used), **asdict(own)})


def gold_job(task: str, algorithm: str, seed: int, tokens: int, **settings: Any) -> Job:
    """A run for a task's gold reward."""
    own = find_algorithm(algorithm).settings_class(**settings)
    fixed = {"learning_rate": LEARNING_RATE, "beta": BETA, "slots": SLOTS, "evaluated": EVALUATED, **asdict(own)}
    return Job(task, algorithm, seed, tokens, settings, fixed)


def _without_rate(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "learning_rate"}


def run(job: Job) -> dict[str, Any]:
    """Trains and measures."""
    return _gold_run(job) if job.tokens else _diagnostic_run(job)


def _diagnostic_run(job: Job) -> dict[str, Any]:
    return asdict(diagnostic.run((job.task, job.seed), Settings(algorithm=job.algorithm, **job.settings)))


def _gold_run(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)  # several threads on small arrays only wait for one another
    task = load_task(job.task)
    reward = ["gold", *((name, 0.0) for name in task.metrics)]
    training, held_out = (task_mdp(task, reward, split) for split in ("train", "validation"))
    env = TokenVectorEnv(training, SLOTS, AutoresetMode.DISABLED)
    algorithm = find_algorithm(job.algorithm)("LMPolicy", env, LEARNING_RATE, kl=BETA, seed=job.seed, **job.settings)
    reference = algorithm.reference_trunk
    before = evaluate(algorithm.policy, reference, held_out, EVALUATED, seed=0).summary()
    started = time.process_time()
    algorithm.learn(job.tokens, log_interval=0)
    spent = time.process_time() - started
    after = evaluate(algorithm.policy, reference, held_out, EVALUATED, seed=0).summary()
    return {
        "before": {name: value["mean"] for name, value in before.items()},
        "after": {name: value["mean"] for name, value in after.items()},
        "tokens": algorithm.num_timesteps,
        "cpu_seconds": spent,
    }
