"""The numbers that an algorithm is made with: what all share, and what some add."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from textgym.numbers import check, check_given, count, finite

Normalisation: TypeAlias = Literal["token", "sequence", "constant"]


@dataclass(frozen=True)
class Settings:
    """What every algorithm has, with one set of defaults; a subclass changes what defines its algorithm.

    Attributes:
        episodes_per_iteration: responses collected between updates, companions and discarded ones included.
        minibatch_size: responses in a gradient step.
        n_epochs: passes over an iteration's responses.
        max_grad_norm: gradients are scaled down to this norm.
        samples_per_prompt: consecutive responses to one prompt: k, or n of best-of-n.
        normalisation: what a minibatch's policy loss is divided by: its ``"token"`` count, each ``"sequence"``'s own
            length, or the ``"constant"`` T.
        kl_in_loss: β weighs the k3 estimate of the KL in the loss instead of k1 in the reward.
        warmup_iterations: iterations until the learning rate is whole: the first one has 1/n of it, the second 2/n …
            (Ouyang 2022: 10). 0 for none.
        ent_coef: weight of an entropy bonus, as in stable-baselines3: the entropy of the behaviour distribution where
            each token of a response was chosen, in nats, normalised as the policy loss is. 0 for none, as published.
    """

    episodes_per_iteration: int = 128
    minibatch_size: int = 32
    n_epochs: int = 4
    max_grad_norm: float = 1.0
    samples_per_prompt: int = 1
    normalisation: Normalisation = "token"
    kl_in_loss: bool = False
    warmup_iterations: int = 0
    ent_coef: float = 0.0

    def __post_init__(self) -> None:
        check(self, count, "episodes_per_iteration", "minibatch_size", "n_epochs", "samples_per_prompt")
        check(self, count, "warmup_iterations", least=0)
        check(self, finite, "max_grad_norm", above=0)
        if self.episodes_per_iteration < 2 or self.minibatch_size > self.episodes_per_iteration:
            raise ValueError(
                f"episodes_per_iteration={self.episodes_per_iteration}, minibatch_size={self.minibatch_size}; expected "
                "at least 2 episodes, and minibatches of at least 1 and at most all of them"
            )
        kinds = get_args(Normalisation)
        require(self.normalisation in kinds, "normalisation", repr(self.normalisation), f"one of {', '.join(kinds)}")
        require(isinstance(self.kl_in_loss, bool), "kl_in_loss", repr(self.kl_in_loss), "True or False")
        check(self, finite, "ent_coef", low=0)


@dataclass(frozen=True)
class GroupSettings(Settings):
    """Of algorithms that compare the responses to one prompt."""

    samples_per_prompt: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        k = self.samples_per_prompt
        require(k >= 2, "samples_per_prompt", k, "at least 2, since a prompt's responses are compared with each other")


@dataclass(frozen=True)
class CriticSettings(Settings):
    """Of algorithms with a critic.

    Attributes:
        clip_range_vf: ε of the value, in units of the value.
        vf_coef: weight of the value loss.
    """

    clip_range_vf: float = 0.2
    vf_coef: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "clip_range_vf", above=0)
        check(self, finite, "vf_coef", low=0)


@dataclass(frozen=True)
class GAESettings(CriticSettings):
    """Of algorithms with generalised advantage estimation.

    Attributes:
        gae_lambda: λ; γ is 1.
    """

    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "gae_lambda", low=0, high=1)


@dataclass(frozen=True)
class ClipSettings(Settings):
    """Of algorithms with a clipped ratio.

    Attributes:
        clip_range: ε: the ratio counts down to 1 − ε.
        clip_range_high: it counts up to 1 + this; None for ε as well.
        target_kl: nats per token. An iteration's update ends at the first minibatch whose ``approx_kl`` is above 1.5
            times this, before the step on it, as in stable-baselines3. None or 0 for no such bound.
    """

    clip_range: float = 0.2
    clip_range_high: float | None = None
    target_kl: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "clip_range", above=0, high=1)
        check_given(self, finite, "clip_range_high", above=0)
        check_given(self, finite, "target_kl", low=0)


def require(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise ValueError, naming the setting, unless the condition holds."""
    if not holds:
        raise ValueError(f"{name}={value}; expected {expected}")


Kind = TypeVar("Kind", bound=Settings)


ELSEWHERE = {
    "kl_coef": "kl",
    "beta": "kl",
    "kl_target": "kl",
    **dict.fromkeys(("temperature", "top_k", "top_p", "min_new_tokens"), "sampling"),
    **dict.fromkeys(("lora", "freeze_layers", "untie_head"), "policy_kwargs"),
    "n_steps": "episodes_per_iteration",
    "batch_size": "minibatch_size",
}
"""Arguments, or parts of them, that the command line, papers or stable-baselines3 call otherwise."""

FIXED = {
    "gamma": "γ is 1: a response is paid at its end, whole",
    "normalize_advantage": "advantages are normalised as each algorithm's paper says",
    **dict.fromkeys(("use_sde", "sde_sample_freq"), "tokens are discrete, so there is no state-dependent exploration"),
    **dict.fromkeys(("use_rms_prop", "rms_prop_eps"), "the optimiser is Adam"),
    **dict.fromkeys(("force_reset", "print_system_info"), "it changes nothing here"),
    "custom_objects": "nothing is unpickled; give what shall differ by its own name, as learning_rate=1e-5",
    **dict.fromkeys(("rollout_buffer_class", "rollout_buffer_kwargs"), "whole responses are kept, in no such buffer"),
}
"""Settings of stable-baselines3's algorithms that these do not have, and why."""


def make_settings(kind: type[Kind], algorithm: str, given: Mapping[str, Any]) -> Kind:
    """Return the settings of an algorithm.

    Raises:
        TypeError: the algorithm has no setting of a given name.
        ValueError: a value is out of its range.
    """
    known = [field.name for field in fields(kind)]
    for name in given:
        if name in FIXED:
            raise TypeError(f"{algorithm} has no setting {name!r}: {FIXED[name]}; it has {', '.join(known)}")
        if name not in known:
            near = [ELSEWHERE[name]] if name in ELSEWHERE else difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{algorithm} has no setting {name!r}{hint}; it has {', '.join(known)}")
    return kind(**given)
