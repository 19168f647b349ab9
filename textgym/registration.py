"""Registration of tasks by id, and the entry points of ``gym.make`` and ``gym.make_vec``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from textgym.env.mdp import TokenMDP
from textgym.env.single import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.names import suggest
from textgym.numbers import LARGEST, SettingError, count, finite, random_seed, shown
from textgym.rewards.builtin import NAMED
from textgym.rewards.compose import Named, WeightedRewards
from textgym.rewards.functions import Reward, reward_name
from textgym.rewards.specs.resolve import resolve_reward
from textgym.tasks import LATER_VERSIONS, PACKAGES, REAL, TASKS, task_id
from textgym.tasks.task import Task, TextMetric
from textgym.tokenization import turn_end_id
from textgym.types import completion_text

Maker: TypeAlias = Task | Callable[..., Any]
"""A task; a function that returns one; or a class whose instances are tasks, or have a ``build()`` that returns one."""

_ID = re.compile(r"(?P<namespace>[\w-]+)/[\w.-]+-v\d+")
_TAKEN = frozenset({"task", "reward", "split", "render_mode", "num_envs", "autoreset_mode", "vectorization_mode"})
"""Settings of every environment; parameters of tasks must not use these names."""

_own: dict[str, Maker] = {}
"""Registered makers, by id."""


def register_task(id: str, maker: Maker) -> None:
    """Register a task under an id, by which ``gym.make``, ``gym.make_vec``, algorithms and commands find it.

    Registering an id again with the same maker is harmless. A function that is defined again, as in a notebook or by a
    reload, replaces the old one.

    Args:
        id: ``"namespace/Name-v0"``, in a namespace of your own.
        maker: the task; a function that returns it, whose parameters become settings of ``gym.make``; or a class, whose
            constructor's parameters do, and whose instances are tasks or have a ``build()`` that returns one.

    Raises:
        TypeError: ``maker`` is none of these.
        ValueError: the id is malformed or belongs to a different task, or a parameter has the name of a setting that
            every environment has.
    """
    _check_id(id)
    _check_maker(id, maker)
    known = _own.get(id)
    if known is None and id in gym.registry:
        raise ValueError(f"id={id!r} is already an environment that is not a task; choose another name")
    # A notebook cell that is run again registers the same task again, which must not fail.
    if known is not None and not _same(known, maker):
        got = _shown(maker)
        anew = ". To define it anew, use a function at the top of a module: lambdas and inner ones look alike"
        raise ValueError(
            f"id={id!r} already belongs to another task: got {got}, registered is {_shown(known)}; choose another "
            f"name, or the next version{anew if '<' in got else ''}"
        )
    _own[id] = maker
    if id not in gym.registry:
        gym.register(id, f"{__name__}:make_env", vector_entry_point=f"{__name__}:make_vector_env", kwargs={"task": id})


def _check_id(id: str) -> None:
    match = _ID.fullmatch(id) if isinstance(id, str) else None
    if match is None or match["namespace"] == "textgym":
        raise ValueError(
            f"id={id!r}; expected 'namespace/Name-v0' with a namespace of your own, such as 'acme/Jokes-v0'"
        )


def _check_maker(id: str, maker: Any) -> None:
    if isinstance(maker, Task):
        return
    if not callable(maker):
        raise TypeError(
            f"maker of {id!r} is {_shown(maker)}; expected a textgym.tasks.task.Task, or a function or class that "
            "makes one"
        )
    if taken := sorted(_TAKEN.intersection(inspect.signature(maker).parameters)):
        raise ValueError(
            f"maker of {id!r} has the parameters {taken}, names of settings that every environment has; rename them"
        )


def _same(old: Maker, new: Maker) -> bool:
    """Return True if two makers are the same object, or one definition that was executed twice."""
    if old is new:
        return True
    names = [(getattr(maker, "__module__", None), getattr(maker, "__qualname__", "<")) for maker in (old, new)]
    # Lambdas and local functions may have the same name but different closures.
    return names[0] == names[1] and "<" not in names[0][1]


def _shown(maker: Any) -> str:
    if isinstance(maker, Task):
        return f"the task {maker.name}"
    return f"{maker.__module__}.{maker.__qualname__}" if hasattr(maker, "__qualname__") else repr(maker)


def load_task(name: str, /, **parameters: Any) -> Task:
    """Load a task by its id (``"textgym/Reviews-v0"``); a shipped one also by its name (``"Reviews"``, ``"Copy-v1"``).

    Args:
        name: the task's id or name. ``"module:id"`` first imports the module, which must register the id.
        parameters: the task's own parameters, such as ``sigma`` of Noise.

    Raises:
        ValueError: there is no such task (the nearest is named), its module cannot be imported, a number among the
            parameters is invalid, or one that the task needs is missing.
        TypeError: the maker does not return a task, or has no parameter of a given name.
    """
    maker = task_maker(name)
    if missing := _missing(maker, parameters):
        raise ValueError(f"task={name!r} needs the parameters {', '.join(missing)}; got {sorted(parameters) or 'none'}")
    made = maker(**_checked(maker, parameters))
    task = made.build() if not isinstance(made, Task) and hasattr(made, "build") else made
    if not isinstance(task, Task):
        raise TypeError(f"task={name!r}: its maker returned {type(task).__name__}; expected a textgym.tasks.task.Task")
    return task


def _missing(maker: Callable[..., Any], parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters without a default that are not given."""
    needed = (p for p in inspect.signature(maker).parameters.values() if p.default is p.empty)
    return [p.name for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in parameters]


