"""Calling a reward safely: a mistake is an error that names the reward, and never a training signal."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import math
import numbers
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

import numpy as np
import torch

from textgym.types import Score

T = TypeVar("T")
Scores: TypeAlias = Sequence[Score] | Awaitable[Sequence[Score]]
Reward: TypeAlias = Callable[..., Scores]
"""A :class:`textgym.types.RewardFunction`, or any function of TRL's that names only the arguments it uses."""

RESERVED = ("prompts", "completions", "completion_ids")
_SHOWN = 300  # characters of a prompt or completion in a message


class RewardError(RuntimeError):
    """A reward raised an exception, or returned something that is not a score."""


@dataclass(frozen=True)
class Batch:
    """What one call of a reward receives: ``N`` prompts, completions, id lists, and ``N`` values a column."""

    prompts: list[Any]
    completions: list[str]
    completion_ids: list[list[int]]
    columns: Mapping[str, list[Any]]

    def __post_init__(self) -> None:
        fields: dict[str, Sequence[Any]] = {
            "completions": self.completions,
            "completion_ids": self.completion_ids,
            **self.columns,
        }
        for name, values in fields.items():
            if len(values) != len(self):
                raise ValueError(
                    f"a reward is called with one entry for each of the {len(self)} prompts, "
                    f"got {len(values)} in {name!r}"
                )
        if clash := sorted(set(RESERVED) & set(self.columns)):
            raise ValueError(f"columns {clash} carry the names of reward arguments: rename them in the data")

    def __len__(self) -> int:
        return len(self.prompts)

    def row(self, i: int) -> Batch:
        """The batch that holds completion ``i`` alone."""
        columns = {name: [values[i]] for name, values in self.columns.items()}
        return Batch([self.prompts[i]], [self.completions[i]], [self.completion_ids[i]], columns)

    def send(self, reward: Reward) -> Scores:
        """Call ``reward``, by keyword as TRL does: a reward names only the arguments that it uses."""
        return reward(
            prompts=self.prompts,
            completions=self.completions,
            completion_ids=self.completion_ids,
            **self.columns,
        )


def reward_name(reward: Callable[..., object]) -> str:
    """The name under which a reward is logged: its ``.name``, its ``__name__``, or that of its class."""
    if isinstance(reward, functools.partial):
        return reward_name(reward.func)
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return name.strip("<>").lstrip("_") if isinstance(name, str) else type(reward).__name__


def call_reward(
    reward: Reward,
    prompts: list[Any],
    completions: list[str],
    completion_ids: list[list[int]],
    columns: Mapping[str, list[Any]],
) -> list[Score]:
    """Score ``N`` completions with one reward, sync or async.

    Args:
        reward: see :class:`textgym.types.RewardFunction`.
        prompts: ``N`` texts or conversations.
        completions: ``N`` texts.
        completion_ids: ``N`` lists of sampled tokens.
        columns: ``N`` entries for each column of the data.

    Returns:
        ``N`` scores: a float, a list with one float for each sampled token, or None.

    Raises:
        RewardError: the reward raised, or returned the wrong number or kind of scores, NaN or infinity. An
            exception of the reward is its ``__cause__``.
    """
    return call_rewards([reward], Batch(prompts, completions, completion_ids, columns))[0]


def call_rewards(rewards: Sequence[Reward], batch: Batch) -> list[list[Score]]:
    """Score a batch with several rewards; the async ones are awaited concurrently.

    Returns:
        One list of ``N`` scores for each reward, in their order.

    Raises:
        RewardError: as :func:`call_reward`.
    """
    results: list[Any] = []
    try:
        for reward in rewards:
            results.append(_start(reward, batch))
    except RewardError:
        for result in results:
            if inspect.iscoroutine(result):
                result.close()
        raise
    pending = {i: result for i, result in enumerate(results) if inspect.isawaitable(result)}
    if pending:
        for i, outcome in zip(pending, _run(_settle(list(pending.values()))), strict=True):
            if isinstance(outcome, Exception):
                _raise_for_first_rows(rewards[i], batch, outcome)
            results[i] = outcome
    return [_validated(reward, result, batch) for reward, result in zip(rewards, results, strict=True)]


