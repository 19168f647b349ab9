"""Calling a reward safely: a mistake is an error that names the reward, and never a training signal."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn, TypeAlias

from textgym.names import suggest
from textgym.rewards.running import FAILURES, IN_FLIGHT, OvertimeError, Raised, await_all, call_in_time
from textgym.rewards.scores import as_list, as_score
from textgym.types import Score

Scores: TypeAlias = Sequence[Score] | Awaitable[Sequence[Score]]
Reward: TypeAlias = Callable[..., Scores]
"""A :class:`textgym.types.RewardFunction`, or any function of TRL's that names only the arguments it uses."""

RESERVED = ("prompts", "completions", "completion_ids")
ALWAYS_THERE = ("prompt_ids", "episode_seed", "finish_reason")
"""Columns that the environment adds to those of the data."""

SMALLEST_PART = 16
"""Completions in a call of an async reward, where a batch is split so that several calls are in flight."""

_SHOWN = 300  # characters of a prompt or completion in a message


class RewardError(RuntimeError):
    """A reward raised an exception, or returned something that is not a score."""


@dataclass(frozen=True)
class Batch:
    """What one call of a reward receives: ``N`` prompts, completions, id lists, and ``N`` values a column."""

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
        """Several batches with the same columns as one, in their order."""
        return cls(
            [prompt for batch in batches for prompt in batch.prompts],
            [completion for batch in batches for completion in batch.completions],
            [ids for batch in batches for ids in batch.completion_ids],
            {name: [value for batch in batches for value in batch.columns[name]] for name in batches[0].columns},
        )

    def part(self, start: int, stop: int) -> Batch:
        """Return the batch of the completions from ``start`` to before ``stop``."""
        rows = slice(start, stop)
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Batch(self.prompts[rows], self.completions[rows], self.completion_ids[rows], columns)

    def row(self, i: int) -> Batch:
        """Return the batch that holds completion ``i`` alone."""
        return self.part(i, i + 1)

    def send(self, reward: Reward) -> Scores:
        """Call ``reward``, by keyword as TRL does: a reward names only the arguments that it uses.

        It receives copies of its own, so that what it does to them reaches neither other rewards nor later calls.
        """
        texts = self.completions
        return reward(
            prompts=[_copied(prompt) for prompt in self.prompts],
            # Texts that are decoded when they are read are no list, and cannot be edited.
            completions=[_copied(text) for text in texts] if isinstance(texts, list) else texts,
            completion_ids=[list(ids) for ids in self.completion_ids],
            **{name: [_copied(value) for value in values] for name, values in self.columns.items()},
        )

    def described(self, i: int) -> str:
        """Prompt and completion ``i`` for a message, cut where they are long."""
        texts = {"prompt": str(self.prompts[i]), "completion": str(self.completions[i])}
        cut = {name: text if len(text) <= _SHOWN else text[:_SHOWN] + "…" for name, text in texts.items()}
        return "\n".join(f"  {name}: {text!r}" for name, text in cut.items())

    def first_described(self) -> str:
        """Return the first two completions for a message."""
        return "\n".join(self.described(i) for i in range(min(2, len(self))))


_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})


def _copied(value: Any) -> Any:
    """Return a deep copy; what cannot be copied, such as an open connection, is shared."""
    if type(value) in _ATOMS:
        return value
    if type(value) is list and _ATOMS.issuperset(map(type, value)):
        return value.copy()  # lists of tokens are many
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def reward_name(reward: Callable[..., object]) -> str:
    """Return the name under which a reward is logged: its ``.name``, its ``__name__``, or that of its class."""
    if isinstance(reward, functools.partial):
        return reward_name(reward.func)
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return name.strip("<>").lstrip("_") if isinstance(name, str) else type(reward).__name__


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
        timeout: as in :func:`call_rewards`.

    Returns:
        ``N`` scores: a float, a list with one float for each sampled token, or None.

    Raises:
        RewardError: the reward raised (``SystemExit`` included) or took too long, or returned the wrong number or
            kind of scores, NaN, or a number beyond float32. An exception of the reward is its ``__cause__``.
    """
    return call_rewards([reward], Batch(prompts, completions, completion_ids, columns), timeout)[0]


def call_rewards(rewards: Sequence[Reward], batch: Batch, timeout: float | None = None) -> list[list[Score]]:
    """Score a batch with several rewards.

    A coroutine function is called with parts of a large batch, and the calls of all async rewards are awaited
    together, up to :data:`textgym.rewards.running.IN_FLIGHT` at the same time. A batch that raised is halved until
    the completion is found.

    Args:
        rewards: each is given its own copies of the batch.
        batch: ``N`` completions.
        timeout: seconds that a call may take; rewards then run in daemon threads, so that one that hangs does not
            keep the process from ending. None for no limit, and no thread.

    Returns:
        One list of ``N`` scores for each reward, in their order.

    Raises:
        RewardError: as :func:`call_reward`.
    """
    parts = [_parts(reward, batch) for reward in rewards]
    calls = [(reward, part) for reward, own in zip(rewards, parts, strict=True) for part in own]
    answers = iter(_answers(calls, timeout))
    listed = [
        [value for part in own for value in _listed(reward, next(answers), part)]
        for reward, own in zip(rewards, parts, strict=True)
    ]
    return [_scores(reward, values, batch) for reward, values in zip(rewards, listed, strict=True)]


# --- what can be known before a reward is called ------------------------------------------------------------------


def check_signature(reward: Callable[..., object]) -> None:
    """Refuse, before any work starts, what could not be called as a reward.

    Raises:
        TypeError: it is not callable, or does not take the keywords that every reward receives.
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
    """Refuse a reward that asks for what the data does not have.

    Args:
        reward: its required parameters are looked at, and its ``required_columns``, where it has that attribute.
        columns: of the data.

    Raises:
        ValueError: something is asked for that is neither a column nor given to every reward.
    """
    given, always = sorted(set(columns) - {*RESERVED, *ALWAYS_THERE}), [*RESERVED, *ALWAYS_THERE]
    required = [p.name for p in _parameters(reward) or () if p.kind in _BY_KEYWORD and p.default is p.empty]
    for name in [*required, *getattr(reward, "required_columns", ())]:
        if name not in given and name not in always:
            hint = suggest(name, [*given, *always], after=" ")
            raise ValueError(
                f"reward {reward_name(reward)!r} requires {name!r}, which the data does not have: {hint}Columns of the "
                f"data are {', '.join(given) or 'none'}; every reward receives {', '.join(always)}. Add the column, "
                "or give the parameter a default"
            )


