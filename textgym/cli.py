"""The ``textgym`` command."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import tyro
import yaml
from transformers.utils import logging as transformers_logging

from textgym.commands.demo import DemoConfig, demo
from textgym.commands.dpo import DPOConfig, dpo
from textgym.commands.generate import GenerateConfig, generate
from textgym.commands.optimum import OptimumConfig, show_optimum
from textgym.commands.reward_model import RewardModelConfig, reward_model
from textgym.commands.sft import SFTConfig, sft
from textgym.commands.train import TrainConfig, train
from textgym.rewards.functions import RewardError

COMMANDS: dict[str, tuple[type[Any], Any]] = {
    "demo": (DemoConfig, demo),
    "sft": (SFTConfig, sft),
    "reward-model": (RewardModelConfig, reward_model),
    "dpo": (DPOConfig, dpo),
    "train": (TrainConfig, train),
    "generate": (GenerateConfig, generate),
    "optimum": (OptimumConfig, show_optimum),
}
DESCRIPTION = (
    "Gymnasium for language generation. Every command also takes --config FILE.yaml, settings by name; flags win."
)
BAD_INPUT = (ValueError, FileNotFoundError, FileExistsError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and runs a command; bad input ends it with status 2 and one message."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.insert(0, "")  # as with python -m: module:name finds modules in the current folder
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        argv = with_yaml(argv)
    except (OSError, ValueError) as error:
        _stop(error, 2)
    subcommands: dict[str, Callable[..., Any]] = {name: config for name, (config, _) in COMMANDS.items()}
    try:
        config = tyro.extras.subcommand_cli_from_dict(subcommands, prog="textgym", description=DESCRIPTION, args=argv)
        command = next(run for kind, run in COMMANDS.values() if isinstance(config, kind))
        command(config)
    except RewardError as error:
        traceback.print_exception(error.__cause__) if error.__cause__ else None
        _stop(error, 1)
    except BAD_INPUT as error:
        _stop(error, 2)


def with_yaml(argv: list[str]) -> list[str]:
    """Puts the settings of ``--config FILE.yaml`` before the flags, which therefore win.

    Raises:
        ValueError: the file is not a mapping of settings.
        OSError: it cannot be read.
    """
    argv = [part for text in argv for part in (text.split("=", 1) if text.startswith("--config=") else [text])]
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
    flags = [
        text
        for key, value in settings.items()
        for text in _flag(str(key).replace("-", "_"), value, str(key).replace("-", "_") in optional)
    ]
    return [argv[0], *flags, *argv[1:at], *argv[at + 2 :]]


def _optional_booleans(config: Any) -> set[str]:
    """Settings that are True, False or None: their flags take a value, where those of plain booleans take none."""
    found: set[str] = set()
    for name, hint in get_type_hints(config).items():
        if is_dataclass(hint):
            found |= _optional_booleans(hint)
        elif hint == bool | None:
            found.add(name)
    return found


def _flag(key: str, value: Any, takes_value: bool) -> list[str]:
    name = key.replace("_", "-")
    if isinstance(value, bool) and not takes_value:
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def _stop(error: BaseException, status: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
