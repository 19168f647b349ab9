"""Calls of reward functions: their signature, their arguments, and checks of what they return."""

from __future__ import annotations

import copy
import inspect
import math
import numbers
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NoReturn, TypeAlias, overload

import numpy as np
import torch

from textgym.calls import IN_FLIGHT, OvertimeError, Raised, call_all
from textgym.names import suggest
from textgym.numbers import LARGEST_FLOAT
from textgym.types import Score

# --- scores from what a reward returns -------------------------------------------------------------------------


def as_list(result: Any, count: int) -> list[Any]:
    """Return the ``count`` entries of a list, a tuple, an array or a tensor.

    Raises:
        TypeError, ValueError: the value is none of these, has a different number of entries, or cannot be read.
    """
    try:
        values = _plain(result)
    except ValueError as error:
        raise ValueError(f"must return a list with one score for each completion, {error}") from error
    if not isinstance(values, list | tuple):
        raise TypeError(
            f"must return a list with one score for each completion, got {type(result).__name__}: {short_repr(result)}"
        )
    if len(values) != count:
        raise ValueError(
            f"must return one score for each of the {count} completions, got {len(values)}; give None where it does "
            "not apply"
        )
    return list(values)


def as_score(value: Any, tokens: int) -> Score:
    """Convert one entry to a score: a float, a list of ``tokens`` floats, or None.

    Raises:
        TypeError, ValueError: the value is not a number that float32 can hold, cannot be read, or is a list of the
            wrong length.
    """
    if type(value) is float:  # the common case, kept fast
        return trainable(value)
    value = _plain(value)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        return as_number(value)
    if len(value) != tokens:
        raise ValueError(f"a dense score has one number for each sampled token, expected {tokens}, got {len(value)}")
    return [as_number(entry) for entry in value]


def as_number(value: Any) -> float:
    """Return a float that float32 can hold.

    Raises:
        TypeError, ValueError: the value is no such number.
    """
    value = _plain(value)
    if not isinstance(value, numbers.Real | np.bool_):
        raise TypeError(
            f"expected a number, a list of numbers or None, got {type(value).__name__}: {short_repr(value)}"
        )
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(
            f"expected a finite number, got one of type {type(value).__name__} that is too large for a float"
        ) from error
    return trainable(number)


def trainable(number: float) -> float:
    """Return the number if float32 can hold it.

    Raises:
        ValueError: it is NaN, infinite, or beyond float32.
    """
    if not abs(number) <= LARGEST_FLOAT:  # negated, so that NaN is rejected too
        why = f", which float32 cannot hold (at most {LARGEST_FLOAT:.2g})" if math.isfinite(number) else ""
        raise ValueError(f"expected a finite number, got {number}{why}")
    return number


def short_repr(value: Any) -> str:
    """Return the beginning of a value's ``repr``, if it has one."""
    try:
        return f"{value!r:.200}"
    except Exception:  # e.g. for an integer of thousands of digits
        return "(cannot be shown)"


def _plain(value: Any) -> Any:
    """Convert arrays and tensors to Python numbers and lists; other values are returned unchanged."""
    if not isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value
    try:
        return value.tolist()
    except (RuntimeError, TypeError) as error:  # a tensor on the meta device has no numbers, a sparse one no list
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"got a {type(value).__name__} that cannot be read ({reason}); return numbers, or a dense tensor"
        ) from error


# --- a batch and its rewards -----------------------------------------------------------------------------------

Scores: TypeAlias = Sequence[Score] | Awaitable[Sequence[Score]]
Reward: TypeAlias = Callable[..., Scores]
"""A :class:`textgym.types.RewardFunction`, or any function of TRL's that names only the arguments it uses."""

RESERVED = ("prompts", "completions", "completion_ids")
ALWAYS_THERE = ("prompt_ids", "episode_seed", "finish_reason")
"""Columns that the environment adds to those of the data."""

EPISODE_GROUP = "episode_group"
"""Further column where the responses of an iteration are scored together: the group of each."""

Compared: TypeAlias = Literal["group", "batch"]
"""What a reward compares a response with: the others of its group, or all others of the iteration."""

SMALLEST_PART = 16
"""Fewest completions in one call of an async reward when a batch is split into concurrent calls."""

_SHOWN = 300  # characters of a prompt or completion in a message


class RewardError(RuntimeError):
    """A reward raised an exception, or returned something that is not a score."""


