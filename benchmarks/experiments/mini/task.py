"""One run: an algorithm learns a task's gold reward from its base model, and is measured on held-out prompts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import Report, evaluate
from textgym.agents.loop.metrics import GOLD
from textgym.benchmarks.entries import TrainingJob, find_entry
from textgym.benchmarks.experiments.mini.objective import objective_error
from textgym.benchmarks.instances import load_instance
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.trunk import Trunk
from textgym.registration import load_task, task_mdp

OF_TUNING = ("trial", "trials")
"""Names that say how a run's settings were found."""


@dataclass(frozen=True)
class MiniSettings:
    """Settings of a run that are not the algorithm's.

    Attributes:
        tokens: the budget; 0 for imitation of a given number of references.
        learning_rate: at first.
        beta: β.
        slots: responses that are written at once.
        evaluated: responses to held-out prompts.
        drawn: True to draw the task's instance by the seed of the run.
    """

    learning_rate: float
    beta: float
    slots: int
    evaluated: int
    tokens: int = 0
    drawn: bool = False


def run_mini(job: Job) -> Result:
    """Train, and measure base model and policy on the same prompts with the same random numbers.

    ``before`` and ``after`` hold means of gold, the task's metrics, KL (nats a response), length (tokens) and the share
    of distinct texts; ``errors`` the standard errors of ``after``, and of the score; ``curve`` the mean gold reward of
    the responses that were sampled.
    """
    limit_process()
    settings, own = read_job(job)
    task = load_instance(job.task, job.seed) if settings.drawn else load_task(job.task)
    reward = [GOLD, *((name, 0.0) for name in task.metrics)]  # weight 0: measured, but not paid
    split = "test" if settings.drawn else "validation"
    training, held_out = (task_mdp(task, reward, which) for which in ("train", split))
    budget = settings.tokens, settings.learning_rate, settings.beta
    training_job = TrainingJob(task, training, *budget, job.seed, settings.slots, own)
    base = load_causal_lm(training_job.base_model)
    reference = Trunk(base)
    before = evaluate(acting_policy(base, held_out), reference, held_out, settings.evaluated, seed=0)
    started = time.process_time()
    trained = find_entry(job.algorithm).train(training_job)
    spent = time.process_time() - started
    after = evaluate(trained.policy, reference, held_out, settings.evaluated, seed=0)
    base_gold, gold = (np.asarray(one.episodes.components[GOLD], np.float64) for one in (before, after))
    score_error = objective_error(base_gold, gold, after.kl.sum(1), settings.beta)
    return {
        "before": means(before),
        "after": means(after),
        "errors": {**{name: value["sem"] for name, value in after.summary().items()}, "score": score_error},
        "tokens": trained.tokens,
        "updates": trained.updates,
        "scored": trained.scored,
        "curve": trained.curve,
        "cpu_seconds": spent,
    }


def read_job(job: Job) -> tuple[MiniSettings, dict[str, Any]]:
    """Return the settings of a job, and those of its algorithm."""
    given = {name: value for name, value in {**job.settings, **job.arm}.items() if name not in OF_TUNING}
    known = MiniSettings.__dataclass_fields__.keys() & given.keys()
    return MiniSettings(**{name: given.pop(name) for name in known}), given


def means(report: Report) -> dict[str, float]:
    """Return the mean of each measure, and the share of texts that no earlier response has."""
    found = {name: value["mean"] for name, value in report.summary().items()}
    texts = {tuple(ids[:n].tolist()) for ids, n in zip(report.episodes.actions, report.episodes.extents, strict=True)}
    return {**found, "distinct": len(texts) / len(report.episodes)}
