"""Tools: calls are read from text, answered in time, and each mistake goes to the one who made it."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import tiny_gpt2, word_mdp
from textgym.exact import optimum
from textgym.numbers import SettingError
from textgym.types import Completion, Prompt, completion_text
from textgym.worlds import Call, CallError, Glue, Reply, Toolbox, WorldError, parse_call, parse_hermes_call, tools
from textgym.worlds.world import ask, begin_episodes

PROMPT = Prompt("question", "question", (1,))


def turn(text: str) -> Completion:
    return Completion(text, (1,), "stop")


def answer(world: Toolbox, *texts: str) -> list[Reply]:
    """Ask the world for its answers to turns of as many episodes."""
    states = begin_episodes(world, [PROMPT] * len(texts), list(range(len(texts))))
    return [reply for _, reply in ask(world, states, [turn(text) for text in texts], 10)]


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


def divide(a: float, b: float) -> float:
    return a / b


def repeat(word: str, times: int = 2) -> str:
    return " ".join([word] * times)


def echo(value: Any) -> str:
    return repr(value)


# --- the syntax --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("<call>add(2, 3)</call>", Call("add", (2, 3), {})),
        ("<call>add(2, b=-3.5)</call>", Call("add", (2,), {"b": -3.5})),
        ("I think.\n<call>find('a (b', [1, True, None], {'k': (2,)})</call> Then", None),
        ("<call>find(red, color=dark_blue)</call>", Call("find", ("red",), {"color": "dark_blue"})),
        ("<call>now()</call>", Call("now", (), {})),
        ("so <call>add(2, 3)", Call("add", (2, 3), {})),  # the closing tag was the turn-end token
        ("< call > add ( 2 , b = 3 ) < / call >", Call("add", (2,), {"b": 3})),  # as a word-level tokenizer decodes
        ("<call>\nadd(\n  2,\n  3\n)\n</call>", Call("add", (2, 3), {})),
    ],
)
def test_a_call_is_read_from_the_text(text: str, call: Call | None) -> None:
    expected = call or Call("find", ("a (b", [1, True, None], {"k": (2,)}), {})
    assert parse_call(text) == expected


@pytest.mark.parametrize("text", ["", "The answer is 5.", "add(2, 3)", "call add(2, 3)", "<calls>add(2)</calls>"])
def test_a_text_without_a_call_has_none(text: str) -> None:
    assert parse_call(text) is None
    assert parse_hermes_call(text) is None


@pytest.mark.parametrize(
    "body",
    [
        *("", "add", "add(", "add(2,", "add(2)(3)", "add(2); add(3)", "add(2) add(3)", "x = add(2)", "a.b(2)"),
        *("add(1 + 2)", "add(print(1))", "add(*[1])", "add(**{'a': 1})", "add(a=1, a=2)", "add([x for x in y])"),
        *("add(lambda: 1)", "add({[]: 1})", "add('a' 1)", "add(007)", "add(1 is 2)", "add('\\d\x00')", "[add(2)]"),
        *("add(" + "9" * 5000 + ")", "add(" + "-" * 100_000 + "1)", "(" * 5000, "add(" + "[" * 90 + ")", "ädd(—)"),
    ],
)
def test_a_malformed_call_is_the_policys_mistake(body: str) -> None:
    with pytest.raises(CallError, match="cannot read the call"):
        parse_call(f"<call>{body}</call>")


def test_nothing_is_evaluated() -> None:
    world = tools([echo])
    (reply,) = answer(world, "<call>echo(__import__('os').getpid())</call>")
    assert reply.says.startswith("error: cannot read the call")  # type: ignore[union-attr]


@given(st.text(max_size=30))
def test_any_text_is_a_call_or_a_mistake(body: str) -> None:
    """Warnings of Python's compiler are errors here, too."""
    for text in (f"<call>{body}</call>", f"<call>f({body})</call>", f"<tool_call>{body}</tool_call>"):
        for parse in (parse_call, parse_hermes_call):
            try:
                call = parse(text)
            except CallError:
                continue
            assert call is None or isinstance(call, Call)


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(LITERALS)
def test_what_is_written_is_what_the_tool_gets(value: Any) -> None:
    """Both syntaxes, against Python's own ``repr`` and JSON."""
    assert parse_call(f"<call>f({value!r}, x={value!r})") == Call("f", (value,), {"x": value})
    written = json.dumps({"name": "f", "arguments": {"x": value}}).replace("<", "\\u003c")
    assert parse_hermes_call(f"<tool_call>\n{written}\n</tool_call>") == Call("f", (), {"x": value})


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", "3", '{"name": "add"}', '{"name": 3, "arguments": {}}', '{"name": "add", "arguments": [2]}'),
        *("[" * 100_000, '{"name": "add", "arguments": {"a": ' + "9" * 5000 + "}}"),
    ],
)
def test_a_malformed_call_in_json(body: str) -> None:
    with pytest.raises(CallError, match="cannot read the call"):
        parse_hermes_call(f"<tool_call>{body}</tool_call>")


