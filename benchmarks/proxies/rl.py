"""Reinforcement learning from any reward of a task, with gold and KL watched on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import Logger

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.evaluation import evaluate
from textgym.benchmarks.entries import Own, find_contender, own_settings
from textgym.benchmarks.proxies.recording import Recorder
from textgym.benchmarks.runner.experiment import Job
from textgym.benchmarks.runner.limits import check_settings
from textgym.registration import task_mdp
from textgym.rewards.ensemble import RewardEnsemble
from textgym.rewards.model import RewardModel
from textgym.tasks.task import Task
from textgym.vector import TokenVectorEnv


@dataclass(frozen=True)
class Pressure:
    """How hard a proxy is optimised.

    Attributes:
        tokens: the budget.
        beta: β, the price of a nat in units of the proxy.
        learning_rate: of the policy, decaying linearly to 0.
        slots: responses that are written at once.
    """

    tokens: int = 50_000
    beta: float = 0.01
    learning_rate: float = 3e-4
    slots: int = 128


Given = TypeVar("Given", bound=Pressure)


def job_settings(shared: Pressure, algorithm: str, **own: Any) -> dict[str, Any]:
    """All that a run's numbers depend on: what its experiment sets, and the algorithm's own settings.

    Raises:
        ValueError: the algorithm is unknown, or is none whose gold and KL can be watched on the way; or a number is
            out of its range.
    """
    check_settings(asdict(shared))
    return {**asdict(shared), **_watchable(algorithm).settings(own)}


def read_settings(kind: type[Given], job: Job) -> tuple[Given, dict[str, Any]]:
    """What :func:`job_settings` put together, apart again."""
    known = {field.name for field in fields(kind)}
    shared = {name: value for name, value in job.settings.items() if name in known}
    return kind(**shared), {name: value for name, value in job.settings.items() if name not in known}


def optimise(
    task: Task,
    proxy: RewardModel | RewardEnsemble,
    algorithm: str,
    pressure: Pressure,
    own: Mapping[str, Any],
    seed: int,
) -> tuple[SequenceAlgorithm, list[Mapping[str, float]]]:
    """Trains the task's base model against a proxy.

    Args:
        task: what is asked.
        proxy: what is paid.
        algorithm: its name, or where a user's class stands.
        pressure: budget and settings.
        own: the algorithm's settings.
        seed: of everything random.

    Returns:
        the algorithm, and for each iteration what its own responses showed: ``tokens`` up to their end, ``kl`` in nats
        a response, ``gold`` and ``proxy``.

    Raises:
        ValueError: the algorithm is unknown or cannot be watched, a user's file has changed since its settings were
            put together, or a setting is out of its range.
    """
    env = TokenVectorEnv(task_mdp(task, [proxy, ("gold", 0.0)]), pressure.slots, AutoresetMode.DISABLED)
    contender = _watchable(algorithm)
    learner = contender.kind(
        "LMPolicy",
        env,
        pressure.learning_rate,
        kl=pressure.beta,
        seed=seed,
        **own_settings(contender, own),
    )
    recorder = Recorder()
    learner.set_logger(Logger(None, [recorder]))
    learner.learn(pressure.tokens, log_interval=1)
    return learner, [_point(row) for row in recorder.rows]


def _point(row: Mapping[str, float]) -> Mapping[str, float]:
    return {
        "tokens": row["tokens"],
        "kl": row["rollout/kl"],
        "gold": row["rollout/components/gold"],
        "proxy": row["rollout/score"],
    }


def _watchable(algorithm: str) -> Own:
    contender = find_contender(algorithm)
    if not isinstance(contender, Own):
        raise ValueError(
            f"algorithm={algorithm!r} tells nothing of gold and KL while it learns; expected one of textgym's, or a "
            "subclass of textgym.agents.SequenceAlgorithm"
        )
    return contender


def measured(
    learner: SequenceAlgorithm, task: Task, proxy: RewardModel | RewardEnsemble, episodes: int
) -> dict[str, float]:
    """What the trained policy does on held-out prompts, the same ones for all: the means of ``gold``, ``proxy`` and
    ``kl``, exact in every state."""
    mdp = task_mdp(task, [proxy, ("gold", 0.0)], "validation")
    found = evaluate(learner.policy, learner.reference_trunk, mdp, episodes, seed=0).summary()
    return {name: found[key]["mean"] for name, key in (("gold", "gold"), ("proxy", "score"), ("kl", "kl"))}
