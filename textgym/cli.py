"""The ``textgym`` command."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
import yaml

from textgym.commands.configs.bench import BenchConfig
from textgym.commands.configs.compare import CompareConfig
from textgym.commands.configs.demo import DemoConfig
from textgym.commands.configs.dpo import DPOConfig
from textgym.commands.configs.generate import GenerateConfig
from textgym.commands.configs.optimum import OptimumConfig
from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.configs.reward_model import RewardModelConfig
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.configs.train import TrainConfig
from textgym.commands.early import check_early
from textgym.rendering import printable

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "demo": (DemoConfig, "textgym.commands.demo:demo"),
    "sft": (SFTConfig, "textgym.commands.sft:sft"),
    "reward-model": (RewardModelConfig, "textgym.commands.reward_model:reward_model"),
    "dpo": (DPOConfig, "textgym.commands.dpo:dpo"),
    "train": (TrainConfig, "textgym.commands.train:train"),
    "pipeline": (PipelineConfig, "textgym.commands.pipeline:pipeline"),
    "generate": (GenerateConfig, "textgym.commands.generate:generate"),
    "optimum": (OptimumConfig, "textgym.commands.optimum:show_optimum"),
    "compare": (CompareConfig, "textgym.commands.compare:compare"),
    "bench": (BenchConfig, "textgym.commands.bench:bench"),
}
"""Settings of each command, and its function, which is imported when it is called: torch takes seconds to load."""
DESCRIPTION = (
    "Gymnasium for language generation. Every command also takes --config FILE.yaml, settings by name; flags win. "
    "textgym pipeline FILE.yaml is short for textgym pipeline --config FILE.yaml."
)
BAD_INPUT = (ValueError, OSError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run a command; bad input ends it with status 2 and one message."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, "")  # as with python -m: module:name finds modules in the current folder
    try:
        argv = with_yaml(argv)
    except (OSError, ValueError) as error:
        _stop(error, 2)
    subcommands: dict[str, Callable[..., Any]] = {name: config for name, (config, _) in COMMANDS.items()}
    try:
        config = tyro.extras.subcommand_cli_from_dict(subcommands, prog="textgym", description=DESCRIPTION, args=argv)
        check_early(config)
    except BAD_INPUT as error:
        _stop(error, 2)
    run_command(config)


def run_command(config: Any) -> None:
    """Import and run the command whose settings these are."""
    from textgym.lm.finite import TrainingError
    from textgym.rewards.functions import RewardError
    from textgym.runs import stopped_by

    quieten_transformers()
    module, _, name = next(address for kind, address in COMMANDS.values() if isinstance(config, kind)).partition(":")
    command = getattr(import_module(module), name)
    try:
        with stopped_by(signal.SIGTERM):
            command(config)
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        _stop(f"{signal.Signals(number).name}: {_kept(config)}", 128 + number)
    except RewardError as error:
        if error.__cause__:
            print(printable("".join(traceback.format_exception(error.__cause__))), end="", file=sys.stderr)
        _stop(error, 1)
    except TrainingError as error:
        _stop(error, 1)
    except BAD_INPUT as error:
        _stop(error, 2)


def _kept(config: Any) -> str:
    """Say what a command that was stopped has kept."""
    if not hasattr(config, "resume"):
        return "the command was stopped"
    return f"the run was stopped; what was complete is in {str(config.out)!r}, and --resume goes on from there"


def quieten_transformers() -> None:
    """Switch off the messages and progress bars of transformers; textgym prints its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def with_yaml(argv: list[str]) -> list[str]:
    """Puts the settings of ``--config FILE.yaml`` before the flags, which therefore win.

    A mapping inside of the file holds the settings of a part: ``train: {kl_coef: 0.3}`` is ``--train.kl-coef 0.3``.

    Raises:
        ValueError: the file is not a mapping of settings.
        OSError: it cannot be read.
    """
    argv = [part for text in argv for part in (text.split("=", 1) if text.startswith("--config=") else [text])]
    if argv[:1] == ["pipeline"] and len(argv) > 1 and not argv[1].startswith("-"):
        argv = [argv[0], "--config", *argv[1:]]
    if "--config" not in argv:
        return argv
    at = argv.index("--config")
    if at + 1 >= len(argv):
        raise ValueError("--config needs a YAML file")
    path = argv[at + 1]
    with open(path, encoding="utf-8") as file:
        try:
            settings = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected a mapping of settings such as 'seed: 1', got {type(settings).__name__}")
    optional = _optional_booleans(COMMANDS[argv[0]][0]) if argv[0] in COMMANDS else set()
    flags = [text for name, value in _named(settings) for text in _flag(name, value, name in optional)]
    rest = [*argv[:at], *argv[at + 2 :]]
    words = next((i for i, text in enumerate(rest) if text.startswith("-")), len(rest))  # 'train', or 'bench run mini'
    return [*rest[:words], *flags, *rest[words:]]


def _named(settings: Mapping[Any, Any], part: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its name on the command line; those of a part after the part's name and a dot."""
    for key, value in settings.items():
        name = part + str(key).replace("_", "-")
        if isinstance(value, dict):
            yield from _named(value, f"{name}.")
        else:
            yield name, value


def _optional_booleans(config: Any, part: str = "") -> set[str]:
    """Settings that are True, False or None: their flags take a value, where those of plain booleans take none."""
    found: set[str] = set()
    for key, hint in get_type_hints(config, include_extras=True).items():
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        name = part + key.replace("_", "-")
        if is_dataclass(kind):
            nameless = any(getattr(mark, "name", None) == "" for mark in marks)
            found |= _optional_booleans(kind, part if nameless else f"{name}.")
        elif kind == bool | None:
            found.add(name)
    return found


def _flag(name: str, value: Any, takes_value: bool) -> list[str]:
    part, dot, last = name.rpartition(".")
    if isinstance(value, bool) and not takes_value:
        return [f"--{name}" if value else f"--{part}{dot}no-{last}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def _stop(error: BaseException | str, status: int) -> None:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