def test_a_turn_has_one_call() -> None:
    for parse, call in ((parse_call, "<call>add(2)</call>"), (parse_hermes_call, "<tool_call>{}</tool_call>")):
        with pytest.raises(CallError, match="expected one call in a turn, got 2"):
            parse(f"{call} and {call}")


# --- replies -----------------------------------------------------------------------------------------------------


def test_calls_are_answered_and_the_final_answer_ends_the_episode() -> None:
    world = tools([add, repeat], cost=0.25)
    assert answer(
        world, "<call>add(2, b=3)</call>", "It is 5.", "<call>repeat(ho, 3)</call>", "<call>add(x)</call>"
    ) == [
        Reply("5", -0.25),
        Reply("", 0.0, done=True),
        Reply("ho ho ho", -0.25),
        Reply("error: add: expected a of type int, got 'x'", -0.25),
    ]
    assert world.role == "tool"


def test_states_count_turns_and_are_values() -> None:
    world = tools([add])
    first = begin_episodes(world, [PROMPT], [7])
    ((second, _),) = ask(world, first, [turn("<call>add(2)</call>")], 10)
    again = ask(world, first, [turn("<call>add(2)</call>")], 10)
    assert (first, second, again) == ([0], 1, [(1, Reply("3"))])


def test_the_only_outcome_is_the_reply() -> None:
    world = tools([add], cost=0.5)
    for text in ("<call>add(2)</call>", "<call>ad(2)</call>", "done"):
        assert world.outcomes(3, turn(text)) == [(1.0, *pair) for pair in world.reply([3], [turn(text)])]
    assert world.start(PROMPT) == 0


@pytest.mark.parametrize(
    ("result", "text"),
    [("x\n", "x\n"), (5, "5"), (2.5, "2.5"), (True, "true"), (None, "null"), ([1, {"a": "ü"}], '[1, {"a": "ü"}]')],
)
def test_a_result_is_a_text_or_json(result: Any, text: str) -> None:
    def give() -> Any:
        return result

    assert answer(tools([give]), "<call>give()</call>") == [Reply(text)]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("ad(2)", "error: there is no tool 'ad'; did you mean 'add'? Tools: add, divide"),
        ("subtract(2)", "error: there is no tool 'subtract'; Tools: add, divide"),
        ("add()", "error: add: missing a required argument: 'a'; it is add(a: int, b: int = 1) -> int"),
        ("add(2, c=3)", "error: add: got an unexpected keyword argument 'c'; it is add(a: int, b: int = 1) -> int"),
        ("add(1, 2, 3)", "error: add: too many positional arguments; it is add(a: int, b: int = 1) -> int"),
        ("add(2, a=3)", "error: add: multiple values for argument 'a'; it is add(a: int, b: int = 1) -> int"),
        ("add(2.5)", "error: add: expected a of type int, got 2.5"),
        ("add(True)", "error: add: expected a of type int, got True"),
        ("divide('2', 1)", "error: divide: expected a of type float, got '2'"),
        ("divide(1e999, 1)", "error: divide: expected a of type float, got inf"),
        ("add", "error: cannot read the call 'add'; write name(value, name=value)"),
    ],
)
def test_mistakes_of_the_policy_are_shown_to_it(call: str, says: str) -> None:
    assert answer(tools([add, divide]), f"<call>{call}</call>") == [Reply(says)]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 2.0, 2),
        (float, 2, 2.0),
        (bool, True, True),
        (str, "2", "2"),
        (int | None, None, None),
        (int | str, "x", "x"),
        (str | float, 2, 2.0),
        (list, [1, "a"], [1, "a"]),
        (list[float], (1, 2), [1.0, 2.0]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (dict[str, list[int]], {"a": [1.0]}, {"a": [1]}),
        (dict, {"a": 1}, {"a": 1}),
        (Literal["up", "down"], "up", "up"),
        (Any, {"a": [None]}, {"a": [None]}),
    ],
)
def test_arguments_have_the_types_of_the_parameters(kind: Any, value: Any, expected: Any) -> None:
    got = []

    def take(x) -> None:  # type: ignore[no-untyped-def]
        got.append(x)

    take.__annotations__["x"] = kind
    assert answer(tools([take]), f"<call>take({value!r})</call>") == [Reply("null")]
    assert got == [expected]
    assert type(got[0]) is type(expected)
    assert repr(got[0]) == repr(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 2.5),
        (int, False),
        (int, "2"),
        (float, True),
        (bool, 1),
        (str, 2),
        (str, None),
        (int | None, "x"),
        (list[int], [1, "a"]),
        (list, "ab"),
        (tuple[int, str], [1]),
        (tuple[int, str], [1, "a", 2]),
        (dict[str, int], {1: 1}),
        (dict[str, int], {"a": "b"}),
        (dict, [1]),
        (Literal[1, "up"], True),
        (Literal["up", "down"], "left"),
    ],
)
def test_arguments_of_other_types_are_refused(kind: Any, value: Any) -> None:
    def take(x) -> None: ...  # type: ignore[no-untyped-def]

    take.__annotations__["x"] = kind
    (reply,) = answer(tools([take]), f"<call>take(x={value!r})</call>")
    assert isinstance(reply.says, str)
    assert reply.says.startswith("error: take: expected x of type ")


