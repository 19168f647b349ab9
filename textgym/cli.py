"""The ``textgym`` command."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
import yaml
from transformers.utils import logging as transformers_logging

from textgym.agents.guards import TrainingError
from textgym.commands.bench import BenchConfig, bench
from textgym.commands.demo import DemoConfig, demo
from textgym.commands.dpo import DPOConfig, dpo
from textgym.commands.generate import GenerateConfig, generate
from textgym.commands.optimum import OptimumConfig, show_optimum
from textgym.commands.pipeline import PipelineConfig, pipeline
from textgym.commands.reward_model import RewardModelConfig, reward_model
from textgym.commands.sft import SFTConfig, sft
from textgym.commands.train import TrainConfig, train
from textgym.rendering import printable
from textgym.rewards.functions import RewardError

COMMANDS: dict[str, tuple[type[Any], Any]] = {
    "demo": (DemoConfig, demo),
    "sft": (SFTConfig, sft),
    "reward-model": (RewardModelConfig, reward_model),
    "dpo": (DPOConfig, dpo),
    "train": (TrainConfig, train),
    "pipeline": (PipelineConfig, pipeline),
    "generate": (GenerateConfig, generate),
    "optimum": (OptimumConfig, show_optimum),
    "bench": (BenchConfig, bench),
}
DESCRIPTION = (
    "Gymnasium for language generation. Every command also takes --config FILE.yaml, settings by name; flags win. "
    "textgym pipeline FILE.yaml is short for textgym pipeline --config FILE.yaml."
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
        if error.__cause__:
            print(printable("".join(traceback.format_exception(error.__cause__))), end="", file=sys.stderr)
        _stop(error, 1)
    except TrainingError as error:
        _stop(error, 1)
    except BAD_INPUT as error:
        _stop(error, 2)


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


def _stop(error: BaseException, status: int) -> None:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
