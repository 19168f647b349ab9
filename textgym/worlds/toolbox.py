"""Tools: typed Python functions that the policy calls from its text."""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from transformers.utils.chat_template_utils import get_json_schema

from textgym.calls import OvertimeError, Raised, call_all
from textgym.names import suggest
from textgym.numbers import LONGEST_WAIT, check, check_given, finite, shown
from textgym.types import Completion, Prompt
from textgym.worlds.world import KnownWorld, Outcome, Reply, WorldError, described

TIME_LIMIT = 10.0
"""Default time limit of a call, in seconds."""

# --- calls in text ---------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """Call of a tool, as it stands in a text: values that are not checked yet.

    Attributes:
        name: the tool's name.
        values: arguments by position.
        named: arguments by name.
    """

    name: str
    values: tuple[Any, ...] = ()
    named: Mapping[str, Any] = {}


class CallError(ValueError):
    """Mistake in a call. It is the policy's own, so the message is shown to it."""


Parse: TypeAlias = Callable[[str], Call | None]
"""Function that finds the call in the text of a turn; None if there is none, :class:`CallError` if it is malformed."""

_CALL = re.compile(r"<\s*call\s*>(.*?)(?:<\s*/\s*call\s*>|\Z)", re.DOTALL)
_MAY_WARN = re.compile(r"\\|\d[^\W\d]")
"""Texts of which Python's parser may warn: those with escapes, or with a number next to a word."""
_HERMES_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def parse_call(text: str) -> Call | None:
    """Find a call such as ``<call>add(2, b=3)</call>``.

    Arguments are Python literals: numbers, quoted texts, True, False, None, lists, tuples and dicts of them. A word
    without quotes is a text, too. Space between the parts does not matter, as word-level tokenizers write it
    everywhere. The closing ``</call>`` may be missing at the end of the turn: it can be the token that ends the turn.

    Raises:
        CallError: there are several calls, or one that is malformed.
    """
    body = _only(_CALL.findall(text))
    if body is None:
        return None
    try:
        node = _parsed(body.strip())
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError
        named = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg is not None}
        if len(named) < len(node.keywords):
            raise ValueError  # **arguments
        return Call(node.func.id, tuple(map(_literal, node.args)), named)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise CallError(f"cannot read the call {shown(body.strip())}; write name(value, name=value)") from None


def parse_hermes_call(text: str) -> Call | None:
    """Find a call such as ``<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>``, as Qwen writes it.

    Raises:
        CallError: there are several calls, or one that is malformed.
    """
    body = _only(_HERMES_CALL.findall(text))
    if body is None:
        return None
    with suppress(ValueError, RecursionError):
        match json.loads(body):
            case {"name": str(name), "arguments": dict(named)}:
                return Call(name, (), named)
    raise CallError(f'cannot read the call {shown(body.strip())}; write {{"name": …, "arguments": {{…}}}} as JSON')


INSTRUCTIONS: Mapping[Parse, str] = {
    parse_call: "To call a tool, write <call>name(value, name=value)</call>, with texts in quotes. ",
    parse_hermes_call: 'To call a tool, write <tool_call>{"name": …, "arguments": {…}}</tool_call>, in JSON. ',
}
"""Description of each syntax for a model."""


def _only(calls: Sequence[str]) -> str | None:
    if len(calls) > 1:
        raise CallError(f"expected one call in a turn, got {len(calls)}")
    return calls[0] if calls else None


def _parsed(text: str) -> ast.expr:
    """Parse a Python expression without warnings about the policy's text."""
    if _MAY_WARN.search(text) is None:
        return ast.parse(text, mode="eval").body
    # Not done for every text, since it makes Python show other warnings again that it has shown once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text, mode="eval").body


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


# --- tools -----------------------------------------------------------------------------------------------------

_CONTAINERS: Mapping[Any, tuple[type, ...]] = {list: (list, tuple), tuple: (list, tuple), dict: (dict,)}