# --- mistakes in tools -------------------------------------------------------------------------------------------


def test_an_exception_of_a_tool_is_raised_with_state_turn_and_tool() -> None:
    with pytest.raises(WorldError) as caught:
        answer(tools([add, divide]), "<call>add(2)</call>", "<call>divide(1, 0)</call>")
    assert str(caught.value) == (
        "tool 'divide' raised ZeroDivisionError: float division by zero\nstate: 0\nturn: '<call>divide(1, 0)</call>'"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_only_named_exceptions_are_shown() -> None:
    def look(key: str) -> str:
        return {"a": "b"}[key]

    shown = tools([divide, look], shown=(ArithmeticError,))
    assert answer(shown, "<call>divide(1, 0)</call>") == [Reply("error: ZeroDivisionError: float division by zero")]
    with pytest.raises(WorldError, match="tool 'look' raised KeyError: 'c'"):
        answer(shown, "<call>look(c)</call>")


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=repr)
def test_a_tool_that_leaves_is_a_mistake(error: BaseException) -> None:
    def leave() -> None:
        raise error

    with pytest.raises(WorldError, match=f"tool 'leave' raised {type(error).__name__}"):
        answer(tools([leave], shown=(Exception,)), "<call>leave()</call>")


@pytest.mark.parametrize("result", [object(), {1, 2}, b"x"], ids=["object", "set", "bytes"])
def test_a_result_that_is_no_json_is_a_mistake(result: Any) -> None:
    def give() -> Any:
        return result

    with pytest.raises(WorldError, match=r"tool 'give' returned .*; expected a text, or a value that JSON can hold"):
        answer(tools([give]), "<call>give()</call>")


def hang() -> None:
    threading.Event().wait(30)


async def hang_later() -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize("tool", [hang, hang_later])
def test_a_tool_that_hangs_is_named_with_its_limit(tool: Callable[[], Any]) -> None:
    begun = time.monotonic()
    with pytest.raises(WorldError) as caught:
        answer(tools([add, tool], time_limit=0.2), "done", "<call>add(2)</call>", f"<call>{tool.__name__}()</call>")
    assert time.monotonic() - begun < 5
    assert str(caught.value) == (
        f"tool '{tool.__name__}' took longer than its time limit of 0.2 seconds\n"
        f"state: 0\nturn: '<call>{tool.__name__}()</call>'"
    )


def test_async_tools_run_together() -> None:
    waiting, together = 0, 0

    async def wait(n: int) -> int:
        nonlocal waiting, together
        waiting += 1
        await asyncio.sleep(0.01)
        together = max(together, waiting)
        waiting -= 1
        return n

    replies = answer(tools([wait, add]), *(f"<call>wait({n})</call>" for n in range(4)), "<call>add(9)</call>", "done")
    assert [reply.says for reply in replies] == ["0", "1", "2", "3", "10", ""]
    assert together == 4


def test_a_mistake_in_the_parser_is_raised() -> None:
    with pytest.raises(WorldError, match="parse returned 'add'; expected a Call or None"):
        answer(tools([add], parse=lambda _: "add"), "x")  # type: ignore[arg-type, return-value]


def test_a_parser_of_ones_own() -> None:
    def lines(text: str) -> Call | None:
        name, *values = text.split()
        return Call(name, tuple(map(int, values))) if name == "add" else None

    world = tools([add], parse=lines, role="user")
    assert answer(world, "add 2 3", "five") == [Reply("5"), Reply("", done=True)]
    assert world.role == "user"
    assert answer(tools([add], parse=parse_hermes_call), '<tool_call>{"name": "add", "arguments": {"a": 4}}') == [
        Reply("5")
    ]


# --- construction ------------------------------------------------------------------------------------------------


def untyped(a): ...  # type: ignore[no-untyped-def]


def several(*values: int) -> None: ...


def bytewise(a: bytes) -> None: ...


def nested(a: list[set[int]]) -> None: ...


