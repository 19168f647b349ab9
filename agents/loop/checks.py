"""What an algorithm is built from: the environment, its sizes, and whether it and its wrapper fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.agents.loop.slots import env_attribute
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.lm.agreement import check_backward
from textgym.lm.files.loading import check_fits
from textgym.lm.sampling import Sampling
from textgym.numbers import plain
from textgym.rewards.kl import FixedKL, KLController


def check_policy(policy: Any, env: Any) -> None:
    """ValueError where the policy has another name than ``"LMPolicy"``; ``env`` is what was given beside it."""
    if isinstance(policy, str) and policy != "LMPolicy":
        hint = f"; for the environment write env={policy!r}" if env is None and not policy.endswith("Policy") else ""
        raise ValueError(f"policy={policy!r} is unknown; expected 'LMPolicy'{hint}")


def require_env(env: Any) -> None:
    """ValueError where there is no environment."""
    if env is None:
        raise ValueError("env is None; pass env=ID, such as env='textgym/Reviews-v0', or an environment")


def make_controller(kl: Any) -> KLController:
    """Return a controller of β, or a fixed β as one.

    Raises:
        TypeError: it is neither.
    """
    number = plain(kl)
    if number is None and not hasattr(kl, "beta"):
        raise TypeError(f"kl={kl!r}; expected a number, β, or a controller such as textgym.rewards.kl.AdaptiveKL")
    controller: KLController = kl if number is None else FixedKL(number)
    return controller


def make_admitting(id: str, num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Return the vector environment of an id, whose rows wait to be given their prompts.

    Raises:
        ValueError: it is no language task.
    """
    try:
        return gym.make_vec(id, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED)
    except TypeError as error:
        if "autoreset_mode" not in str(error):
            raise
        raise ValueError(f"env={id!r} is no language task: its vector environment has no autoreset_mode") from error


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """ValueError where the spaces are not those of a language task."""
    keys = set(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else set()
    if not {"input_ids", "attention_mask"} <= keys or not isinstance(action_space, spaces.Discrete):
        batched = isinstance(action_space, spaces.MultiDiscrete)
        hint = "; put a Gymnasium vector environment into textgym.agents.SlotVecEnv(env)" if batched else ""
        raise ValueError(
            f"observation_space={observation_space}, action_space={action_space}; expected those of a language task: a "
            f"Dict of input_ids and attention_mask, and Discrete{hint}"
        )


def check_trainable(policy: LMPolicy) -> None:
    """ValueError where an algorithm could change nothing about how the policy writes, or its code refuses to learn."""
    if not any(parameter.requires_grad for parameter in policy.lm.parameters()):
        raise ValueError(
            "the model has no parameter that is trained: all are frozen; call model.requires_grad_(True), or name "
            "fewer in policy_kwargs['frozen']"
        )
    check_backward(policy.trunk)


@dataclass(frozen=True)
class Layout:
    """The part of a task that a policy knows.

    Attributes:
        observation_space: ``input_ids`` and ``attention_mask``, ``[P+T]`` each.
        action_space: ``Discrete(V)``.
        prompt_length: ``P``.
        end_token_ids: tokens that end a response.
    """

    observation_space: spaces.Dict
    action_space: spaces.Discrete
    prompt_length: int
    end_token_ids: tuple[int, ...]


def layout_of(env: VecEnv) -> Layout:
    """Return the layout of an environment.

    Raises:
        ValueError: it is no language environment.
    """
    check_spaces(env.observation_space, env.action_space)
    observations: Any = env.observation_space
    actions: Any = env.action_space
    ends = tuple(env_attribute(env, "end_token_ids"))
    return Layout(observations, actions, int(env_attribute(env, "prompt_length")), ends)


def layout_from_state(task: Mapping[str, Any] | None) -> Layout:
    """Return the layout that :func:`task_identity` kept in a checkpoint.

    Raises:
        ValueError: it is of a version that did not keep it.
    """
    if task is None or not task.keys() >= {"ends", "tokens"}:
        raise ValueError("an older version wrote this checkpoint, which does not know its task; pass env=ID")
    width = (task["P"] + task["T"],)
    boxes = {"input_ids": (task["tokens"] - 1, np.int64), "attention_mask": (1, np.int8)}
    observations = spaces.Dict({name: spaces.Box(0, high, width, kind) for name, (high, kind) in boxes.items()})
    return Layout(observations, spaces.Discrete(task["V"]), task["P"], tuple(task["ends"]))


MUST_AGREE = ("P", "T", "V", "vocabulary")
"""Parts of :func:`task_identity` that must be the same where training goes on."""


def task_identity(env: VecEnv) -> dict[str, Any]:
    """Return the part of a task that checkpoints keep: P, T, V, the digest of the vocabulary, if any, the end tokens,
    and how many tokens an observation may show.
    """
    layout = layout_of(env)
    ids: Any = layout.observation_space["input_ids"]
    mdp = env_attribute(env, "mdp", None)
    vocabulary = None if mdp is None else sorted(mdp.tokenizer.get_vocab().items())
    digest = None if vocabulary is None else hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:12]
    return {
        "P": layout.prompt_length,
        "T": int(ids.shape[0]) - layout.prompt_length,
        "V": int(layout.action_space.n),
        "vocabulary": digest,
        "ends": [int(token) for token in layout.end_token_ids],
        "tokens": int(ids.high.max()) + 1,
    }


def check_same_task(known: Mapping[str, Any] | None, env: VecEnv) -> None:
    """Refuses an environment that an algorithm does not know the sizes or the vocabulary of.

    Args:
        known: what :func:`task_identity` said before; None where nobody kept it.
        env: to go on in.

    Raises:
        ValueError: something differs; both are named.
    """
    if known is None:
        return
    found = task_identity(env)
    comparable = [name for name in MUST_AGREE if known[name] is not None and found[name] is not None]
    if any(known[name] != found[name] for name in comparable):
        there, here = (", ".join(f"{name}={task[name]}" for name in comparable) for task in (known, found))
        raise ValueError(
            f"trained in a task of {there}; the environment has {here}. Go on in the same task, or begin anew with "
            "model=DIRECTORY in a task that fits the model"
        )


def restricts_actions(env: VecEnv) -> bool:
    """Whether the environment's task forbids some tokens in some states."""
    return getattr(env_attribute(env, "mdp", None), "allowed", None) is not None


def check_plays(policy: LMPolicy, env: VecEnv, beta: float) -> None:
    """What a policy asks of every environment that it plays in, the first one and those that follow.

    Raises:
        ValueError: the model is too small for the task, the task ends responses by other tokens or restricts actions
            where the policy does too, or the environment's ``ReferenceKL`` wrapper does not fit.
    """
    mdp = env_attribute(env, "mdp", None)
    if mdp is not None:
        check_fits(policy.lm, mdp.tokenizer, policy.n_actions, policy.width, policy.prompt_length)
    ends = tuple(env_attribute(env, "end_token_ids"))
    if ends != policy.end_token_ids:
        raise ValueError(
            f"env ends responses by the tokens {ends}, the policy by {policy.end_token_ids}; expected the same ones"
        )
    if restricts_actions(env) and policy.sampling.truncates:
        raise ValueError("top_k and top_p do not go with a task that restricts actions; leave them out")
    check_wrapper(env, policy.sampling, beta)


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
