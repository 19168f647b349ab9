"""One run: an algorithm learns from gold with normal noise, and is measured by gold alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.agents.loop.evaluation import evaluate
from textgym.benchmarks.entries import TrainingJob, find_entry
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.trunk import Trunk
from textgym.registration import load_task, task_mdp
from textgym.rewards.compose import WeightedRewards, compose


@dataclass(frozen=True)
class NoisyGold:
    """A reward plus normal noise of standard deviation ``sigma``, drawn for each response by its episode's seed."""

    reward: WeightedRewards
    sigma: float
    name: str = "noisy"

    def __call__(
        self, prompts: list[Any], completions: list[str], *, completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[float]:
        means = self.reward(prompts, completions, completion_ids=completion_ids, **columns)
        # One generator per episode: the noise does not depend on how responses are batched.
        draws = [np.random.default_rng(int(seed)).standard_normal() for seed in columns["episode_seed"]]
        return [float(np.sum(mean)) + self.sigma * draw for mean, draw in zip(means, draws, strict=True)]


def run_reward_noise(job: Job) -> Result:
    """Train on the noisy reward; ``after`` has mean gold and KL (nats a response) on validation prompts."""
    limit_process()
    settings = dict(job.settings)
    tokens, learning_rate, beta, slots, evaluated = (
        settings.pop(name) for name in ("tokens", "learning_rate", "beta", "slots", "evaluated")
    )
    task = load_task(job.task)
    noisy = task_mdp(task, NoisyGold(compose(task.gold), job.arm["sigma"]))
    training_job = TrainingJob(task, noisy, tokens, learning_rate, beta, job.seed, slots, settings)
    started = time.process_time()
    trained = find_entry(job.algorithm).train(training_job)
    spent = time.process_time() - started
    reference, held_out = Trunk(load_causal_lm(training_job.base_model)), task_mdp(task, "gold", "validation")
    after = evaluate(trained.policy, reference, held_out, evaluated, seed=0).summary()
    return {
        "after": {"gold": after["score"]["mean"], "kl": after["kl"]["mean"]},
        "tokens": trained.tokens,
        "cpu_seconds": spent,
    }
