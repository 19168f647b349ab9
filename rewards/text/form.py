"""Rewards of a text's form: JSON that a schema accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from textgym.numbers import SettingError
from textgym.rewards.text.needs import require
from textgym.types import completion_text


@dataclass(frozen=True)
class JsonSchema:
    """One if the completion is JSON that a schema accepts, 0 otherwise.

    The whole completion must be one JSON value (RFC 8259: no ``NaN``, no text around it except white space). Drafts 3
    to 2020-12 of JSON Schema are known, by the schema's ``$schema``; without one it is 2020-12. ``format`` is not
    checked, as in the standard's default. References to other schemas are never fetched: one that the file does not
    answer itself is refused at once. An empty completion scores 0.

    Source: json-schema.org; validated by jsonschema.
    """

    packages: ClassVar[tuple[str, ...]] = ("jsonschema",)

    schema: Path
    """File of the JSON schema."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", Path(self.schema))
        require(self.name, "jsonschema", "jsonschema")
        _ = self._validator  # reads the file, so that a bad one is refused now

    @property
    def name(self) -> str:
        return "json-schema"

    def __call__(self, completions: Sequence[Any], **_: Any) -> list[float]:
        """Score ``N`` completions."""
        return [float(self._accepts(completion_text(one))) for one in completions]

    def _accepts(self, text: str) -> bool:
        try:
            return bool(self._validator.is_valid(parsed_json(text)))
        except (ValueError, RecursionError, OverflowError):  # nested too deeply, or a number beyond a float
            return False

    @cached_property
    def _validator(self) -> Any:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from jsonschema_specifications import REGISTRY  # the published drafts; it fetches nothing

        schema = _read(Path(self.schema))
        draft = schema.get("$schema") if isinstance(schema, dict) else None
        kind: Any = validator_for(
            {} if draft is None else schema, default=Draft202012Validator if draft is None else None
        )
        if kind is None:
            raise SettingError(
                f"schema={str(self.schema)!r} is of the unknown draft $schema={draft!r}; expected one such as "
                f"{Draft202012Validator.META_SCHEMA['$schema']}"
            )
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise SettingError(
                f"schema={str(self.schema)!r} is not a valid JSON schema: at {error.json_path}, {error.message}"
            ) from error
        for reference in _unanswered(schema, kind, REGISTRY):
            raise SettingError(
                f"schema={str(self.schema)!r} refers to {reference!r}, which the file does not hold; other schemas "
                "are not fetched: copy it into $defs and refer to it there"
            )
        validator = kind(schema, registry=REGISTRY)
        try:
            validator.is_valid(None)
        except RecursionError as error:
            raise SettingError(f"schema={str(self.schema)!r} refers to itself without end") from error
        return validator


def parsed_json(text: str) -> Any:
    """Parse a JSON value by the letter of RFC 8259, which Python's parser extends by ``NaN`` and ``Infinity``.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _read(path: Path) -> Any:
    try:
        schema = parsed_json(path.read_text("utf-8"))
    except OSError as error:
        raise FileNotFoundError(f"schema={str(path)!r} cannot be read: {error.strerror}; expected a file") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"schema={str(path)!r} is not JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise SettingError(f"schema={str(path)!r} is a JSON {type(schema).__name__}; expected an object, the schema")
    return schema


def _unanswered(schema: Any, kind: Any, registry: Any) -> Iterator[str]:
    """Yield the references in a schema that neither it nor a published draft answers."""
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    resource: Any = specification_with(kind.META_SCHEMA["$schema"]).create_resource(schema)

    def walk(part: Any, resolver: Any) -> Iterator[str]:
        resolver = resolver.in_subresource(part)
        if isinstance(part.contents, dict):
            for word in ("$ref", "$dynamicRef", "$recursiveRef"):
                reference = part.contents.get(word)
                if isinstance(reference, str):
                    try:
                        resolver.lookup(reference)
                    except Unresolvable:
                        yield reference
        for inner in part.subresources():
            yield from walk(inner, resolver)

    yield from walk(resource, registry.resolver_with_root(resource))
