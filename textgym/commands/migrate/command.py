"""``textgym migrate``: convert settings of another library, and say what became of each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from textgym.commands.configs.migrate import MigrateConfig
from textgym.commands.migrate.conversion import Conversion, Item, Kind, built
from textgym.commands.migrate.rl4lms import convert_rl4lms
from textgym.commands.migrate.trl import convert_trl
from textgym.commands.yaml_files import read_yaml
from textgym.env.rendering import printable
from textgym.files import write_text

WIDTH = 118
HEADINGS: Mapping[Kind, str] = {
    "converted": "Converted",
    "changed": "Converted, with another meaning",
    "default": "Left open there, and written out",
    "none": "No equivalent",
    "unneeded": "Not needed",
}


def migrate(config: MigrateConfig) -> None:
    """Convert a file; write the result, or print it.

    Raises:
        ValueError: the file does not hold such settings, or a value is out of its range.
        FileExistsError: ``out`` exists.
        FileNotFoundError: the directory of ``out`` does not exist.
    """
    check_out(config.out)
    conversion = convert(config)
    built(conversion.command, conversion.settings)
    if config.out is None:
        print(as_yaml(conversion, [f"From {config.file.name} by 'textgym migrate {config.source}'."]), end="")
        return
    write_text(config.out, as_yaml(conversion, [f"From {config.file.name} by 'textgym migrate {config.source}'."]))
    print("\n".join(listed(conversion)))
    print(f"\nwritten: {config.out}\nnext:    textgym {conversion.command} --config {config.out} --out runs/NAME")


def check_out(out: Path | None) -> None:
    """Check that a file can be written.

    Raises:
        FileExistsError: it exists.
        FileNotFoundError: its directory does not exist.
    """
    if out is None:
        return
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"out={str(out)!r} exists; choose another name, or remove it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"out={str(out)!r}: there is no directory {str(out.parent)!r}")


def convert(config: MigrateConfig) -> Conversion:
    """Read and convert a file; raises as :func:`migrate` does."""
    if config.source == "rl4lms":
        return convert_rl4lms(read_yaml(config.file), str(config.file))
    return convert_trl(config.file)


# --- the file --------------------------------------------------------------------------------------------------


def as_yaml(conversion: Conversion, head: Sequence[str]) -> str:
    """Return a file for ``--config``: settings with where they come from, and the account in comments."""
    about = [*head, f"textgym {conversion.command} --config THIS_FILE --out runs/NAME"]
    lines = [*map(_comment, about), *settings_lines(conversion), *map(_comment, ["", *listed(conversion)])]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Return a comment in one line, whatever somebody's names and values hold."""
    return f"# {printable(' '.join(text.splitlines()))}".rstrip()


def settings_lines(conversion: Conversion) -> list[str]:
    """Return a line of YAML for each setting, with a comment on where it comes from."""
    origins: dict[str, dict[str, Any]] = {}
    for item in conversion.items:
        for name in item.settings:
            origins.setdefault(name, {}).update(item.given)
    lines = []
    for name, value in conversion.settings.items():
        text, given = f"{name}: {_scalar(value)}", origins[name]
        shown = ", ".join(_given(*pair) for pair in given.items())
        if len(f"{text}  # {shown}") > WIDTH:
            shown = ", ".join(given) if len(given) < 3 else next(iter(given)).partition(".")[0]
        lines.append(f"{text}  {_comment(shown)}" if given else text)
    return lines


def _scalar(value: Any) -> str:
    """Return a value as YAML, in one line."""
    style = '"' if isinstance(value, str) and len(value.splitlines()) > 1 else None
    try:
        text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=10**9, allow_unicode=True)
    except yaml.YAMLError:  # of a script, such as 1j
        return repr(value)
    return text.removesuffix("\n").removesuffix("\n...")


def _given(name: str, value: Any) -> str:
    return f"{name}={_scalar(value)}"


# --- the list --------------------------------------------------------------------------------------------------


def listed(conversion: Conversion) -> list[str]:
    """Return the account of a conversion, in lines: every given setting stands in it."""
    lines: list[str] = []
    for kind, heading in HEADINGS.items():
        items = conversion.of(kind)
        if items:
            lines += ["", heading, *(line for item in items for line in _lines_of(item))]
    return lines[1:]


def _lines_of(item: Item) -> list[str]:
    left = ", ".join(_given(name, value) for name, value in item.given.items())
    right = ", ".join(f"{name}: {_scalar(value)}" for name, value in item.settings.items())
    both = " -> ".join(part for part in (left, right) if part)
    first = textwrap.wrap(
        both, WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    note = f"{item.note}." if item.note else ""
    indent = "      " if first else "  "
    return [
        *first,
        *textwrap.wrap(note, WIDTH - 2, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False),
    ]
