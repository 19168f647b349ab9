"""Settings of an algorithm as the command line and YAML files give them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.ppo import PPO
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController

ALGORITHMS: dict[str, type[SequenceAlgorithm]] = {"ppo": PPO}


@dataclass(frozen=True)
class Hyperparameters:
    """How the policy is trained."""

    learning_rate: float = 1e-4
    """Adam's initial rate; it decays linearly to 0 over the run. Published: 1.4e-5 (Ziegler 2019, GPT-2 small)."""
    episodes_per_iteration: int = 128
    """Responses collected between updates. Published: 512."""
    minibatch_size: int = 32
    """Responses per gradient step."""
    n_epochs: int = 4
    """Passes over an iteration's responses. Published: 4."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation; γ is 1. Published: 0.95."""
    clip_range: float = 0.2
    """ε of the clipped ratio. Published: 0.2."""
    clip_range_vf: float = 0.2
    """How far a value may move from its old one, in units of the value. Published: 0.2."""
    vf_coef: float = 0.1
    """Weight of the value loss. Published: 0.1."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    kl_coef: float = 0.05
    """β, the price of one nat of KL to the reference. Published: 0.15 at first (Ziegler 2019), 0.02 (Ouyang 2022)."""
    kl_target: float | None = None
    """Nats per sequence that an adaptive β steers to (published: 6); without it β stays as it is."""
    temperature: float = 1.0
    """Divides the logits of policy and reference, when sampling and when training."""
    top_k: int = 0
    """Sample only among the k most probable tokens; 0 for all."""
    top_p: float = 1.0
    """Sample only among the most probable tokens that hold this mass; 1 for all."""
    min_new_tokens: int = 0
    """No end token before so many tokens."""
    value: str = "trunk"
    """The critic: 'trunk' (a head on the policy), 'separate' (its own model), or a reward model's directory."""


def find_algorithm(name: str) -> type[SequenceAlgorithm]:
    """An algorithm by name; ValueError names the nearest."""
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1, cutoff=0.0)[0]
        raise ValueError(f"algorithm={name!r} is unknown; did you mean {near!r}? Known: {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def build(algorithm: str, env: Any, model: Any, settings: Hyperparameters, seed: int) -> SequenceAlgorithm:
    """An algorithm in an environment."""
    own = {name: getattr(settings, name) for name in ("gae_lambda", "clip_range", "clip_range_vf", "vf_coef")}
    arguments: dict[str, Any] = {
        "model": model,
        "value": settings.value,
        "episodes_per_iteration": settings.episodes_per_iteration,
        "minibatch_size": settings.minibatch_size,
        "n_epochs": settings.n_epochs,
        "max_grad_norm": settings.max_grad_norm,
        "kl": controller(settings),
        "sampling": Sampling(settings.temperature, settings.min_new_tokens, settings.top_k, settings.top_p),
        "seed": seed,
        **own,
    }
    return find_algorithm(algorithm)("LMPolicy", env, settings.learning_rate, **arguments)


def controller(settings: Hyperparameters) -> KLController:
    """A fixed β, or one that is steered to ``kl_target``."""
    if settings.kl_target is None:
        return FixedKL(settings.kl_coef)
    return AdaptiveKL(settings.kl_coef, settings.kl_target)
