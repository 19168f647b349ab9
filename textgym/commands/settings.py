"""Construction of an algorithm from the hyperparameters of the command line and YAML files."""

from __future__ import annotations

from typing import Any

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.offline.pretraining import Pretraining
from textgym.agents.registry import find_algorithm
from textgym.agents.settings import Common
from textgym.commands.configs.hyperparameters import Hyperparameters
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController


def build(
    algorithm: str,
    env: Any,
    model: Any,
    settings: Hyperparameters,
    seed: int,
    pretraining: Pretraining | None = None,
    reference: str | None = None,
) -> SequenceAlgorithm:
    """Return an algorithm in an environment.

    Args:
        algorithm: its name.
        env: an environment of textgym.
        model: the language model to train.
        settings: its hyperparameters.
        seed: the random seed.
        pretraining: text that every update learns beside the reward.
        reference: the model that the KL is measured to; None for the model as it is.
    """
    kind = find_algorithm(algorithm)
    return kind(
        "LMPolicy",
        env,
        settings.learning_rate,
        model=model,
        reference=reference,
        value=settings.value,
        beta=controller(settings),
        sampling=settings.sampling,
        pretraining=pretraining,
        seed=seed,
        **settings.settings(kind.settings_class),
    )


def controller(settings: Common) -> KLController:
    """Return a fixed β, or one that is steered to ``kl_target``."""
    if settings.kl_target is None:
        return FixedKL(settings.beta)
    return AdaptiveKL(settings.beta, settings.kl_target)