def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([untyped], "tool 'untyped': parameter 'a' has no annotation; add one, such as int"),
        ([several], r"tool 'several' has the parameter '\*values: int'; expected named parameters only"),
        ([bytewise], "tool 'bytewise': parameter 'a' is annotated with bytes; expected bool, int, float, str, list"),
        ([nested], r"parameter 'a' is annotated with set\[int\]"),
        ([unknown], "tool 'unknown': its annotations cannot be read .*Nowhere"),
        ([lambda: 1], "expected a function with a name"),
        (["add"], "tool='add'; expected a function with a name"),
        ([3], "tool=3; expected a function with a name"),
    ],
)
def test_functions_that_are_no_tools(functions: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tools(functions)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"tools=\['add', 'add'\]; expected functions of different names"):
        tools([add, add])
    with pytest.raises(ValueError, match=r"tools=\[\]"):
        tools([])
    for setting in ({"time_limit": 0}, {"time_limit": float("nan")}, {"cost": -1}):
        with pytest.raises(SettingError, match=f"{next(iter(setting))}="):
            tools([add], **setting)  # type: ignore[arg-type]
    for shown in (ValueError, (3,), (BaseException,)):
        with pytest.raises(TypeError, match="expected a tuple of exception classes"):
            tools([add], shown=shown)  # type: ignore[arg-type]


def test_a_world_of_tools_pickles() -> None:
    world = pickle.loads(pickle.dumps(tools([add, repeat], cost=0.5)))
    assert answer(world, "<call>add(2)</call>") == [Reply("3", -0.5)]


# --- what a model is told ----------------------------------------------------------------------------------------


def test_the_description_for_a_model() -> None:
    assert tools([add, divide]).describe() == (
        "To call a tool, write <call>name(value, name=value)</call>, with texts in quotes. A turn with a call is "
        "answered with its result. A turn without a call is the final answer.\n\n"
        "add(a: int, b: int = 1) -> int\n    Add two numbers.\n    \n    Args:\n        a: the first.\n"
        "        b: the second.\n\n"
        "divide(a: float, b: float) -> float"
    )
    assert "<tool_call>" in tools([add], parse=parse_hermes_call).describe()
    assert tools([add], parse=lambda _: None).describe().startswith("A turn with a call is answered")


def test_the_schemas_for_a_chat_template() -> None:
    (schema,) = tools([add]).schemas()
    assert schema["function"]["name"] == "add"
    assert schema["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "the first."},
            "b": {"type": "integer", "description": "the second."},
        },
        "required": ["a"],
    }


def test_pythons_parser_stays_silent_about_the_policys_text() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert parse_call("<call>f('\\d')</call>") == Call("f", ("\\d",), {})
        for body in ("f(1if 2else 3)", "f(1or 2)", "f(0x1for x in y)", "f('\\777' 1)", "f(1_000is 2)", "f(1jin 2)"):
            with pytest.raises(CallError):
                parse_call(f"<call>{body}</call>")
    assert caught == []


# --- the optimum -------------------------------------------------------------------------------------------------


def test_the_optimum_with_a_tool_is_known() -> None:
    """A turn is one of four words: w1 calls a tool for 0.1, whose reply takes one of three columns; w0 is right."""

    def hint() -> str:
        return "w2"

    mdp = word_mdp(
        lambda completions, **_: [float(completion_text(c).endswith("w0")) for c in completions],
        prompts=("w3",),
        max_new_tokens=3,
        end_token_ids=(),
        vocabulary_size=4,
        world=tools([hint], parse=lambda text: Call("hint") if text.strip() == "w1" else None, cost=0.1),
        max_turn_tokens=1,
        glue=Glue(),
    )
    model = tiny_gpt2()
    for parameter in model.parameters():
        parameter.data.zero_()  # the reference is uniform over <pad>, <eos>, w0, w1
    beta = 0.25
    # In the last column a call leaves no place for an answer, so it only costs.
    last = beta * math.log((math.exp(1 / beta) + 2 + math.exp(-0.1 / beta)) / 4)
    best = beta * math.log((math.exp(1 / beta) + 2 + math.exp((last - 0.1) / beta)) / 4)
    assert optimum(mdp, beta, reference=model).value == pytest.approx(best, abs=1e-6)


def test_half_a_character_is_shown_as_a_replacement_sign():
    def say(word: str) -> str:
        return word

    (reply,) = answer(tools([say]), r"<call>say('a\ud83db')</call>")
    assert reply.says == "a\ufffdb"
    (reply,) = answer(
        tools([say], parse=parse_hermes_call),
        r'<tool_call>{"name": "say", "arguments": {"word": "\ude00 \ud83d\ude00"}}</tool_call>',
    )
    assert reply.says == "\ufffd 😀"