@dataclass(frozen=True)
class Tool:
    """Function that the policy can call.

    Attributes:
        function: a function whose parameters have annotations: bool, int, float, str, list, tuple or dict (also of such
            types), Literal, None, a union of them, or Any. It may be a coroutine function.
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        name = getattr(self.function, "__name__", None)
        if not callable(self.function) or name is None or not name.isidentifier():
            raise TypeError(f"tool={shown(self.function)}; expected a function with a name")
        for parameter in self.signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"tool {name!r} has the parameter {str(parameter)!r}; expected named parameters only")
            if parameter.annotation is parameter.empty:
                raise TypeError(f"tool {name!r}: parameter {parameter.name!r} has no annotation; add one, such as int")
            _check_kind(f"tool {name!r}: parameter {parameter.name!r}", parameter.annotation)

    @property
    def name(self) -> str:
        """Name in calls."""
        return str(self.function.__name__)

    @cached_property
    def signature(self) -> inspect.Signature:
        """Parameters of the function, with annotations that are types."""
        try:
            return inspect.signature(self.function, eval_str=True)
        except Exception as error:  # an annotation in quotes is a program
            raise TypeError(f"tool {self.name!r}: its annotations cannot be read ({error})") from error

    def bound(self, call: Call) -> inspect.BoundArguments:
        """Return the arguments of a call, converted to the types of the parameters.

        Raises:
            CallError: they do not fit.
        """
        try:
            arguments = self.signature.bind(*call.values, **call.named)
        except TypeError as error:
            raise CallError(f"{self.name}: {error}; it is {self.name}{self.signature}") from None
        for name, value in arguments.arguments.items():
            kind = self.signature.parameters[name].annotation
            try:
                arguments.arguments[name] = _converted(value, kind)
            except _MisfitError:
                expected = inspect.formatannotation(kind)
                raise CallError(f"{self.name}: expected {name} of type {expected}, got {shown(value)}") from None
        return arguments

    def describe(self) -> str:
        """Return the signature and the docstring."""
        documentation = inspect.getdoc(self.function) or ""
        return "\n    ".join([f"{self.name}{self.signature}", *documentation.splitlines()])


class _MisfitError(Exception):
    """A value that has not the type of its parameter."""


def _check_kind(where: str, kind: Any) -> None:
    """Raise TypeError if arguments cannot be converted to a type."""
    origin = get_origin(kind) or kind
    if origin is Literal or origin in (bool, int, float, str, NoneType, Any):
        return
    if origin not in (Union, UnionType, *_CONTAINERS):
        raise TypeError(
            f"{where} is annotated with {inspect.formatannotation(kind)}; expected bool, int, float, str, list, tuple, "
            "dict, Literal, None, a union of them, or Any"
        )
    for inner in get_args(kind):
        if inner is not Ellipsis:
            _check_kind(where, inner)


def _converted(value: Any, kind: Any) -> Any:
    """Return a value as the type ``kind``.

    Raises:
        _MisfitError: it is of another type.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        for option in inner:
            with suppress(_MisfitError):
                return _converted(value, option)
    elif origin is Literal:
        for option in inner:
            if type(option) is type(value) and option == value:
                return option
    elif origin in _CONTAINERS and isinstance(value, _CONTAINERS[origin]):
        return _converted_items(value, origin, inner)
    elif origin is Any or (origin in (bool, str, NoneType) and isinstance(value, origin)):
        return value
    elif origin in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(value) and (origin is float or value == int(value)):
                return origin(value)
    raise _MisfitError


def _converted_items(value: Any, origin: Any, inner: tuple[Any, ...]) -> Any:
    if origin is dict:
        key_kind, item_kind = inner or (Any, Any)
        return {_converted(key, key_kind): _converted(item, item_kind) for key, item in value.items()}
    if origin is list or inner[1:] in ((), (Ellipsis,)):
        kinds = [inner[0] if inner else Any] * len(value)
    else:
        kinds = list(inner)
    if len(kinds) != len(value):
        raise _MisfitError
    return origin(_converted(item, kind) for item, kind in zip(value, kinds, strict=True))


