"""One run: an algorithm learns a diagnostic task, and is scored by enumeration on prompts that it did not train on."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from textgym.benchmarks.entries import TrainingJob, find_entry
from textgym.benchmarks.instances import load_instance
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.exact.enumeration import Optimum, optimum
from textgym.registration import task_mdp
from textgym.tasks.task import Task

SLOTS = 128
OF_TUNING = ("trials",)
"""Settings that say how a run's settings were found."""


@dataclass(frozen=True)
class DiagnosticResult:
    """The measurements of one run.

    Attributes:
        beta: β.
        optimum: J*.
        reference: J(π_ref).
        objective: J(π) of the trained policy, by enumeration.
        score: (J(π) − J(π_ref)) / (J* − J(π_ref)).
        reward: E[R].
        kl: KL(π‖π_ref) in nats a response.
        gold: E[gold] where the reward is a proxy; otherwise None.
        train_score: the score on the prompts of training; None where the task holds out none.
        tokens: number of generated tokens.
        updates: gradient steps of the policy.
        scored: responses whose reward was computed.
        curve: pairs of tokens and mean reward.
        cpu_seconds: for optimum, training and scoring.
    """

    beta: float
    optimum: float
    reference: float
    objective: float
    score: float
    reward: float
    kl: float
    gold: float | None
    train_score: float | None
    tokens: int
    updates: int | None
    scored: int
    curve: list[tuple[int, float]]
    cpu_seconds: float


def run_diagnostic(job: Job) -> Result:
    """Train on an instance of a task, and measure the distance to the optimum on its held-out prompts, if any.

    Raises:
        ValueError: the task has no β, so no known optimum.
    """
    limit_process()
    started = time.process_time()
    task = load_instance(job.task, job.seed)
    if task.beta is None:
        raise ValueError(f"task={job.task!r} has no beta, so it is not scored; expected a diagnostic task")
    training = task_mdp(task)
    settings = {name: value for name, value in job.settings.items() if name not in OF_TUNING}
    episodes, learning_rate = settings.pop("episodes"), settings.pop("learning_rate")
    slots = min(SLOTS, settings.get("episodes_per_iteration", SLOTS))
    known = optimum(training, task.beta)
    tokens = episodes * len(known.tree)  # as many levels as the longest episode has tokens of the policy
    training_job = TrainingJob(task, training, tokens, learning_rate, task.beta, job.seed, slots, settings)
    trained = find_entry(job.algorithm).train(training_job)
    best = _held_out(task, task.beta) if "test" in task.splits else known
    reached = best.evaluate(trained.policy)
    return asdict(
        DiagnosticResult(
            beta=task.beta,
            optimum=best.value,
            reference=best.reference.objective,
            objective=reached.objective,
            score=reached.score,
            reward=reached.reward,
            kl=reached.kl,
            gold=None if task.reward is None else best.expect(trained.policy, task.gold),
            train_score=None if best is known else known.evaluate(trained.policy).score,
            tokens=trained.tokens,
            updates=trained.updates,
            scored=trained.scored,
            curve=trained.curve,
            cpu_seconds=time.process_time() - started,
        )
    )


def _held_out(task: Task, beta: float) -> Optimum:
    return optimum(task_mdp(task, split="test"), beta)
