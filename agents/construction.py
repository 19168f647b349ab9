"""What an algorithm is built from: the environment's sizes, and whether its wrapper fits."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.lm.sampling import Sampling


def linear_decay(initial: float) -> Schedule:
    """From ``initial`` to 0 over the whole run."""
    return lambda remaining: initial * remaining


def env_attribute(env: VecEnv, name: str, *default: Any) -> Any:
    """An attribute of a language environment, behind its wrappers.

    Raises:
        ValueError: there is none, and no default.
    """
    try:
        return env.get_attr(name, [0])[0]
    except AttributeError as error:
        if default:
            return default[0]
        raise ValueError(
            f"env has no attribute {name!r}: language environments say prompt_length (P) and end_token_ids, as "
            "textgym.env.TokenEnv does"
        ) from error


def check_wrapper(env: VecEnv, sampling: Sampling, beta: float) -> None:
    """A ``ReferenceKL`` wrapper must measure the distribution that is sampled, and be the only one who pays.

    Raises:
        ValueError: it does not, or is not.
    """
    wrapper = env_attribute(env, "kl_sampling", None)
    if wrapper is None:
        return
    if wrapper != sampling.shared:
        raise ValueError(f"the ReferenceKL wrapper has {wrapper}, the policy {sampling}; make them equal")
    if beta > 0:
        raise ValueError(
            f"the environment's ReferenceKL wrapper pays the KL already, and kl={beta} would pay it again; "
            "pass kl=0, or leave the wrapper out"
        )
