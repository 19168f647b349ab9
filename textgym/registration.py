"""From a task to an environment: what ``gym.make`` and ``gym.make_vec`` call."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from gymnasium.vector import AutoresetMode

from textgym.env import TokenEnv
from textgym.mdp import TokenMDP
from textgym.rewards.builtin import NAMED
from textgym.rewards.resolve import resolve_reward
from textgym.tasks import TASKS
from textgym.tasks.task import Task
from textgym.vector import TokenVectorEnv


def load_task(name: str, **parameters: Any) -> Task:
    """A shipped task by its name (``"Reviews"``) or id (``"textgym/Reviews-v0"``).

    Args:
        name: of the task.
        parameters: the task's own, such as ``sigma`` of Noise.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    return task_function(name)(**parameters)


def task_function(name: str) -> Callable[..., Task]:
    """The function that makes a task; see :func:`load_task`."""
    short = name.removeprefix("textgym:").removeprefix("textgym/").removesuffix("-v0")
    if short not in TASKS:
        ids = [f"textgym/{known}-v0" for known in TASKS]
        near = difflib.get_close_matches(name, [*ids, *TASKS], n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"task={name!r} is unknown; {hint}Known tasks: {', '.join(ids)}")
    module, function = TASKS[short].split(":")
    maker: Callable[..., Task] = getattr(importlib.import_module(module), function)
    return maker


def task_mdp(task: Task, reward: Any = None, split: str = "train", **overrides: Any) -> TokenMDP:
    """The token MDP of a task.

    Args:
        task: prompts, sizes, gold reward.
        reward: by default what the task pays; its ``"gold"``; one of its proxies by name; any callable in TRL's signature; ``"rm:DIR"``,
            ``"module:function"`` or the name of a built-in, several as in ``"length,0.1 gold"``; or a list of them,
            or of ``(reward, weight)``.
        split: which prompts.
        overrides: further fields of :class:`textgym.mdp.TokenMDP`, such as ``max_new_tokens``.
    """
    named = {**NAMED, **{name: proxy.reward for name, proxy in task.proxies.items()}, "gold": task.gold}
    fields: dict[str, Any] = {
        "tokenizer": task.tokenizer,
        "prompts": task.prompts(split),
        "reward": resolve_reward(task.reward or "gold" if reward is None else reward, named),
        "end_token_ids": task.end_token_ids,
        "max_prompt_length": task.max_prompt_length,
        "max_new_tokens": task.max_new_tokens,
        "vocabulary_size": task.vocabulary_size,
        "base_model": task.base_model,
    }
    return TokenMDP(**{**fields, **overrides})


def made_mdp(task: str, settings: dict[str, Any]) -> TokenMDP:
    """A task's token MDP from mixed settings: parameters of the task, and those of :func:`task_mdp`."""
    own = inspect.signature(task_function(task)).parameters
    parameters = {name: value for name, value in settings.items() if name in own}
    rest = {name: value for name, value in settings.items() if name not in own}
    return task_mdp(load_task(task, **parameters), **rest)


def make_env(task: str, render_mode: str | None = None, **settings: Any) -> TokenEnv:
    """Entry point of ``gym.make``; ``settings`` are those of :func:`made_mdp`."""
    return TokenEnv(made_mdp(task, settings), render_mode)


def make_vector_env(
    task: str,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **settings: Any,
) -> TokenVectorEnv:
    """Entry point of ``gym.make_vec``; ``settings`` are those of :func:`made_mdp`."""
    return TokenVectorEnv(made_mdp(task, settings), num_envs, autoreset_mode, render_mode)
