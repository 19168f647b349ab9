"""Measure the house: sizes, docstrings, doubled names, and the depth of one PPO iteration.

Usage: python -m scripts.house [--root DIRECTORY] [--names] [--no-walk]

Every number is counted from the source by ``ast`` and ``tokenize``, but for the modules and functions of a PPO
iteration, which a profile hook sees between ``learn()`` and the first step of the optimizer.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

ROOMS = ("agents", "rewards", "benchmarks", "textgym")
"""Top-level folders of the package; the first three are linked from the last, where the links are left out."""
WH_WORDS = frozenset(("how", "what", "when", "where", "whether", "which", "who", "whose", "why"))
TASK = "textgym/Reviews-v0"
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the measures of a checkout, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the checkout")
    parser.add_argument("--names", action="store_true", help="also list the doubled names, wh-docstrings and readers")
    parser.add_argument("--no-walk", action="store_true", help="leave out the PPO iteration, which needs torch")
    options = parser.parse_args(arguments)
    sources = {path: path.read_text(encoding="utf-8") for path in package_files(options.root)}
    trees = {path.relative_to(options.root).as_posix(): ast.parse(source) for path, source in sources.items()}
    doubled, readers, wh_words = doubled_names(trees), json_lines_readers(trees), wh_docstrings(trees)
    folder, files = largest_folder(trees)
    code, comments = map(sum, zip(*map(code_and_comments, sources.values()), strict=True))
    measures: dict[str, object] = {
        "modules": len(trees),
        "lines": sum(source.count("\n") for source in sources.values()),
        "lines of code": code,
        "comments per 100 lines of code": f"{100 * comments / code:.1f}",
        "files in the largest folder": f"{files} ({folder})",
        "docstrings that begin with a wh-word": f"{100 * len(wh_words) / count_docstrings(trees):.1f} %",
        "public functions and classes defined in two modules or more": len(doubled_names(trees, constants=False)),
        "public names, constants included, defined in two modules or more": len(doubled),
        "readers of JSON Lines": len(readers),
        "test functions": count_tests(options.root / "tests"),
    }
    if not options.no_walk:
        walk = ppo_iteration()
        measures["modules that one PPO iteration passes"] = len(walk)
        measures["functions that one PPO iteration passes"] = sum(map(len, walk.values()))
    for name, value in measures.items():
        print(f"{name:66}{value}")
    if options.names:
        print("\ndoubled names:", *(f"  {name}: {', '.join(where)}" for name, where in doubled.items()), sep="\n")
        print("\nwh-docstrings:", *(f"  {where}" for where in wh_words), sep="\n")
        print("\nreaders of JSON Lines:", *(f"  {where}" for where in readers), sep="\n")


def package_files(root: Path) -> list[Path]:
    """Return the modules of the package, each once: links are not followed."""
    found = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    return [path for path in found if not any((root / "textgym" / name) in path.parents for name in ROOMS[:3])]


# -- From the source -------------------------------------------------------------------------------


def largest_folder(modules: Mapping[str, object]) -> tuple[str, int]:
    """Return the folder with the most modules, and their number."""
    return Counter(name.rpartition("/")[0] for name in modules).most_common(1)[0]


def code_and_comments(source: str) -> tuple[int, int]:
    """Return the numbers of lines that hold code, and of lines that hold a comment; docstrings are neither."""
    strings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    blank = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code, comments = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in blank:
            code |= set(range(token.start[0], token.end[0] + 1)) - strings
    return len(code), len(comments)


def _documented(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, str]]:
    """Yield every docstring with its place."""
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Documented) and (docstring := ast.get_docstring(node)):
                yield f"{name}:{getattr(node, 'lineno', 1)}", docstring


def count_docstrings(trees: Mapping[str, ast.Module]) -> int:
    """Count the docstrings of modules, classes and functions."""
    return sum(1 for _ in _documented(trees))


def wh_docstrings(trees: Mapping[str, ast.Module]) -> list[str]:
    """Return the places of docstrings that begin with What, Who, Whether, How or their like."""
    return [where for where, text in _documented(trees) if text.split()[0].strip(".,:").lower() in WH_WORDS]


def public_names(tree: ast.Module, constants: bool = True) -> Iterator[str]:
    """Yield the public functions and classes that a module defines at its top level, and its constants."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif not constants:
            continue
        elif isinstance(node, ast.Assign):
            names = [leaf.id for target in node.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def doubled_names(trees: Mapping[str, ast.Module], constants: bool = True) -> dict[str, list[str]]:
    """Return the public names that two modules or more define, with those modules."""
    where: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for name in public_names(tree, constants):
            where[name].add(module)
    return {name: sorted(modules) for name, modules in sorted(where.items()) if len(modules) > 1}


def json_lines_readers(trees: Mapping[str, ast.Module]) -> list[str]:
    """Return the functions that cut a text into lines and parse JSON themselves."""
    return [
        f"{module}:{node.name}"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and _cuts_lines(node) and _parses_json(node)
    ]


def _calls(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute):
            yield (call.func.id if isinstance(call.func, ast.Name) else call.func.attr), call


def _cuts_lines(node: ast.AST) -> bool:
    line_feed = ("\n", b"\n")
    return any(
        name in ("splitlines", "open", "readlines")
        or (
            name in ("split", "rpartition", "rsplit")
            and any(isinstance(part, ast.Constant) and part.value in line_feed for part in call.args)
        )
        for name, call in _calls(node)
    )


def _parses_json(node: ast.AST) -> bool:
    return any(name in ("loads", "parse_json") for name, _ in _calls(node))


def count_tests(folder: Path) -> int:
    """Count the test functions below a folder; a parametrised one counts once."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return sum(node.name.startswith("test_") for node in functions)


# -- One PPO iteration -----------------------------------------------------------------------------


class _FirstStepError(Exception):
    """Ends the iteration at the first step of the optimizer."""


def ppo_iteration(task: str = TASK) -> dict[str, set[str]]:
    """Return the functions that run between ``learn()`` and the first step of the optimizer, by module."""
    import torch

    from textgym.agents import PPO

    torch.set_num_threads(1)
    algorithm = PPO("LMPolicy", task, episodes_per_iteration=16, minibatch_size=8, seed=0)
    passed: dict[str, set[str]] = {}

    def watch(frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG001 - as sys.setprofile calls it
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("textgym"):
            passed.setdefault(module, set()).add(frame.f_code.co_qualname)

    def end(*_: Any, **__: Any) -> None:
        sys.setprofile(None)  # before the exception unwinds the frames
        raise _FirstStepError

    algorithm.policy.optimizer.step = end
    sys.setprofile(watch)
    try:
        algorithm.learn(1)
    except _FirstStepError:
        pass
    finally:
        sys.setprofile(None)
    return passed


if __name__ == "__main__":
    main()