def check_signature(reward: Callable[..., object]) -> None:
    """Refuse, before any work starts, what could not be called as a reward.

    Raises:
        TypeError: it is not callable, or does not take the keywords that every reward receives.
    """
    if not callable(reward):
        raise TypeError(f"a reward must be callable, got {type(reward).__name__}: {reward!r}")
    try:
        signature = inspect.signature(reward)
    except (TypeError, ValueError):  # some builtins tell no signature
        return
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        raise TypeError(
            f"reward {reward_name(reward)!r} must accept any column, got the signature {signature}: "
            "add **kwargs as its last parameter"
        )


def _start(reward: Reward, batch: Batch) -> Scores:
    try:
        return batch.send(reward)
    except Exception as error:
        _raise_for_offender(reward, batch, error)


def _raise_for_offender(reward: Reward, batch: Batch, error: Exception) -> NoReturn:
    """Find the completion that a failing batch fails on, by calling the reward on one at a time."""
    for i in range(len(batch)) if len(batch) > 1 else ():
        row = batch.row(i)
        try:
            result = row.send(reward)
        except Exception as row_error:
            raise RewardError(
                f"reward {reward_name(reward)!r} raised {_described(row_error)} on completion {i} "
                f"of {len(batch)}:\n{_shown(row)}"
            ) from row_error
        if inspect.iscoroutine(result):
            result.close()
    _raise_for_first_rows(reward, batch, error)


def _raise_for_first_rows(reward: Reward, batch: Batch, error: Exception) -> NoReturn:
    shown = "\n".join(_shown(batch.row(i)) for i in range(min(2, len(batch))))
    which = "the completion" if len(batch) == 1 else f"one of {len(batch)} completions; the first are"
    raise RewardError(f"reward {reward_name(reward)!r} raised {_described(error)} on {which}:\n{shown}") from error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(row: Batch) -> str:
    texts = {"prompt": str(row.prompts[0]), "completion": row.completions[0]}
    cut = {name: text if len(text) <= _SHOWN else text[:_SHOWN] + "…" for name, text in texts.items()}
    return "\n".join(f"  {name}: {text!r}" for name, text in cut.items())


async def _settle(pending: list[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*pending, return_exceptions=True)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, also where a loop already runs in this thread, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()


def _validated(reward: Reward, result: Any, batch: Batch) -> list[Score]:
    name = reward_name(reward)
    if not _is_list(result):
        raise RewardError(
            f"reward {name!r} must return a list with one score for each completion, "
            f"got {type(result).__name__}: {result!r:.200}"
        )
    if len(result) != len(batch):
        raise RewardError(
            f"reward {name!r} must return one score for each of the {len(batch)} completions, "
            f"got {len(result)}; give None where it does not apply"
        )
    scores: list[Score] = []
    for i, value in enumerate(result):
        try:
            scores.append(_score(value, len(batch.completion_ids[i])))
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"reward {name!r}, completion {i} of {len(batch)}: {error}\n{_shown(batch.row(i))}"
            ) from error
    return scores


def _score(value: Any, tokens: int) -> Score:
    if value is None:
        return None
    if _is_list(value):
        if len(value) != tokens:
            raise ValueError(
                f"a dense score has one number for each sampled token, expected {tokens}, got {len(value)}"
            )
        return [_number(entry) for entry in value]
    return _number(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (_is_array(value) and value.ndim > 0)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _number(value: Any) -> float:
    if _is_array(value) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, numbers.Real | np.bool_):
        got = f"{type(value).__name__}: {value!r:.200}"
        raise TypeError(f"expected a number, a list of numbers or None, got {got}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {number}")
    return number