@dataclass(frozen=True)
class Batch:
    """Arguments of one reward call: ``N`` prompts, completions and id lists, and ``N`` values for each column."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[list[int]]
    columns: Mapping[str, Sequence[Any]]

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

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Concatenate batches that have the same columns, in their order."""
        return cls(
            [prompt for batch in batches for prompt in batch.prompts],
            [completion for batch in batches for completion in batch.completions],
            [ids for batch in batches for ids in batch.completion_ids],
            {name: [value for batch in batches for value in batch.columns[name]] for name in batches[0].columns},
        )

    def part(self, start: int, stop: int) -> Batch:
        """Return the completions from ``start`` to before ``stop`` as a batch."""
        # Slices, which also work on lazily decoded texts and keep them lazy.
        rows = slice(start, stop)
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Batch(self.prompts[rows], self.completions[rows], self.completion_ids[rows], columns)

    def row(self, i: int) -> Batch:
        """Return completion ``i`` alone as a batch."""
        return self.part(i, i + 1)

    def send(self, reward: Reward) -> Scores:
        """Call ``reward`` by keyword, as TRL does: a reward names only the arguments that it uses.

        The arguments are copies, so that a reward that changes them affects neither other rewards nor later calls.
        """
        texts = self.completions
        return reward(
            prompts=[_copied(prompt) for prompt in self.prompts],
            # Lazily decoded texts are not a list. They cannot be edited, and a copy would decode them all.
            completions=[_copied(text) for text in texts] if isinstance(texts, list) else texts,
            completion_ids=[list(ids) for ids in self.completion_ids],
            **{name: [_copied(value) for value in values] for name, values in self.columns.items()},
        )

    def described(self, i: int) -> str:
        """Return prompt and completion ``i`` for a message, shortened if they are long."""
        texts = {"prompt": str(self.prompts[i]), "completion": str(self.completions[i])}
        cut = {name: text if len(text) <= _SHOWN else text[:_SHOWN] + "…" for name, text in texts.items()}
        return "\n".join(f"  {name}: {text!r}" for name, text in cut.items())

    def first_described(self) -> str:
        """Return the first two completions for a message."""
        return "\n".join(self.described(i) for i in range(min(2, len(self))))


class LazyList(Sequence[Any]):
    """Texts that are made only when a reward reads them; most rewards of small tasks read the ids alone."""

    def __init__(self, length: int, make: Callable[[int], Any]) -> None:
        self.length = length
        self.make = make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        places = range(self.length)[index]
        return self.make(places) if isinstance(places, int) else [self.make(i) for i in places]


_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})


def _copied(value: Any) -> Any:
    """Return a deep copy; values that cannot be copied, such as an open connection, are shared."""
    if type(value) in _ATOMS:
        return value
    if type(value) is list and _ATOMS.issuperset(map(type, value)):
        return value.copy()  # the common case, lists of tokens: ``deepcopy`` would visit every element
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def reward_name(reward: Callable[..., object]) -> str:
    """Return the name of a reward in logs: its ``.name``, its ``__name__``, or the name of its class."""
    if isinstance(reward, partial):
        return reward_name(reward.func)
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return name.strip("<>").lstrip("_") if isinstance(name, str) else type(reward).__name__


def compared(reward: Callable[..., object]) -> Compared | None:
    """Return what a reward compares a response with, its ``compares``; None for one that scores each by itself.

    ``functools.partial`` and decorators that set ``__wrapped__`` are looked through.
    """
    layer: Any = reward
    while layer is not None:
        if (found := getattr(layer, "compares", None)) is not None:
            return found  # type: ignore[no-any-return]
        layer = layer.func if isinstance(layer, partial) else getattr(layer, "__wrapped__", None)
    return None


def strongest(found: Iterable[Compared | None]) -> Compared | None:
    """Return what several rewards together need: a group's comparison needs all that a batch's does, and mates."""
    kinds = set(found)
    return "group" if "group" in kinds else "batch" if "batch" in kinds else None


def call_reward(
    reward: Reward,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[list[int]],
    columns: Mapping[str, Sequence[Any]],
    timeout: float | None = None,
) -> list[Score]:
    """Score ``N`` completions with one reward, sync or async.

    Args:
        reward: see :class:`textgym.types.RewardFunction`.
        prompts: ``N`` texts or conversations.
        completions: ``N`` texts.
        completion_ids: ``N`` lists of sampled tokens.
        columns: ``N`` entries for each column of the data.
        timeout: see :func:`call_rewards`.

    Returns:
        ``N`` scores: a float, a list with one float for each sampled token, or None.

    Raises:
        RewardError: the reward raised (``SystemExit`` included), took too long, or returned the wrong number or kind of
            scores, NaN, or a number beyond float32. An exception of the reward is its ``__cause__``.
    """
    return call_rewards([reward], Batch(prompts, completions, completion_ids, columns), timeout)[0]


