"""Settings of an algorithm as the command line and YAML files give them."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.offline.pretraining import Pretraining
from textgym.agents.registry import find_algorithm
from textgym.agents.settings import ClipSettings
from textgym.commands.configs.hyperparameters import CAUTIOUS_KL, Hyperparameters
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController

OWN = frozenset(field.name for field in fields(Hyperparameters) if field.default is None) - {"kl_target"}
"""Settings that are the algorithm's own affair where they are None."""


def resolve(algorithm: str, settings: Hyperparameters) -> Hyperparameters:
    """Return the settings with the algorithm's own values in the place of None, wherever it has such a setting.

    Raises:
        ValueError: something was set that the algorithm does not have, or that is out of its range.
    """
    kind = find_algorithm(algorithm).settings_class
    known = {field.name for field in fields(kind)}
    given = {name: value for name in OWN if (value := getattr(settings, name)) is not None}
    for name in sorted(given.keys() - known):
        raise ValueError(f"{name}={given[name]}: {algorithm} has no such setting; leave it out")
    shared = {name: value for name, value in asdict(settings).items() if name in known - OWN}
    made = asdict(kind(**shared, **given))
    return replace(settings, **{name: made[name] for name in known})


def cautious(algorithm: str, settings: Hyperparameters) -> Hyperparameters:
    """Return the settings with a bound on how far one iteration moves the policy, where none was chosen.

    Args:
        algorithm: its name; only those with a clipped ratio are given a bound.
        settings: as given; ``target_kl=0`` chooses none.
    """
    clipped = issubclass(find_algorithm(algorithm).settings_class, ClipSettings)
    return replace(settings, target_kl=CAUTIOUS_KL) if clipped and settings.target_kl is None else settings


def build(
    algorithm: str,
    env: Any,
    model: Any,
    settings: Hyperparameters,
    seed: int,
    pretraining: Pretraining | None = None,
    reference: str | None = None,
) -> SequenceAlgorithm:
    """Return an algorithm in an environment; ``reference`` is what the KL is measured to, by default the model."""
    kind = find_algorithm(algorithm)
    made = resolve(algorithm, settings)
    own = {field.name: getattr(made, field.name) for field in fields(kind.settings_class)}
    return kind(
        "LMPolicy",
        env,
        settings.learning_rate,
        model=model,
        reference=reference,
        value=settings.value,
        kl=controller(settings),
        sampling=Sampling(settings.temperature, settings.min_new_tokens, settings.top_k, settings.top_p),
        pretraining=pretraining,
        seed=seed,
        **own,
    )


def controller(settings: Hyperparameters) -> KLController:
    """Return a fixed β, or one that is steered to ``kl_target``."""
    if settings.kl_target is None:
        return FixedKL(settings.kl_coef)
    return AdaptiveKL(settings.kl_coef, settings.kl_target)