def _checked(maker: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters of a task to plain numbers, if its maker's annotations say that they are numbers.

    Raises:
        ValueError: a value is not a number, or out of range; for shipped tasks, counts are at least 1 and floats at
            least 0.
    """
    shipped = getattr(maker, "__module__", "").startswith("textgym.tasks.")
    # Annotations are strings in modules with ``from __future__ import annotations`` and classes elsewhere; both reduce
    # to "int" and "float".
    kinds = {name: str(parameter.annotation) for name, parameter in inspect.signature(maker).parameters.items()}
    found = dict(parameters)
    for name, value in parameters.items():
        kind = kinds.get(name, "").removeprefix("<class '").removesuffix("'>")
        if value is None and kind.endswith(" | None"):
            continue
        kind = kind.removesuffix(" | None")
        if kind == "int":
            found[name] = random_seed(name, value) if name == "seed" else count(name, value, 1 if shipped else -LARGEST)
        elif kind == "float":
            found[name] = finite(name, value, 0) if shipped else finite(name, value)
        elif shipped and kind == "bool" and not isinstance(value, bool):
            raise SettingError(f"{name}={shown(value)}; expected True or False")
    return found


def task_maker(name: str) -> Callable[..., Any]:
    """Return the function that makes a task; see :func:`load_task`."""
    module, _, id = name.rpartition(":")
    if module:
        _import_for(name, module)
    if id in _own:
        maker = _own[id]
        # Callers expect a function, whose signature lists the parameters: a ready task has none.
        return (lambda: maker) if isinstance(maker, Task) else maker
    short = id.removeprefix("textgym/").removesuffix("-v0")
    known = {**TASKS, **LATER_VERSIONS, **PACKAGES, **REAL}
    if short not in known:
        raise ValueError(_unknown(name, id))
    source, function = known[short].split(":")
    shipped: Callable[..., Task] = attrgetter(function)(importlib.import_module(source))
    return shipped


def _import_for(name: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"task={name!r}: cannot import the module {module!r} ({error}); give a module that Python finds, for "
            "instance by PYTHONPATH=FOLDER"
        ) from error


def _unknown(name: str, id: str) -> str:
    names = (*TASKS, *LATER_VERSIONS, *PACKAGES, *REAL)
    ids = [*map(task_id, names), *_own]
    shown = [*(task_id(name) if "/" in id else name for name in names), *_own]
    hint = suggest(id, shown, after=" ", key=_short)  # compared without what most ids have in common
    return (
        f"task={name!r} is unknown; {hint}Known tasks: {', '.join(ids)}. Your own tasks are found after "
        "textgym.register_task, or as 'module:id'"
    )


def _short(id: str) -> str:
    return id.rpartition("/")[2].removesuffix("-v0")


def named_rewards(task: Task) -> dict[str, Reward]:
    """Return the rewards that can be named for a task: its gold reward, its proxies and metrics, and the built-in ones.

    >>> named_rewards(load_task("Reviews"))["good_words"].name
    'good_words'
    """
    metrics = {name: MetricReward(metric) for name, metric in task.metrics.items()}
    own = {**metrics, **{name: proxy.reward for name, proxy in task.proxies.items()}, "gold": task.gold}
    return {**NAMED, **{name: Named(reward, name) for name, reward in own.items()}}


@dataclass(frozen=True)
class MetricReward:
    """Metric of a task with the signature of a reward."""

    metric: TextMetric

    def __call__(self, prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        """Return one number for each completion."""
        return self.metric(prompts, [completion_text(completion) for completion in completions])


def task_mdp(task: Task, reward: Any = None, split: str = "train", **overrides: Any) -> TokenMDP:
    """Build the token MDP of a task.

    Args:
        task: the task.
        reward: by default the reward that the task pays; ``"gold"``; one of its proxies by name; any callable in TRL's
            signature; ``"rm:DIR"``, ``"module:function"`` or the name of a built-in, several as in ``"length,0.1
            gold"``; or a list of them, or of ``(reward, weight)``.
        split: the split of its prompts.
        overrides: further fields of :class:`textgym.env.mdp.TokenMDP`, such as ``max_new_tokens``.
    """
    paid = resolve_reward((task.reward or "gold") if reward is None else reward, named_rewards(task))
    if task.world is None and not {"prompts", "world"} & overrides.keys():
        _check_columns(task, split, paid)
    fields: dict[str, Any] = {
        "tokenizer": task.tokenizer,
        "prompts": task.prompts(split),
        "reward": paid,
        "end_token_ids": task.end_token_ids,
        "max_prompt_length": task.max_prompt_length,
        "max_new_tokens": task.max_new_tokens,
        "vocabulary_size": task.vocabulary_size,
        "base_model": task.base_model,
        "world": task.world,
        "turn_end_ids": task.turn_end_ids,
        "max_turn_tokens": task.max_turn_tokens,
        "glue": task.glue,
    }
    return TokenMDP(**{**fields, **_turns(task, overrides), **overrides})


def _check_columns(task: Task, split: str, reward: WeightedRewards) -> None:
    """Check that a split has the columns that a reward requires; some data sets keep the references of ``test``.

    Raises:
        ValueError: it lacks one that another split has.
    """
    columns = {
        name: {column for prompt in prompts for column in prompt.columns} for name, prompts in task.splits.items()
    }
    for one in reward.rewards:
        for column in getattr(one, "required_columns", ()):
            if having := [name for name, own in columns.items() if column in own and column not in columns[split]]:
                raise ValueError(
                    f"task {task.name}: the split {split!r} has no {column}, which the reward {reward_name(one)!r} "
                    f"requires; use a reward without it, or one of the splits {', '.join(having)}"
                )


def _turns(task: Task, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of turns for a world that was given to a task without one.

    The token that ends the assistant's turn in the chat template then ends a turn, and no longer the response.
    """
    end = turn_end_id(task.tokenizer)
    if overrides.get("world") is None or task.world is not None or "turn_end_ids" in overrides or end is None:
        return {}
    ends = tuple(i for i in overrides.get("end_token_ids", task.end_token_ids) if i != end)
    return {"turn_end_ids": (end,), "end_token_ids": ends}


def made_mdp(task: str, settings: dict[str, Any]) -> TokenMDP:
    """Build a task's token MDP from mixed settings: parameters of the task, and those of :func:`task_mdp`.

    Raises:
        TypeError: neither has a setting of a given name; the nearest is named.
    """
    # Unknown names are reported here, with those of both levels; a TypeError from deeper down would name only one.
    own = inspect.signature(task_maker(task)).parameters
    known = [*own, "reward", "split", *(field.name for field in fields(TokenMDP) if field.name != "reward")]
    for name in settings:
        if name not in known:
            hint = suggest(name, known, before="; ")
            raise TypeError(f"task={task!r} has no setting {name!r}{hint}; it has {', '.join(known)}")
    parameters = {name: value for name, value in settings.items() if name in own}
    rest = {name: value for name, value in settings.items() if name not in own}
    return task_mdp(load_task(task, **parameters), **rest)


def make_env(task: str, render_mode: str | None = None, **settings: Any) -> TokenEnv:
    """Make an environment: the entry point of ``gym.make``; ``settings`` are those of :func:`made_mdp`."""
    return TokenEnv(made_mdp(task, settings), render_mode)


make_env.metadata = TokenEnv.metadata  # type: ignore[attr-defined]  # through which Gymnasium supports "rgb_array_list"


def make_vector_env(
    task: str,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **settings: Any,
) -> TokenVectorEnv:
    """Make a vector environment: the entry point of ``gym.make_vec``; ``settings`` are those of :func:`made_mdp`.

    Raises:
        ValueError: ``max_episode_steps``, which Gymnasium passes on from a spec, is below the horizon.
    """
    mdp = made_mdp(task, settings)
    if max_episode_steps is not None and max_episode_steps < mdp.max_new_tokens:
        raise ValueError(
            f"max_episode_steps={max_episode_steps} is below the horizon of {mdp.max_new_tokens} tokens; pass "
            f"max_new_tokens={max_episode_steps}, or vectorization_mode='sync', in which Gymnasium truncates"
        )
    return TokenVectorEnv(mdp, num_envs, autoreset_mode, render_mode)
