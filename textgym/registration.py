"""From a task to an environment: what ``gym.make`` and ``gym.make_vec`` call."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from gymnasium.vector import AutoresetMode

from textgym.env import TokenEnv
from textgym.mdp import TokenMDP
from textgym.rewards.builtin import NAMED
from textgym.rewards.resolve import resolve_reward
from textgym.tasks import TASKS
from textgym.tasks.task import Task
from textgym.vector import TokenVectorEnv


def load_task(name: str) -> Task:
    """A shipped task by its name (``"Reviews"``) or id (``"textgym/Reviews-v0"``).

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    short = name.removeprefix("textgym:").removeprefix("textgym/").removesuffix("-v0")
    if short not in TASKS:
        ids = [f"textgym/{known}-v0" for known in TASKS]
        near = difflib.get_close_matches(name, [*ids, *TASKS], n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"task={name!r} is unknown; {hint}Known tasks: {', '.join(ids)}")
    module, function = TASKS[short].split(":")
    task: Task = getattr(importlib.import_module(module), function)()
    return task


def task_mdp(task: Task, reward: Any = "gold", split: str = "train", **overrides: Any) -> TokenMDP:
    """The token MDP of a task.

    Args:
        task: prompts, sizes, gold reward.
        reward: the task's ``"gold"``; any callable in TRL's signature; ``"rm:DIR"``, ``"module:function"`` or the
            name of a built-in, several as in ``"length,0.1 gold"``; or a list of them, or of ``(reward, weight)``.
        split: which prompts.
        overrides: further fields of :class:`textgym.mdp.TokenMDP`, such as ``max_new_tokens``.
    """
    fields: dict[str, Any] = {
        "tokenizer": task.tokenizer,
        "prompts": task.prompts(split),
        "reward": resolve_reward(reward, {**NAMED, "gold": task.gold}),
        "end_token_ids": task.end_token_ids,
        "max_prompt_length": task.max_prompt_length,
        "max_new_tokens": task.max_new_tokens,
        "base_model": task.base_model,
    }
    return TokenMDP(**{**fields, **overrides})


def make_env(task: str, render_mode: str | None = None, **settings: Any) -> TokenEnv:
    """Entry point of ``gym.make``; ``settings`` are those of :func:`task_mdp`."""
    return TokenEnv(task_mdp(load_task(task), **settings), render_mode)


def make_vector_env(
    task: str,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **settings: Any,
) -> TokenVectorEnv:
    """Entry point of ``gym.make_vec``; ``settings`` are those of :func:`task_mdp`."""
    return TokenVectorEnv(task_mdp(load_task(task), **settings), num_envs, autoreset_mode, render_mode)