def call_rewards(rewards: Sequence[Reward], batch: Batch, timeout: float | None = None) -> list[list[Score]]:
    """Score a batch with several rewards.

    A coroutine function is called with parts of a large batch. The calls of all async rewards are awaited together, up
    to :data:`textgym.calls.IN_FLIGHT` at the same time. If a call raises, its batch is bisected to find the
    offending completion. A reward that compares responses (:func:`compared`) is called once, with the whole batch, also
    if that call raises.

    Args:
        rewards: each receives its own copies of the batch.
        batch: ``N`` completions.
        timeout: time limit of one call, in seconds. Rewards then run in daemon threads, so that one that hangs does not
            keep the process from ending. None means no limit, and no thread.

    Returns:
        One list of ``N`` scores for each reward, in their order.

    Raises:
        RewardError: see :func:`call_reward`.
    """
    parts = [_parts(reward, batch) for reward in rewards]
    calls = [(reward, part) for reward, own in zip(rewards, parts, strict=True) for part in own]
    # All calls are made first and only then regrouped by reward, so that async calls of all rewards overlap.
    answers = iter(_answers(calls, timeout))
    listed = [
        [value for part in own for value in _listed(reward, next(answers), part)]
        for reward, own in zip(rewards, parts, strict=True)
    ]
    return [checked_scores(reward, values, batch) for reward, values in zip(rewards, listed, strict=True)]


# --- checks before any call ---------------------------------------------------------------------------------------


def check_signature(reward: Callable[..., object]) -> None:
    """Check, before any work starts, that an object can be called as a reward.

    Raises:
        TypeError: it is not callable, or does not accept the keywords that every reward receives.
    """
    if not callable(reward):
        raise TypeError(f"a reward must be callable, got {type(reward).__name__}: {reward!r}")
    parameters = _parameters(reward)
    if parameters is None:
        return
    name, signature = reward_name(reward), inspect.Signature(parameters)
    if inspect.Parameter.VAR_KEYWORD not in {parameter.kind for parameter in parameters}:
        raise TypeError(
            f"reward {name!r} must accept any column, got the signature {signature}: add **kwargs as its last parameter"
        )
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f"reward {name!r} is called by keyword, but takes {parameter.name!r} by position only, got the "
                f"signature {signature}: remove the /"
            )


def check_columns(reward: Callable[..., object], columns: Iterable[str]) -> None:
    """Check that the data has every column that a reward requires.

    Args:
        reward: its required parameters count, and its attribute ``required_columns``, if it has one.
        columns: the columns of the data.

    Raises:
        ValueError: a required name is neither a column nor an argument that every reward receives.
    """
    given, always = sorted(set(columns) - {*RESERVED, *ALWAYS_THERE}), [*RESERVED, *ALWAYS_THERE]
    for name in required_names(reward):
        if name not in given and name not in always:
            hint = suggest(name, [*given, *always], after=" ")
            option = next((one for one in _options(reward) if getattr(reward, one) == name), None)
            remedy = "give the parameter a default" if option is None else f"name another one with {option}=COLUMN"
            raise ValueError(
                f"reward {reward_name(reward)!r} requires {name!r}, which the data does not have: {hint}Columns of the "
                f"data are {', '.join(given) or 'none'}; every reward receives {', '.join(always)}. Add the column, "
                f"or {remedy}"
            )


def required_names(reward: Callable[..., object]) -> tuple[str, ...]:
    """Return the names that a reward requires, by parameters without a default or by its ``required_columns``."""
    required = [p.name for p in _parameters(reward) or () if p.kind in _BY_KEYWORD and p.default is p.empty]
    return tuple(dict.fromkeys([*required, *getattr(reward, "required_columns", ())]))


def _options(reward: Callable[..., object]) -> list[str]:
    return [one.name for one in fields(reward)] if is_dataclass(reward) else []


