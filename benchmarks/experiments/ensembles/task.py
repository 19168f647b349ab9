"""One run: a single reward model or an ensemble learns few labels, and RL optimises it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from textgym.agents.loop.evaluation import Responses
from textgym.benchmarks.proxies.models import (
    ProxySettings,
    agreement,
    base_responses,
    label_responses,
    learn_proxy,
    proxy_scores,
)
from textgym.benchmarks.proxies.rl import OptimisationSettings, evaluate_policy, optimise, read_settings
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.benchmarks.runner.limits import Limit, at_least, not_negative
from textgym.registration import load_task
from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.tasks.task import Task
from textgym.types import Combine

SINGLE = "single"
"""The arm of one reward model alone; the others are the ways of combining several."""


@dataclass(frozen=True)
class EnsembleSettings(OptimisationSettings, ProxySettings):
    """All settings of a run, except its arm and the algorithm's own.

    Attributes:
        labels: rankings, the same ones for every member: few, so that the members fill the rest in differently.
        size: size of each member.
        members: m of an ensemble.
        uncertainty_weight: λ, the price of the members' variance, in squared standard deviations of a proxy.
        prompts: held-out prompts whose responses standardise the members.
        responses: to each of them.
        evaluated: responses to held-out prompts on which the trained policy is judged.
    """

    LIMITS: ClassVar[Mapping[str, Limit]] = {
        **OptimisationSettings.LIMITS,
        **ProxySettings.LIMITS,
        **dict.fromkeys(("labels", "members", "prompts", "evaluated"), at_least(1)),
        "responses": at_least(2),  # the agreement with gold compares them
        "uncertainty_weight": not_negative,
    }

    tokens: int = 40_000
    beta: float = 0.05
    learning_rate: float = 1e-3
    labels: int = 256
    size: str = "base"
    members: int = 4
    uncertainty_weight: float = 0.5
    prompts: int = 64
    responses: int = 16
    evaluated: int = 512


def run_ensembles(job: Job) -> Result:
    """Train the reward models and the policy, and measure gold, proxy and KL.

    Raises:
        ValueError: the task, algorithm, size or way of combining is unknown, or the task has too few prompts.
    """
    limit_process()
    started = time.process_time()
    settings, own = read_settings(EnsembleSettings, job)
    task = load_task(job.task)
    standard = base_responses(task, settings.prompts, settings.responses, job.seed)
    proxy = learn_ensemble(task, job, settings, standard)
    scores = proxy_scores(proxy, standard)
    learner, curve = optimise(task, proxy, job.algorithm, settings, own, job.seed)
    return {
        "agreement": agreement(scores, standard.rewards),
        "disagreement": _disagreement(proxy, standard),
        "gold": float(standard.rewards.mean()),
        "after": evaluate_policy(learner, task, proxy, settings.evaluated),
        "rl": curve,
        "cpu_seconds": time.process_time() - started,
    }


def learn_ensemble(task: Task, job: Job, settings: EnsembleSettings, standard: Responses) -> RewardEnsemble:
    """Return the run's proxy; a single one is an ensemble of one member, the first of the others' members.

    Members learn the same labels, and differ in their heads and in the order of the data, as those of Coste et al. do.
    """
    combine: Combine | Literal["single"] = job.arm["combine"]
    labels = label_responses(task, settings.labels, settings, job.seed)
    count = 1 if combine == SINGLE else settings.members
    seeds = np.random.SeedSequence(job.seed).generate_state(settings.members)[:count]
    members = tuple(learn_proxy(task, labels.rankings, standard, settings.size, settings, int(seed)) for seed in seeds)
    how: Combine = "mean" if combine == "single" else combine
    return RewardEnsemble(members, how, settings.uncertainty_weight)


def _disagreement(proxy: RewardEnsemble, standard: Responses) -> float:
    """Return the standard deviation between members on the base model's responses; 0 for a single one."""
    scores = [proxy_scores(member, standard) for member in proxy.members]
    return float(np.std(scores, axis=0).mean())