# --- the world -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toolbox(KnownWorld):
    """World that answers calls of tools; see :func:`tools`. Its state is the number of turns answered so far."""

    tools: Mapping[str, Tool]
    shown: tuple[type[Exception], ...] = ()
    time_limit: float | None = TIME_LIMIT
    cost: float = 0.0
    parse: Parse = parse_call
    role: str = "tool"

    def __post_init__(self) -> None:
        check(self, finite, "cost", low=0)
        check_given(self, finite, "time_limit", above=0, high=LONGEST_WAIT)
        classes = self.shown if isinstance(self.shown, tuple) else (None,)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in classes):
            raise TypeError(f"shown={shown(self.shown)}; expected a tuple of exception classes")

    def start(self, prompt: Prompt) -> int:
        return 0

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[int]:
        return [self.start(prompt) for prompt in prompts]  # without a seed, as nothing is random

    def outcomes(self, state: int, turn: Completion) -> list[Outcome]:
        ((after, reply),) = self.reply([state], [turn])
        return [(1.0, after, reply)]

    def reply(self, states: list[int], turns: list[Completion]) -> list[tuple[int, Reply]]:
        found = [self._read(turn.text) for turn in turns]
        calls = {i: call for i, call in enumerate(found) if not isinstance(call, Reply)}
        try:
            results = call_all([call.run for call in calls.values()], self.time_limit)
        except OvertimeError as late:
            i, call = list(calls.items())[late.which]
            limit = f"took longer than its time limit of {self.time_limit:g} seconds"
            raise WorldError(f"tool {call.tool.name!r} {limit}\n{described(states[i], turns[i])}") from None
        told = dict(zip(calls, results, strict=True))
        replies = [
            one if isinstance(one, Reply) else self._told(one, told[i], described(states[i], turns[i]))
            for i, one in enumerate(found)
        ]
        return [(state + 1, reply) for state, reply in zip(states, replies, strict=True)]

    def _read(self, text: str) -> _Bound | Reply:
        """Return the call in a turn; or the reply, if there is none or the policy made a mistake in it."""
        try:
            call = self.parse(text)
            if call is None:
                return Reply("", done=True)
            if not isinstance(call, Call):
                raise TypeError(f"parse returned {shown(call)}; expected a Call or None")
            if call.name not in self.tools:
                hint = suggest(call.name, self.tools, after=" ")
                raise CallError(f"there is no tool {shown(call.name)}; {hint}Tools: {', '.join(self.tools)}")
            tool = self.tools[call.name]
            return _Bound(tool, tool.bound(call))
        except CallError as mistake:
            return self._answer(f"error: {mistake}")

    def _told(self, call: _Bound, result: Any, where: str) -> Reply:
        """Return the reply to a call that ended."""
        if not isinstance(result, Raised):
            try:
                return self._answer(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
            except (TypeError, ValueError, RecursionError):
                raise WorldError(
                    f"tool {call.tool.name!r} returned {shown(result)}; expected a text, or a value that JSON can hold"
                    f"\n{where}"
                ) from None
        error = result.error
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, self.shown):
            return self._answer(f"error: {told}")
        raise WorldError(f"tool {call.tool.name!r} raised {told}\n{where}") from error

    def _answer(self, text: str) -> Reply:
        # Half a surrogate pair, as an escape in a call makes it, is no character, and no tokenizer reads it.
        return Reply(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), -self.cost)

    def describe(self) -> str:
        """Return a description of the tools for a model: the syntax of calls, signatures and docstrings."""
        how = INSTRUCTIONS.get(self.parse, "")
        told = f"{how}A turn with a call is answered with its result. A turn without a call is the final answer."
        return "\n\n".join([told, *(tool.describe() for tool in self.tools.values())])

    def schemas(self) -> list[dict[str, Any]]:
        """Return the JSON schemas of the tools, which some chat templates take as ``tools``.

        Raises:
            DocstringParsingException: a docstring does not describe the tool and each argument.
        """
        return [get_json_schema(tool.function) for tool in self.tools.values()]


@dataclass(frozen=True)
class _Bound:
    """Call of a tool with arguments that fit."""

    tool: Tool
    arguments: inspect.BoundArguments

    def run(self) -> Any:
        """Call the function."""
        return self.tool.function(*self.arguments.args, **self.arguments.kwargs)


def tools(
    functions: Sequence[Callable[..., Any]],
    *,
    shown: tuple[type[Exception], ...] = (),
    time_limit: float | None = TIME_LIMIT,
    cost: float = 0.0,
    parse: Parse = parse_call,
    role: str = "tool",
) -> Toolbox:
    """Return a world that calls functions for the policy.

    A turn with a call, such as ``<call>add(2, 3)</call>``, is answered with the result: a text as it is, another value
    as JSON. A turn without a call is the final answer: it ends the episode. A malformed call, an unknown tool, and
    arguments of wrong names or types are mistakes of the policy. They are answered with ``error:`` and the reason.

    An exception in a tool is a mistake in the tool: it is raised as :class:`WorldError`, which names state, turn and
    tool, unless its class is in ``shown``. Coroutine functions run concurrently.

    Args:
        functions: the tools. A result must depend on the arguments only. See :class:`Tool` for types of parameters.
        shown: classes of exceptions that answer a call, such as ``(ZeroDivisionError,)``.
        time_limit: seconds for one call; None for no limit. A call that takes longer is raised and never shown, as the
            speed of a machine would then decide what the policy reads. It goes on in a daemon thread, which cannot be
            killed; so it must not hold the interpreter's lock, as ``10**10**9`` does.
        cost: reward that each turn with a call loses, malformed or not.
        parse: finds a call in the text of a turn: :func:`parse_call`, :func:`parse_hermes_call`, or your own.
        role: role of the results in the conversation.

    Raises:
        TypeError: something is no function with a name and annotated parameters, or no exception class.
        ValueError: there are no tools, two have the same name, or a number is out of range.
    """
    found = [Tool(function) for function in functions]
    named = {tool.name: tool for tool in found}
    if len(named) < len(found) or not found:
        raise ValueError(f"tools={[tool.name for tool in found]}; expected functions of different names, at least one")
    return Toolbox(named, shown, time_limit, cost, parse, role)
