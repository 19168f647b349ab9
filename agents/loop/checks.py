"""Checks of an algorithm's arguments: the environment, its sizes, and its fit with the policy."""

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

from textgym.agents.loop.slots import Slots, env_attribute
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP
from textgym.lm.agreement import check_backward
from textgym.lm.files.loading import check_fits
from textgym.lm.sampling import Sampling
from textgym.numbers import plain
from textgym.rewards.kl import FixedKL, KLController


def check_policy(policy: Any, env: Any) -> None:
    """Check that ``policy`` is ``"LMPolicy"`` or a class; ``env``, the argument after it, decides the hint.

    Raises:
        ValueError: it is another string.
    """
    if isinstance(policy, str) and policy != "LMPolicy":
        hint = f"; for the environment write env={policy!r}" if env is None and not policy.endswith("Policy") else ""
        raise ValueError(f"policy={policy!r} is unknown; expected 'LMPolicy'{hint}")


def require_env(env: Any) -> None:
    """Check that there is an environment.

    Raises:
        ValueError: ``env`` is None.
    """
    if env is None:
        raise ValueError("env is None; pass a task's id, such as env='textgym/Reviews-v0', or an environment")


def make_controller(beta: Any) -> KLController:
    """Return a controller of β, or a fixed β as one.

    Raises:
        TypeError: it is neither.
    """
    number = plain(beta)
    if number is None and not hasattr(beta, "beta"):
        raise TypeError(f"beta={beta!r}; expected a number, β, or a controller such as textgym.rewards.kl.AdaptiveKL")
    controller: KLController = beta if number is None else FixedKL(number)
    return controller


