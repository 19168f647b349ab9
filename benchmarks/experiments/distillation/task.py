"""One run: the base model of a task learns to write as a teacher, which is that model after some PPO on gold."""

from __future__ import annotations

import time
from typing import Any

from gymnasium.vector import AutoresetMode

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.registry import ALGORITHMS
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.registration import load_task, task_mdp
from textgym.rewards.builtin import no_reward
from textgym.tasks.task import Task


def run_distillation(job: Job) -> Result:
    """Make the teacher, train the student, and measure its KL to the teacher on held-out prompts.

    ``before`` and ``after`` hold means of the exact KL to the teacher in nats a response, and of the length in tokens.
    Without a reward and with β = 1, RLOO's objective is the same: −KL.
    """
    limit_process()
    settings, task = job.settings, load_task(job.task)
    training, held_out = (task_mdp(task, no_reward, split) for split in ("train", "validation"))
    student = _made(job, job.algorithm, training, "learning_rate", 1.0, job.seed, reference=_teacher(job, task))
    before = _measured(student, held_out, settings["evaluated"])
    started = time.process_time()
    student.learn(settings["tokens"], log_interval=0)
    spent = time.process_time() - started
    after = _measured(student, held_out, settings["evaluated"])
    return {"before": before, "after": after, "tokens": student.num_timesteps, "cpu_seconds": spent}


def _teacher(job: Job, task: Task) -> Any:
    mdp = task_mdp(task, "gold", "train")
    algorithm = _made(job, "ppo", mdp, "teacher_learning_rate", job.settings["teacher_beta"], seed=0)
    return algorithm.learn(job.settings["teacher_tokens"], log_interval=0).policy.lm


def _made(
    job: Job, algorithm: str, mdp: TokenMDP, rate: str, beta: float, seed: int, reference: Any = None
) -> SequenceAlgorithm:
    """Return an algorithm with the job's learning rate of that name and, if it is the job's own, the job's arm."""
    env = TokenVectorEnv(mdp, job.settings["slots"], AutoresetMode.DISABLED)
    arm = job.arm if algorithm == job.algorithm else {}
    return ALGORITHMS[algorithm](
        "LMPolicy", env, job.settings[rate], reference=reference, beta=beta, seed=seed, device="cpu", **arm
    )


def _measured(algorithm: SequenceAlgorithm, mdp: TokenMDP, n_episodes: int) -> dict[str, float]:
    summary = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, n_episodes, seed=0).summary()
    return {name: value["mean"] for name, value in summary.items()}
