"""Flags that depend on the chosen algorithm, and former names of flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from textgym.agents.settings import SETTINGS, setting_names
from textgym.commands.configs.hyperparameters import DEFAULT_ALGORITHM, algorithms_with, hyperparameters_class
from textgym.commands.configs.online import online_config_class
from textgym.commands.configs.pipeline import pipeline_config_class
from textgym.commands.configs.train import train_config_class

CHOOSING: dict[str, tuple[str, Callable[[str], type[Any]]]] = {
    "train": ("", train_config_class),
    "online": ("", online_config_class),
    "pipeline": ("train.", pipeline_config_class),
}
"""Commands with an algorithm: the prefix of its flags, and the function that makes the settings for it."""
FORMER = {"kl-coef": "beta"}
"""Names of flags and YAML settings of version 0.1, with those of today."""
FORMER_WORDS = ("kl-in-loss", "scale-by-std")
"""Flags that took True or False in version 0.1."""
_DEFAULTS = [(field.name.replace("_", "-"), field.default) for kind in SETTINGS.values() for field in fields(kind)]
FORMER_NONE = {name for name, _ in _DEFAULTS} - {name for name, default in _DEFAULTS if default is None}
"""Flags that took None in version 0.1, for the algorithm's default, and for settings that it does not have."""
OF_ALGORITHMS = ("train", "online", "pipeline", "demo")
"""Commands whose flags include those of algorithms."""


def config_class(argv: Sequence[str]) -> type[Any] | None:
    """Return the class of a command's settings, made for the algorithm that the arguments choose.

    Args:
        argv: the command with its flags.

    Returns:
        The class; None for a command without a choice of algorithm.

    Raises:
        ValueError: there is no such algorithm, or it lacks a setting that is given; the algorithms with it are named.
    """
    if not argv or argv[0] not in CHOOSING:
        return None
    part, make = CHOOSING[argv[0]]
    algorithm = _chosen(argv, f"--{part}algorithm")
    made = make(algorithm)
    _check_foreign(argv, part, algorithm)
    return made


def _chosen(argv: Sequence[str], flag: str) -> str:
    """Return the last value of a flag, as it wins; the default algorithm without one."""
    found = DEFAULT_ALGORITHM
    for position, text in enumerate(argv):
        name, equals, value = text.partition("=")
        if name == flag and equals:
            found = value
        elif name == flag and position + 1 < len(argv) and not argv[position + 1].startswith("--"):
            found = argv[position + 1]
    return found


def _check_foreign(argv: Sequence[str], part: str, algorithm: str) -> None:
    """Raise ValueError where a flag is a setting of other algorithms only."""
    known = set(setting_names(hyperparameters_class(algorithm)))
    foreign = {name for kind in SETTINGS.values() for name in setting_names(kind)} - known
    for text in argv:
        flag = text.partition("=")[0]
        name = flag.removeprefix(f"--{part}").removeprefix("no-").replace("-", "_")
        if flag.startswith(f"--{part}") and name in foreign:
            owners = _listed(algorithms_with(name))
            raise ValueError(f"{name}: {algorithm} has no such setting, which belongs to {owners}; leave it out")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def with_names_of_today(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments with flags of version 0.1 in their form of today, and a note about each of them."""
    if not argv or argv[0] not in OF_ALGORITHMS:
        return list(argv), []
    made: list[str] = []
    notes: list[str] = []
    for text in (part for joined in argv for part in _words_apart(joined)):
        flag, equals, value = text.partition("=")
        part, name = _split(flag)
        if flag.startswith("--") and name in FORMER:
            made.append(f"{part}{FORMER[name]}{equals}{value}")
            notes.append(
                f"{flag} ({name.replace('-', '_')} in YAML) is called {made[-1].partition('=')[0]} now; this is the "
                "last version that takes the old name"
            )
        elif text in ("True", "False") and made and _split(made[-1])[1] in FORMER_WORDS:
            part, name = _split(made[-1])
            made[-1] = f"{part}{name}" if text == "True" else f"{part}no-{name}"
            notes.append(f"{part}{name} {text} is written {made[-1]} now; this is the last version that takes a word")
        elif text == "None" and made and _split(made[-1])[1] in FORMER_NONE:
            notes.append(f"{made.pop()} None is left out now; this is the last version that takes the word")
        else:
            made.append(text)
    return made, list(dict.fromkeys(notes))


def _words_apart(text: str) -> list[str]:
    """Return ``--kl-in-loss=False`` as a flag and its word, as version 0.1 took both forms; other arguments whole."""
    flag, _, value = text.partition("=")
    former = value in ("True", "False", "None") and _split(flag)[1] in FORMER_NONE
    return [flag, value] if flag.startswith("--") and former else [text]


def _split(flag: str) -> tuple[str, str]:
    """Return a flag's dashes with the part that it belongs to, and its name there."""
    name = flag.removeprefix("--").rpartition(".")[2]
    return flag.removesuffix(name), name