_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(reward: Callable[..., object]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(reward).parameters.values())
    except (TypeError, ValueError):  # some builtins tell no signature
        return None


# --- calling ------------------------------------------------------------------------------------------------------


def _parts(reward: Reward, batch: Batch) -> list[Batch]:
    """Return the batches that a reward is called with: several where they can be in flight together."""
    count = min(IN_FLIGHT, len(batch) // SMALLEST_PART) if _is_async(reward) else 1
    if count < 2:
        return [batch]
    bounds = [len(batch) * i // count for i in range(count + 1)]
    return [batch.part(*pair) for pair in pairwise(bounds)]


def _is_async(reward: Reward) -> bool:
    while isinstance(reward, functools.partial):
        reward = reward.func
    function = inspect.unwrap(reward)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def _answers(calls: Sequence[tuple[Reward, Batch]], timeout: float | None) -> list[Any]:
    """Call rewards: the sync ones one after another, then the async ones together."""
    answers: list[Any] = []
    try:
        for reward, batch in calls:
            answers.append(_started(reward, batch, timeout))
    except BaseException:
        for answer in answers:
            if inspect.iscoroutine(answer):
                answer.close()  # one that nobody awaits would warn
        raise
    pending = [i for i, answer in enumerate(answers) if inspect.isawaitable(answer)]
    for i, answer in zip(pending, _awaited(calls, answers, pending, timeout), strict=True):
        if isinstance(answer, Raised):
            _raise_for_offender(*calls[i], answer.error, timeout)
        answers[i] = answer
    return answers


def _started(reward: Reward, batch: Batch, timeout: float | None) -> Scores:
    try:
        return call_in_time(lambda: batch.send(reward), timeout)
    except OvertimeError:
        _raise_for_time(reward, batch, timeout)
    except FAILURES as error:
        _raise_for_offender(reward, batch, error, timeout)


def _awaited(
    calls: Sequence[tuple[Reward, Batch]], answers: Sequence[Any], pending: Sequence[int], timeout: float | None
) -> list[Any]:
    if not pending:
        return []
    try:
        return await_all([answers[i] for i in pending], timeout)
    except OvertimeError as error:
        _raise_for_time(*calls[pending[error.which]], timeout)


def _fails(reward: Reward, batch: Batch, timeout: float | None) -> BaseException | None:
    """Return what a reward raises on a batch; None if it returns."""
    try:
        answer = call_in_time(lambda: batch.send(reward), timeout)
        if inspect.isawaitable(answer):
            (answer,) = await_all([answer], timeout)
        return answer.error if isinstance(answer, Raised) else None
    except FAILURES as error:
        return error


def _raise_for_offender(reward: Reward, batch: Batch, error: BaseException, timeout: float | None) -> NoReturn:
    """Find the completion that a failing batch fails on: of two halves, the one that fails too is halved again."""
    start, stop = 0, len(batch)
    while stop - start > 1:
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            found = _fails(reward, batch.part(*half), timeout)
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


# --- what came back -----------------------------------------------------------------------------------------------


def _listed(reward: Reward, answer: Any, batch: Batch) -> list[Any]:
    try:
        return as_list(answer, len(batch))
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {reward_name(reward)!r} {error}. The first completions were:\n{batch.first_described()}"
        ) from None


def _scores(reward: Reward, values: Sequence[Any], batch: Batch) -> list[Score]:
    scores: list[Score] = []
    for i, value in enumerate(values):
        try:
            scores.append(as_score(value, len(batch.completion_ids[i])))
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"reward {reward_name(reward)!r}, completion {i} of {len(batch)}: {error}\n{batch.described(i)}"
            ) from None
    return scores
