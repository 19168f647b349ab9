"""Settings in a Python script that uses TRL: read from its syntax tree, never executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textgym.files import read_text

CONFIG, TRAINER = "PPOConfig", "PPOTrainer"


class Unread:
    """Value that the script computes when it runs.

    Attributes:
        text: its expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def read_script(path: Path) -> dict[str, Any]:
    """Return the settings of a script by name: of PPOConfig, of sampling, and the arguments of PPOTrainer.

    Values are literals, names of literals, and defaults of the script's own command line (fields of its dataclasses,
    and ``add_argument``). Others are :class:`Unread`. Names are those of PPOConfig; ``generate.`` stands before the
    arguments of ``generate``, and ``PPOTrainer.`` before those of the trainer.

    Raises:
        ValueError: it is no Python, or does not name PPOConfig exactly once.
    """
    text = read_text(path)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is not a Python script that can be read: {error}") from error
    known = _literals(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    configs = [call for call in calls if _name(call.func) == CONFIG]
    parsed = [call for call in calls if _name(call.func).endswith("Parser") and CONFIG in _names_in(call)]
    if len(configs) > 1:
        lines = ", ".join(str(call.lineno) for call in configs)
        raise ValueError(
            f"{path} calls {CONFIG} {len(configs)} times, in lines {lines}; leave one, or write its settings to YAML"
        )
    if not configs and not parsed:
        raise ValueError(f"{path} has no {CONFIG}(…), nor a parser of it; expected a script that trains with TRL's PPO")
    found = dict(_keywords(configs[0], known)) if configs else {}
    for call in calls:
        name = _name(call.func)
        if name == TRAINER:
            found |= {f"{TRAINER}.{key}": value for key, value in _keywords(call, known)}
        elif name == "generate" and isinstance(call.func, ast.Attribute) and "trainer" in ast.unparse(call.func.value):
            found |= {f"generate.{key}": value for key, value in _keywords(call, known)}
    return found


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name; empty for other expressions."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _names_in(node: ast.AST) -> set[str]:
    return {_name(part) for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)}


def _keywords(call: ast.Call, known: Mapping[str, ast.expr]) -> Iterator[tuple[str, Any]]:
    """Yield the keywords of a call with their values; ``**name`` gives those of the dictionary ``name``."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg, _value(keyword.value, known)
        else:
            node = keyword.value if not isinstance(keyword.value, ast.Name) else known.get(keyword.value.id)
            if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
                keys = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
                yield from ((key, _value(value, known)) for key, value in zip(keys, node.values, strict=True))
            elif isinstance(node, ast.Call) and _name(node.func) == "dict":
                yield from _keywords(node, known)
            else:
                text = ast.unparse(keyword.value)
                yield f"**{text}", Unread(text)


def _value(node: ast.expr, known: Mapping[str, ast.expr], depth: int = 0) -> Any:
    """Return a literal, or what a name stands for; :class:`Unread` otherwise."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        name = _name(node)
        if name in known and depth < 8:
            return _value(known[name], known, depth + 1)
        return Unread(ast.unparse(node))


def _literals(tree: ast.Module) -> dict[str, ast.expr]:
    """Return what names of a script stand for: assigned values, fields of dataclasses, defaults of flags."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _default(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = _default(node.value)
        elif isinstance(node, ast.Call) and _name(node.func) == "add_argument":
            flags = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            default = next((word.value for word in node.keywords if word.arg == "default"), None)
            if flags and default is not None:
                found[max(flags, key=len).lstrip("-").replace("-", "_")] = default
    return found


def _default(node: ast.expr) -> ast.expr:
    """Return the default in ``field(default=…)``; other expressions as they are."""
    if isinstance(node, ast.Call) and _name(node.func) in ("field", "Field"):
        for word in node.keywords:
            if word.arg == "default":
                return word.value
    return node
