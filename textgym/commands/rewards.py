"""``textgym rewards``: the rewards that a specification can name."""

from __future__ import annotations

import inspect

from textgym.commands.configs.rewards import RewardsConfig
from textgym.registration import load_task, named_rewards
from textgym.rewards.builtin import NAMED
from textgym.rewards.signatures import signature
from textgym.rewards.specs.options import described_options
from textgym.rewards.specs.shelf import find_on_shelf, line_about, shelf_names


def show_rewards(config: RewardsConfig) -> None:
    """Print the rewards of the shelf and of a task, or describe one.

    Raises:
        ValueError: there is no such reward, or no such task.
    """
    own = {} if config.task is None else _of_task(config.task)
    if config.name is not None:
        print(own[config.name] if config.name in own else described(config.name))
        return
    lines = {name: line_about(name) for name in shelf_names()}
    width = max(map(len, [*lines, *own]))
    print("\n".join(f"{name:{width}}  {line}" for name, line in lines.items()))
    if own:
        print(f"\nof {config.task}:\n" + "\n".join(f"{name:{width}}  {line}" for name, line in own.items()))
    print("\n'textgym rewards NAME' describes one. Your own: path/to/file.py:function, or module:function.")


def described(name: str) -> str:
    """Return a reward's docstring, below the form in which it is written with its options and their defaults."""
    found = find_on_shelf(name)
    options = described_options(found)
    if options and options[0].isupper():
        options[0] = f"{name}:{options[0]}"
        form = ",".join(options)
    else:
        form = ",".join([name, *options])
    return f"{form}\n\n{inspect.getdoc(found) or ''}"


def _of_task(task_id: str) -> dict[str, str]:
    """Return the rewards that a task adds, with their signatures."""
    found = named_rewards(load_task(task_id))
    return {name: signature(reward) for name, reward in found.items() if name not in NAMED}
