"""One run: an algorithm learns a diagnostic task, and is scored by enumeration."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from textgym.benchmarks.entries import TrainingJob, find_entry
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.exact.enumeration import optimum
from textgym.registration import load_task, task_mdp

SLOTS = 128


@dataclass(frozen=True)
class DiagnosticResult:
    """The measurements of one run.

    Attributes:
        beta: β.
        optimum: J*.
        reference: J(π_ref).
        objective: J(π) of the trained policy, by enumeration.
        score: (J(π) − J(π_ref)) / (J* − J(π_ref)).
        tokens: number of generated tokens.
        curve: pairs of tokens and mean reward.
        cpu_seconds: for optimum, training and scoring.
    """

    beta: float
    optimum: float
    reference: float
    objective: float
    score: float
    tokens: int
    curve: list[tuple[int, float]]
    cpu_seconds: float


def run_diagnostic(job: Job) -> Result:
    """Train on a task with a seed, and measure the distance to the optimum.

    Raises:
        ValueError: the task has no β, so no known optimum.
    """
    limit_process()
    started = time.process_time()
    task = load_task(job.task)
    if task.beta is None:
        raise ValueError(f"task={job.task!r} has no beta, so it is not scored; expected a diagnostic task")
    mdp = task_mdp(task)
    best = optimum(mdp, task.beta)
    settings = dict(job.settings)
    episodes, learning_rate = settings.pop("episodes"), settings.pop("learning_rate")
    slots = min(SLOTS, settings.get("episodes_per_iteration", SLOTS))
    tokens = episodes * len(best.tree)  # as many levels as the longest episode has tokens of the policy
    training_job = TrainingJob(task, mdp, tokens, learning_rate, task.beta, job.seed, slots, settings)
    trained = find_entry(job.algorithm).train(training_job)
    reached = best.evaluate(trained.policy)
    return asdict(
        DiagnosticResult(
            beta=task.beta,
            optimum=best.value,
            reference=best.reference.objective,
            objective=reached.objective,
            score=reached.score,
            tokens=trained.tokens,
            curve=trained.curve,
            cpu_seconds=time.process_time() - started,
        )
    )