_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(reward: Callable[..., object]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(reward).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature to inspect
        return None


# --- calling ------------------------------------------------------------------------------------------------------


def _parts(reward: Reward, batch: Batch) -> list[Batch]:
    """Return the batches that a reward is called with: several if the calls can run concurrently."""
    # Splitting pays only if calls can overlap, and each call has overhead, so parts are not made too small.
    divisible = _is_async(reward) and compared(reward) is None
    count = min(IN_FLIGHT, len(batch) // SMALLEST_PART) if divisible else 1
    if count < 2:
        return [batch]
    bounds = [len(batch) * i // count for i in range(count + 1)]
    return [batch.part(*pair) for pair in pairwise(bounds)]


def _is_async(reward: Reward) -> bool:
    while isinstance(reward, partial):
        reward = reward.func
    # Decorators that set ``__wrapped__``, and objects with an async ``__call__``, count as async too.
    function = inspect.unwrap(reward)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def _answers(calls: Sequence[tuple[Reward, Batch]], timeout: float | None) -> list[Any]:
    """Call rewards: first the sync ones in turn, then the async ones concurrently."""
    try:
        answers = call_all([partial(batch.send, reward) for reward, batch in calls], timeout)
    except OvertimeError as late:
        _raise_for_time(*calls[late.which], timeout)
    for call, answer in zip(calls, answers, strict=True):
        if isinstance(answer, Raised):
            _raise_for_offender(*call, answer.error, timeout)
    return answers


def _fails(reward: Reward, batch: Batch, timeout: float | None) -> BaseException | None:
    """Return the exception that a reward raises on a batch; None if it returns."""
    try:
        (answer,) = call_all([partial(batch.send, reward)], timeout)
    except OvertimeError as late:
        return late
    return answer.error if isinstance(answer, Raised) else None


def _raise_for_offender(reward: Reward, batch: Batch, error: BaseException, timeout: float | None) -> NoReturn:
    """Bisect a failing batch and raise an error that names the completion on which the reward fails.

    A reward that raises a RewardError has named the completion itself, and is not asked again; nor is one that compares
    responses, which needs all of them.
    """
    if isinstance(error, RewardError):
        if str(error).startswith("reward "):  # of a part of it, which is named already
            raise error
        raise RewardError(f"reward {reward_name(reward)!r}: {error}") from error
    if compared(reward) is not None:
        raise RewardError(
            f"reward {reward_name(reward)!r} raised {type(error).__name__}: {error} on {len(batch)} completions, which "
            f"it compares with each other; the first are:\n{batch.first_described()}"
        ) from error
    # Calling the reward on half of the batch at a time needs O(log N) calls. A failure that depends on several
    # completions together, or that does not recur, shows on neither half; the search then ends at the smallest batch
    # that failed.
    start, stop = 0, len(batch)
    while stop - start > 1:
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            found = _fails(reward, batch.part(*half), timeout)
            # A half that is too slow is reported as such; searching on would wait for the time limit again and again.
            if isinstance(found, OvertimeError):
                _raise_for_time(reward, batch.part(*half), timeout)
            if found is not None:
                (start, stop), error = half, found
                break
        else:
            break
    where = "the completion" if len(batch) == 1 else f"completion {start} of {len(batch)}"
    if stop - start > 1:
        where = (
            f"completions {start} to {stop - 1} of {len(batch)} together, but on neither half of them when it was "
            "asked again; the first are"
        )
    raise RewardError(
        f"reward {reward_name(reward)!r} raised {type(error).__name__}: {error} on {where}:\n"
        f"{batch.part(start, stop).first_described()}"
    ) from error


def _raise_for_time(reward: Reward, batch: Batch, timeout: float | None) -> NoReturn:
    what = "the completion" if len(batch) == 1 else f"{len(batch)} completions; the first are"
    raise RewardError(
        f"reward {reward_name(reward)!r} took longer than its time limit of {timeout:g} seconds on {what}:\n"
        f"{batch.first_described()}"
    ) from None


# --- checks of a reward's return value ----------------------------------------------------------------------------


def _listed(reward: Reward, answer: Any, batch: Batch) -> list[Any]:
    try:
        return as_list(answer, len(batch))
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {reward_name(reward)!r} {error}. The first completions were:\n{batch.first_described()}"
        ) from None


def checked_scores(reward: Reward, values: Sequence[Any], batch: Batch) -> list[Score]:
    """Convert what a reward returned for a batch, ``N`` entries, to scores.

    Raises:
        RewardError: one of them is none; see :func:`as_score`.
    """
    scores: list[Score] = []
    for i, value in enumerate(values):
        try:
            scores.append(as_score(value, len(batch.completion_ids[i])))
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"reward {reward_name(reward)!r}, completion {i} of {len(batch)}: {error}\n{batch.described(i)}"
            ) from None
    return scores
