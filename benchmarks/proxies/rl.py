"""RL on any reward of a task, with gold and KL recorded in every iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, TypeVar

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import KVWriter, Logger

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.evaluation import evaluate
from textgym.benchmarks.entries import TextgymEntry, constructor_settings, find_entry
from textgym.benchmarks.runner.experiment import Job
from textgym.benchmarks.runner.limits import Limit, at_least, check_limits, not_negative, positive
from textgym.env.vector import TokenVectorEnv
from textgym.registration import task_mdp
from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.rewards.models.model import RewardModel
from textgym.tasks.task import Task


@dataclass(frozen=True)
class OptimisationSettings:
    """The budget and the strength of optimisation against a proxy.

    Attributes:
        tokens: the budget.
        beta: β, the price of a nat in units of the proxy.
        learning_rate: learning rate of the policy, decaying linearly to 0.
        slots: responses that are written at once.
    """

    LIMITS: ClassVar[Mapping[str, Limit]] = {
        **dict.fromkeys(("tokens", "slots"), at_least(1)),
        "learning_rate": positive,
        "beta": not_negative,
    }

    tokens: int = 50_000
    beta: float = 0.01
    learning_rate: float = 3e-4
    slots: int = 128


Given = TypeVar("Given", bound=OptimisationSettings)


def job_settings(shared: OptimisationSettings, algorithm: str, **own: Any) -> dict[str, Any]:
    """Return all settings of a run: those of its experiment, and the algorithm's own.

    Raises:
        ValueError: the algorithm is unknown, or logs no gold and KL during training; or a number is
            out of its range.
    """
    check_limits(asdict(shared), shared.LIMITS)
    return {**asdict(shared), **_watchable(algorithm).settings(own)}


def read_settings(kind: type[Given], job: Job) -> tuple[Given, dict[str, Any]]:
    """Return the experiment's and the algorithm's settings of a job, the inverse of :func:`job_settings`."""
    known = {field.name for field in fields(kind)}
    shared = {name: value for name, value in job.settings.items() if name in known}
    return kind(**shared), {name: value for name, value in job.settings.items() if name not in known}


def optimise(
    task: Task,
    proxy: RewardModel | RewardEnsemble,
    algorithm: str,
    pressure: OptimisationSettings,
    own: Mapping[str, Any],
    seed: int,
) -> tuple[SequenceAlgorithm, list[Mapping[str, float]]]:
    """Train the task's base model against a proxy.

    Args:
        task: with the base model and the gold reward.
        proxy: the reward that is optimised.
        algorithm: its name, or the address of a user's class.
        pressure: budget and settings.
        own: the algorithm's settings.
        seed: random seed.

    Returns:
        the algorithm, and for each iteration the measurements on its own responses: ``tokens`` up to their end, ``kl``
        in nats per response, ``gold`` and ``proxy``.

    Raises:
        ValueError: the algorithm is unknown or cannot be watched, a user's file has changed since its settings were
            put together, or a setting is out of its range.
    """
    env = TokenVectorEnv(task_mdp(task, [proxy, ("gold", 0.0)]), pressure.slots, AutoresetMode.DISABLED)
    entry = _watchable(algorithm)
    learner = entry.kind(
        "LMPolicy",
        env,
        pressure.learning_rate,
        beta=pressure.beta,
        seed=seed,
        **constructor_settings(entry, own),
    )
    recorder = MetricLog()
    learner.set_logger(Logger(None, [recorder]))
    learner.learn(pressure.tokens, log_interval=1)
    return learner, [_point(row) for row in recorder.rows]


class MetricLog(KVWriter):
    """A logger's output that keeps one row of numbers for each dump, with the generated ``tokens``.

    ``algorithm.set_logger(Logger(None, [recorder]))`` before ``learn(…, log_interval=1)`` makes it a learning curve.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {name: float(value) for name, value in key_values.items() if isinstance(value, Real)}
        self.rows.append({"tokens": float(step), **numbers})

    def close(self) -> None:
        """Do nothing, as no file is open."""


def _point(row: Mapping[str, float]) -> Mapping[str, float]:
    return {
        "tokens": row["tokens"],
        "kl": row["rollout/kl"],
        "gold": row["rollout/components/gold"],
        "proxy": row["rollout/score"],
    }


def _watchable(algorithm: str) -> TextgymEntry:
    entry = find_entry(algorithm)
    if not isinstance(entry, TextgymEntry):
        raise ValueError(
            f"algorithm={algorithm!r} does not log gold and KL during training; expected one of textgym's, or a "
            "subclass of textgym.agents.SequenceAlgorithm"
        )
    return entry


def evaluate_policy(
    learner: SequenceAlgorithm, task: Task, proxy: RewardModel | RewardEnsemble, episodes: int
) -> dict[str, float]:
    """Return the means of ``gold``, ``proxy`` and ``kl`` on held-out prompts.

    The prompts are the same for all policies; the KL is exact in every state.
    """
    mdp = task_mdp(task, [proxy, ("gold", 0.0)], "validation")
    found = evaluate(learner.policy, learner.reference_trunk, mdp, episodes, seed=0).summary()
    return {name: found[key]["mean"] for name, key in (("gold", "gold"), ("proxy", "score"), ("kl", "kl"))}
