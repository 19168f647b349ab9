"""Account of a conversion: what became of each setting of another library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.hyperparameters import DEFAULT_ALGORITHM, hyperparameters_class
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.configs.train import train_config_class
from textgym.numbers import count, finite

Kind: TypeAlias = Literal["converted", "changed", "default", "none", "unneeded"]
"""What becomes of a setting: it keeps its meaning; it has another one; it was left open, and its default is written
out; it has no equivalent; or nothing depends on it here."""


@dataclass(frozen=True)
class Item:
    """Settings that are converted together.

    Attributes:
        kind: what becomes of them.
        given: the settings of the other library, by their whole names.
        settings: the settings of textgym, by name; none where there is no equivalent.
        note: what differs, why, and what to do; one or two sentences.
    """

    kind: Kind
    given: Mapping[str, Any]
    settings: Mapping[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Conversion:
    """Converted settings, with an account of every one that was given.

    Attributes:
        command: the command that reads them, ``train`` or ``sft``.
        items: what became of each.
    """

    command: str
    items: tuple[Item, ...]

    @property
    def given(self) -> dict[str, Any]:
        """Every setting of the other library that is accounted for, by its whole name."""
        return {name: value for item in self.items for name, value in item.given.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of textgym, in the order of its help."""
        found = {name: value for item in self.items for name, value in item.settings.items()}
        order = {name: place for place, name in enumerate(_names(self.command, found))}
        return dict(sorted(found.items(), key=lambda pair: order[pair[0]]))

    def of(self, kind: Kind) -> list[Item]:
        """Return the items of a kind."""
        return [item for item in self.items if item.kind == kind]


@dataclass
class Ledger:
    """Settings of another library, of which each is to be accounted for once.

    Attributes:
        source: the file, which begins the errors.
        open: those that are not accounted for yet, by their whole names.
        items: the account so far.
    """

    source: str
    open: dict[str, Any]
    items: list[Item] = field(default_factory=list)

    def add(
        self, kind: Kind, names: str | Iterable[str], settings: Mapping[str, Any] | None = None, note: str = ""
    ) -> None:
        """Account for the settings of these names, as far as they are given; without any, only for a default."""
        listed = [names] if isinstance(names, str) else list(names)
        given = {name: self.open.pop(name) for name in listed if name in self.open}
        if given or kind == "default":
            self.items.append(Item(kind, given, settings or {}, note))

    def remark(self, note: str, settings: Mapping[str, Any] | None = None) -> None:
        """Say what has no equivalent although no setting stands for it."""
        self.items.append(Item("none", {}, settings or {}, note))

    def under(self, *sections: str) -> list[str]:
        """Return the names in sections that are not accounted for yet; a section may be a single setting."""
        return [
            name
            for name in self.open
            if any(name == one or name.startswith((f"{one}.", f"{one}[")) for one in sections)
        ]

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """Return the whole number that a setting holds, or its default.

        Raises:
            ValueError: it is missing and has no default, or is no such number.
        """
        return count(f"{self.source}: {name}", self._value(name, default), least)

    def number(self, name: str, default: float | None = None) -> float:
        """Return the number that a setting holds, or its default; raises as :meth:`whole` does."""
        return finite(f"{self.source}: {name}", self._value(name, default))

    def _value(self, name: str, default: Any) -> Any:
        value = self.open.get(name)
        if value is None:
            if default is None:
                raise ValueError(f"{self.source}: {name} is missing")
            return default
        if isinstance(value, str):  # YAML reads 1e-5 as a text
            try:
                return float(value)
            except ValueError:
                return value
        return value

    def close(self, command: str, unknown: str) -> Conversion:
        """Return the conversion; what is not accounted for has no equivalent, for the reason ``unknown``."""
        for name in list(self.open):
            self.add("none", name, note=unknown)
        return Conversion(command, tuple(self.items))


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings with their whole names, such as ``alg.metrics[0].id``.

    An empty mapping or list is a leaf, so that none is lost.
    """
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and tree:
        for place, value in enumerate(tree):
            yield from flat(value, f"{name}[{place}]")
    else:
        yield name, tree


def rounded(value: float) -> float:
    """Return a product without the last digits of its rounding: 4.8 for 0.1 times 48."""
    return float(f"{value:.12g}")


def built(command: str, settings: Mapping[str, Any]) -> Any:
    """Return the config of a command with these settings.

    Raises:
        ValueError: a value is out of its range.
    """
    words = settings.get("parameters", [])
    parameters = {"parameters": dict(zip(words[::2], words[1::2], strict=True))} if words else {}
    given = {**settings, "out": Path(settings.get("out", "run")), **parameters}
    if command == "sft":
        inner = {one.name for one in fields(SFTSettings)}
        own = SFTSettings(**{name: value for name, value in given.items() if name in inner})
        return SFTConfig(**{name: value for name, value in given.items() if name not in inner}, settings=own)
    algorithm = given.pop("algorithm", DEFAULT_ALGORITHM)
    kind = hyperparameters_class(algorithm)
    inner = {one.name for one in fields(kind)}
    hyperparameters = kind(**{name: value for name, value in given.items() if name in inner})
    rest = {name: value for name, value in given.items() if name not in inner}
    return train_config_class(algorithm)(**rest, hyperparameters=hyperparameters)


def _names(command: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of a command's settings, in the order of its help."""
    config = built(command, {name: value for name, value in settings.items() if name == "algorithm"})
    part = config.settings if command == "sft" else config.hyperparameters
    return [one.name for each in (config, part) for one in fields(each)]
