"""One run: an algorithm learns a task's gold reward from its base model, and is measured on validation prompts."""

from __future__ import annotations

import time

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.benchmarks.entries import TrainingJob, find_entry
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.trunk import Trunk
from textgym.registration import load_task, task_mdp


def run_mini(job: Job) -> Result:
    """Train, and measure base model and policy on the same prompts with the same random numbers.

    ``before`` and ``after`` hold means of gold, the task's metrics, KL (nats a response) and length (tokens);
    ``curve`` the mean gold reward of the responses that were sampled.
    """
    limit_process()
    settings = dict(job.settings)
    tokens, learning_rate, beta, slots, evaluated = (
        settings.pop(name) for name in ("tokens", "learning_rate", "beta", "slots", "evaluated")
    )
    task = load_task(job.task)
    reward = ["gold", *((name, 0.0) for name in task.metrics)]  # weight 0: measured, but not paid
    training, held_out = (task_mdp(task, reward, split) for split in ("train", "validation"))
    training_job = TrainingJob(task, training, tokens, learning_rate, beta, job.seed, slots, settings)
    base = load_causal_lm(training_job.base_model)
    reference = Trunk(base)

    def measured(policy: LMPolicy) -> dict[str, float]:
        summary = evaluate(policy, reference, held_out, evaluated, seed=0).summary()
        return {name: value["mean"] for name, value in summary.items()}

    before = measured(acting_policy(base, held_out))
    started = time.process_time()
    trained = find_entry(job.algorithm).train(training_job)
    spent = time.process_time() - started
    return {
        "before": before,
        "after": measured(trained.policy),
        "tokens": trained.tokens,
        "curve": trained.curve,
        "cpu_seconds": spent,
    }