def make_admitting(id: str, num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Return the vector environment of a task's id, whose rows wait to be given their prompts.

    Raises:
        ValueError: the id is not of a language task.
    """
    try:
        return gym.make_vec(id, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED)
    except TypeError as error:
        if "autoreset_mode" not in str(error):
            raise
        raise ValueError(f"env={id!r} is not a language task: its vector environment has no autoreset_mode") from error


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Check that the spaces are those of a language task.

    Raises:
        ValueError: they are not.
    """
    keys = set(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else set()
    if not {"input_ids", "attention_mask"} <= keys or not isinstance(action_space, spaces.Discrete):
        batched = isinstance(action_space, spaces.MultiDiscrete)
        hint = "; wrap a Gymnasium vector environment in textgym.agents.SB3VecEnv(env)" if batched else ""
        raise ValueError(
            f"observation_space={observation_space}, action_space={action_space}; expected those of a language task: a "
            f"Dict of input_ids and attention_mask, and Discrete{hint}"
        )


def check_trainable(policy: LMPolicy) -> None:
    """Check that training can change the policy's distribution.

    Raises:
        ValueError: all of the model's parameters are frozen, or its code has no backward pass.
    """
    if not any(parameter.requires_grad for parameter in policy.lm.parameters()):
        raise ValueError(
            "all parameters of the model are frozen, so there is nothing to train; call model.requires_grad_(True), or "
            "name fewer in policy_kwargs['frozen']"
        )
    check_backward(policy.trunk)


@dataclass(frozen=True)
class Layout:
    """Sizes and tokens of a task that a policy is built from.

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
        ValueError: it is not a language environment.
    """
    check_spaces(env.observation_space, env.action_space)
    observations: Any = env.observation_space
    actions: Any = env.action_space
    ends = tuple(env_attribute(env, "end_token_ids"))
    return Layout(observations, actions, int(env_attribute(env, "prompt_length")), ends)


def layout_from_state(task: Mapping[str, Any] | None) -> Layout:
    """Return the layout that :func:`task_identity` kept in a checkpoint.

    Raises:
        ValueError: an older version wrote the checkpoint and did not keep it.
    """
    if task is None or not task.keys() >= {"ends", "tokens"}:
        raise ValueError("an older version wrote this checkpoint, without the sizes of its task; pass env=ID")
    width = (task["P"] + task["T"],)
    boxes = {"input_ids": (task["tokens"] - 1, np.int64), "attention_mask": (1, np.int8)}
    observations = spaces.Dict({name: spaces.Box(0, high, width, kind) for name, (high, kind) in boxes.items()})
    return Layout(observations, spaces.Discrete(task["V"]), task["P"], tuple(task["ends"]))


MUST_AGREE = ("P", "T", "V", "vocabulary")
"""Parts of :func:`task_identity` that must agree when training continues."""


def task_identity(env: VecEnv) -> dict[str, Any]:
    """Return the identity of a task that checkpoints keep.

    It holds ``P``, ``T``, ``V``, a digest of the ``vocabulary`` (None without a tokenizer), the end tokens (``ends``),
    and the number of ``tokens`` that an observation may show.
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
    """Check that an environment has the sizes and the vocabulary that an algorithm was trained with.

    Args:
        known: the :func:`task_identity` of the training so far; None if it was not kept.
        env: the environment to continue in.

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
            f"trained in a task of {there}; the environment has {here}. Continue in the same task, or start a new "
            "training with model=DIRECTORY in a task that fits the model"
        )


def restricts_actions(env: VecEnv) -> bool:
    """Return True if the environment's task forbids some tokens in some states."""
    return getattr(env_attribute(env, "mdp", None), "allowed", None) is not None


def check_plays(policy: LMPolicy, env: VecEnv, beta: float) -> None:
    """Check that a policy fits an environment, the first one or one passed to ``set_env``.

    Raises:
        ValueError: the model is too small for the task; the task ends responses with other tokens; both task and policy
            restrict actions; or the environment's ``ReferenceKL`` wrapper does not fit.
    """
    mdp = env_attribute(env, "mdp", None)
    if mdp is not None:
        check_fits(policy.lm, mdp.tokenizer, policy.n_actions, policy.width, policy.prompt_length)
    ends = tuple(env_attribute(env, "end_token_ids"))
    if ends != policy.end_token_ids:
        raise ValueError(
            f"env ends responses with the tokens {ends}, the policy with {policy.end_token_ids}; expected the same ones"
        )
    if restricts_actions(env) and policy.sampling.truncates:
        raise ValueError("top_k and top_p cannot be combined with a task that restricts actions; leave them out")
    check_wrapper(env, policy.sampling, beta)


def check_comparisons(
    mdp: TokenMDP, slots: Slots, algorithm: str, scores_alone: str, samples: int, score_together: bool
) -> None:
    """Check that a reward that compares responses gets all of a collection, and mates for each if it needs them.

    Args:
        mdp: a task with such a reward.
        slots: the rows that are to play it.
        algorithm: the algorithm's name, for messages.
        scores_alone: reason why it cannot use such a reward; empty if it can.
        samples: responses to each prompt.
        score_together: the algorithm's setting.

    Raises:
        ValueError: it does not.
    """
    if scores_alone:
        mdp.check_scores_alone(f"{algorithm} {scores_alone}", "use another algorithm, such as GRPO or RLOO")
    if not slots.puts_aside:
        mdp.check_scores_alone(
            "here each is scored in the step that ends it",
            "pass the task's id, or gym.make_vec(ID, autoreset_mode='Disabled') without wrappers and rendering"
            if score_together
            else "pass score_together=True",
        )
    if mdp.rewards.compares == "group" and samples < 2:
        mdp.check_scores_alone(
            f"{algorithm} samples one to each prompt, which leaves nothing to compare it with",
            "pass samples_per_prompt=4, say",
        )


def check_wrapper(env: VecEnv, sampling: Sampling, beta: float) -> None:
    """Check that a ``ReferenceKL`` wrapper measures the sampled distribution, and that the KL is subtracted once.

    Raises:
        ValueError: the wrapper has other sampling settings than the policy, or β is not 0.
    """
    wrapper = env_attribute(env, "kl_sampling", None)
    if wrapper is None:
        return
    if wrapper != sampling.shared:
        raise ValueError(f"the ReferenceKL wrapper has {wrapper}, the policy {sampling}; make them equal")
    if beta > 0:
        raise ValueError(
            f"the environment's ReferenceKL wrapper subtracts the KL already, and beta={beta} would subtract it again; "
            "pass beta=0, or leave the wrapper out"
        )
