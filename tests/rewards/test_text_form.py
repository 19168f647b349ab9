"""JSON validity: the letter of JSON and of the schema, no fetching, and schemas that are refused at construction."""

from __future__ import annotations

import json
import socket

import pytest

from textgym.numbers import SettingError
from textgym.rewards.functions import call_reward, check_signature
from textgym.rewards.text.form import JsonSchema

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


@pytest.fixture
def write(tmp_path):
    def write(schema):
        path = tmp_path / "schema.json"
        path.write_text(schema if isinstance(schema, str) else json.dumps(schema), "utf-8")
        return path

    return write


def scores(reward, texts):
    return call_reward(reward, ["p"] * len(texts), texts, [[1]] * len(texts), {})


def test_texts_that_parse_and_validate(write):
    good = ['{"name": "Ada"}', ' {"name": "Ädä", "age": 36}\n', '{"name":"x","age":1.0}']
    reward = JsonSchema(write(PERSON))
    check_signature(reward)
    assert scores(reward, good) == [1.0] * 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ada",
        "{}",
        '{"name": "Ada", "age": -1}',
        '{"name": "Ada", "age": 1.5}',
        '{"name": "Ada", "size": 1}',
        '{"name": "Ada"',
        '{"name": "Ada"} and more',
        '```json\n{"name": "Ada"}\n```',
        "{'name': 'Ada'}",
        '{"name": "Ada",}',
        '["name"]',
        "\ud800",
    ],
)
def test_texts_that_do_not(write, text):
    assert scores(JsonSchema(write(PERSON)), [text]) == [0.0]


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "[" * 100_000, "[" * 900 + "]" * 900, "1" * 5000])
def test_what_python_reads_and_json_does_not_say_and_what_is_beyond_it(write, text):
    deep = {"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}, "$ref": "#/$defs/list"}
    assert scores(JsonSchema(write(deep)), [text, "[[], [[]]]"]) == [0.0, 1.0]


def test_a_number_beyond_a_float_is_no_multiple(write):
    assert scores(JsonSchema(write({"multipleOf": 0.5})), ["1e400", "1.5", "1.3"])[1:] == [1.0, 0.0]


def test_the_draft_that_a_schema_names(write):
    """In draft 4 ``exclusiveMinimum`` is a flag beside ``minimum``; later it is the bound."""
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}
    new = {"$schema": "https://json-schema.org/draft/2020-12/schema", "exclusiveMinimum": 3}
    for schema in (old, new):
        assert scores(JsonSchema(write(schema)), ["3", "4"]) == [0.0, 1.0]


def test_a_reference_to_a_published_draft_is_answered_without_a_network(write, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    reward = JsonSchema(write({"$ref": "https://json-schema.org/draft/2020-12/schema"}))
    assert scores(reward, ['{"type": "string"}', '{"type": "text"}']) == [1.0, 0.0]


def test_references_within_the_file(write):
    named = {"$id": "http://example.com/root", "items": {"$ref": "part"}, "$defs": {"p": {"$id": "part", "minimum": 2}}}
    assert scores(JsonSchema(write(named)), ["[2]", "[1]"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objct"}, r"schema='.*' is not a valid JSON schema: at \$\.type, 'objct' is not valid under any"),
        ({"properties": {"a": {"pattern": "("}}}, r"at \$\.properties\.a\.pattern, '\(' is not a 'regex'"),
        ("{", "is not JSON: Expecting property name"),
        ('{"minimum": NaN}', "is not JSON: NaN is not JSON"),
        ("[1]", "is a JSON list; expected an object"),
        ({"$schema": "http://example.com/mine"}, "is of the unknown draft .*mine'; expected one such as https://json"),
        ({"items": {"$ref": "http://example.com/a.json"}}, r"refers to 'http://example.com/a\.json', which the file"),
        ({"anyOf": [{"not": {"$ref": "#/$defs/nothing"}}]}, r"refers to '#/\$defs/nothing', which the file does not"),
        ({"$ref": "#"}, "refers to itself without end"),
    ],
)
def test_bad_schemas_are_refused_at_construction(write, schema, message):
    with pytest.raises(SettingError, match=message):
        JsonSchema(write(schema))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"schema='.*nothing\.json' cannot be read: No such file"):
        JsonSchema(tmp_path / "nothing.json")


def test_a_schema_may_be_true_or_false(write):
    assert scores(JsonSchema(write("true")), ["1", "x"]) == [1.0, 0.0]
    assert scores(JsonSchema(write("false")), ["1"]) == [0.0]
