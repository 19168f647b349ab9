"""Runs: one task, one seed; and many of them side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch
from gymnasium.vector import AutoresetMode
from tqdm import tqdm

from textgym.agents.names import find_algorithm
from textgym.benchmarks.diagnostic.settings import Settings
from textgym.benchmarks.optimum.exact import optimum
from textgym.registration import load_task, task_mdp
from textgym.vector import TokenVectorEnv

SLOTS = 128


@dataclass(frozen=True)
class Run:
    """What one run reached.

    Attributes:
        task: its name.
        seed: of everything random in training; the task itself is the same for all.
        beta: β.
        optimum: J*.
        reference: J(π_ref).
        objective: J(π) of the trained policy, by enumeration.
        score: (J(π) − J(π_ref)) / (J* − J(π_ref)).
        cpu_seconds: for optimum, training and scoring.
    """

    task: str
    seed: int
    beta: float
    optimum: float
    reference: float
    objective: float
    score: float
    cpu_seconds: float


def run(job: tuple[str, int], settings: Settings) -> Run:
    """Trains on a task with a seed, and measures the distance to the optimum.

    Raises:
        ValueError: the task has no β, so no known optimum.
    """
    name, seed = job
    torch.set_num_threads(1)  # several threads on small arrays only wait for one another
    started = time.process_time()
    task = load_task(name)
    if task.beta is None:
        raise ValueError(f"task={name!r} has no beta, so it is not scored; expected a diagnostic task")
    mdp = task_mdp(task)
    best = optimum(mdp, task.beta)
    slots = min(SLOTS, settings.episodes_per_iteration)
    env = TokenVectorEnv(mdp, slots, AutoresetMode.DISABLED)
    algorithm = find_algorithm(settings.algorithm)("LMPolicy", env, kl=task.beta, seed=seed, **settings.arguments())
    algorithm.learn(settings.episodes * mdp.max_new_tokens, log_interval=0)
    reached = best.evaluate(algorithm.policy)
    spent = time.process_time() - started
    return Run(
        task.name, seed, task.beta, best.value, best.reference.objective, reached.objective, reached.score, spent
    )


def run_all(tasks: Sequence[str], n_seeds: int, settings: Settings, jobs: int) -> list[Run]:
    """Every task with every seed, ``jobs`` at once, each in a process of its own kind with one thread."""
    grid = [(task, seed) for task in tasks for seed in range(n_seeds)]
    work = partial(run, settings=settings)
    if jobs == 1:
        return [work(job) for job in tqdm(grid, desc="runs", disable=None)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(tqdm(pool.map(work, grid), total=len(grid), desc="runs", disable=None))
