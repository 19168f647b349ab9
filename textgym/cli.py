"""The ``textgym`` command."""

from __future__ import annotations

import errno
import io
import os
import select
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from types import TracebackType
from typing import Any, NoReturn, get_args, get_type_hints

import tyro

from textgym.commands.configs.bench import BenchConfig
from textgym.commands.configs.compare import CompareConfig
from textgym.commands.configs.demo import DemoConfig
from textgym.commands.configs.distill import DistillConfig
from textgym.commands.configs.evaluate import EvaluateConfig
from textgym.commands.configs.generate import GenerateConfig
from textgym.commands.configs.label import LabelConfig
from textgym.commands.configs.migrate import MigrateConfig
from textgym.commands.configs.online import OnlineConfig
from textgym.commands.configs.optimum import OptimumConfig
from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.configs.play import PlayConfig
from textgym.commands.configs.preferences import DPOConfig, KTOConfig
from textgym.commands.configs.reward_model import RewardModelConfig
from textgym.commands.configs.rewards import RewardsConfig
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.configs.tamer import TamerConfig
from textgym.commands.configs.train import TrainConfig
from textgym.commands.early import check_early
from textgym.commands.flags import config_class, with_names_of_today
from textgym.commands.presets import preset_file
from textgym.commands.yaml_files import read_yaml
from textgym.env.rendering import PrintableStream, printable
from textgym.numbers import SettingError

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "demo": (DemoConfig, "textgym.commands.demo:demo"),
    "sft": (SFTConfig, "textgym.commands.sft:sft"),
    "reward-model": (RewardModelConfig, "textgym.commands.reward_model:reward_model"),
    "tamer": (TamerConfig, "textgym.commands.tamer:tamer"),
    "dpo": (DPOConfig, "textgym.commands.preferences:dpo"),
    "kto": (KTOConfig, "textgym.commands.preferences:kto"),
    "distill": (DistillConfig, "textgym.commands.train:train_command"),
    "online": (OnlineConfig, "textgym.commands.online:online"),
    "train": (TrainConfig, "textgym.commands.train:train_command"),
    "pipeline": (PipelineConfig, "textgym.commands.pipeline:pipeline"),
    "rewards": (RewardsConfig, "textgym.commands.rewards:show_rewards"),
    "generate": (GenerateConfig, "textgym.commands.generate:generate"),
    "evaluate": (EvaluateConfig, "textgym.commands.evaluate:evaluate"),
    "play": (PlayConfig, "textgym.commands.play:play_task"),
    "optimum": (OptimumConfig, "textgym.commands.optimum:show_optimum"),
    "compare": (CompareConfig, "textgym.commands.compare:compare"),
    "bench": (BenchConfig, "textgym.commands.bench:bench"),
    "label": (LabelConfig, "textgym.commands.label:label"),
    "migrate": (MigrateConfig, "textgym.commands.migrate.command:migrate"),
}
"""Settings of each command, and its function, which is imported when it is called: torch takes seconds to load."""
DESCRIPTION = (
    "Gymnasium for language generation. Every command also takes --config FILE.yaml, settings by name; flags win. "
    "textgym pipeline FILE.yaml is short for textgym pipeline --config FILE.yaml. textgym --version prints the "
    "versions that a bug report needs."
)
ACTIONS_OF_LABEL = ("serve", "export", "report")
"""What follows ``textgym label``; anything else is the file of ``serve``."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Failures of a disk while a command works; other errors of files are bad input."""
NARROWEST = 40
"""Minimum width of help, in columns."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run a command.

    Args:
        arguments: command line; None for that of the process, whose streams and warnings are then made safe, too.

    Raises:
        SystemExit: with status 2 and one message for bad input, with 1 where something failed on the way.
    """
    if arguments is None:
        make_streams_safe()
        sys.excepthook = _print_traceback
        warnings.showwarning = _print_warning  # type: ignore[assignment]
    sys.path.insert(0, "")  # as with python -m: module:name finds modules in the current folder
    with exit_on_error():
        try:
            argv = readable(list(sys.argv[1:] if arguments is None else arguments))
            if argv == ["--version"]:
                print_versions()
                return
            config = parse(with_yaml(argv))
            check_early(config)
            run_command(config)
        except KeyboardInterrupt:  # while modules are imported
            _stop("SIGINT: the command was stopped", 128 + signal.SIGINT)
        except SystemExit:
            sys.stdout.flush()  # of help
            raise
        sys.stdout.flush()


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with one message if input is bad or the machine fails; other errors pass through.

    Raises:
        SystemExit: instead of what was raised inside.
    """
    try:
        yield
    except BrokenPipeError as error:
        if not _reader_is_gone():
            _stop(error, 2)
        raise SystemExit(1) from None  # as of "textgym ... | head -1": nobody reads a message, either
    except OSError as error:
        _stop(error, 1 if error.errno in FULL else 2)
    except ValueError as error:
        _stop(error, 2)
    except ImportError as error:
        if error.name is not None:
            raise
        _stop(error, 2)  # a sentence of ours, which says what to install
    except MemoryError as error:
        _stop(f"out of memory: {str(error) or 'lower the sizes'}", 1)
    except RuntimeError as error:
        if not (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)):
            raise
        _stop(f"out of memory: {error}", 1)


def run_command(config: Any) -> None:
    """Import and run the command whose settings these are."""
    from textgym.lm.guards import TrainingError
    from textgym.rewards.functions import RewardError
    from textgym.runs import stopped_by
    from textgym.worlds.world import WorldError

    quieten_transformers()
    module, _, name = next(address for kind, address in COMMANDS.values() if isinstance(config, kind)).partition(":")
    command = getattr(import_module(module), name)
    shown: Any = PrintableStream(sys.stdout)  # models, data and file names may hold what commands a terminal
    try:
        with stopped_by(signal.SIGTERM), redirect_stdout(shown):
            command(config)
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        _stop(f"{signal.Signals(number).name}: {_kept(config, interrupt)}", 128 + number)
    except (RewardError, WorldError) as error:
        if error.__cause__:
            print(printable("".join(traceback.format_exception(error.__cause__))), end="", file=sys.stderr)
        _stop(error, 1)
    except TrainingError as error:
        _stop(error, 1)


def _kept(config: Any, interrupt: KeyboardInterrupt) -> str:
    """Return a sentence on the files that a stopped command has kept."""
    from textgym.runs.directory import BACK, is_run

    if BACK in getattr(interrupt, "__notes__", ()):
        return f"the command was stopped before it had measured anything; {BACK} in {str(config.out)!r}"
    if not hasattr(config, "resume") or not is_run(config.out):
        return "the command was stopped"
    if isinstance(config, RewardModelConfig | TamerConfig):
        return f"the run in {str(config.out)!r} was stopped; --resume begins the model again"
    return f"the run was stopped; what was complete is in {str(config.out)!r}, and --resume goes on from there"


def print_versions() -> None:
    """Print the versions of textgym, Python and the packages that decide numbers, one a line, textgym first."""
    from textgym.runs.directory import versions

    for name, version in sorted(versions().items(), key=lambda item: item[0] != "textgym"):
        print(f"{name} {version}")


def quieten_transformers() -> None:
    """Switch off the messages and progress bars of transformers; textgym prints its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def with_yaml(argv: list[str]) -> list[str]:
    """Put the settings of ``--config FILE.yaml`` before the flags, and those of ``train --preset NAME`` before both.

    What comes later wins. A mapping inside of the file holds the settings of a part: ``train: {beta: 0.3}`` is
    ``--train.beta 0.3``. ``label FILE`` becomes ``label serve FILE``.

    Raises:
        ValueError: the file is not a mapping of settings, or there is no such preset.
        OSError: it cannot be read.
    """
    named = ("--config=", "--preset=")
    argv = [part for text in argv for part in (text.split("=", 1) if text.startswith(named) else [text])]
    if argv[:1] == ["pipeline"] and len(argv) > 1 and not argv[1].startswith("-"):
        argv = [argv[0], "--config", *argv[1:]]
    if argv[:1] == ["label"] and len(argv) > 1 and not argv[1].startswith("-") and argv[1] not in ACTIONS_OF_LABEL:
        argv = [argv[0], ACTIONS_OF_LABEL[0], *argv[1:]]
    argv = _with_settings(argv, "--config", "a YAML file", read_yaml)
    if argv[:1] != ["train"]:
        return argv
    return _with_settings(argv, "--preset", "a name such as rl4lms/imdb-ppo", lambda name: read_yaml(preset_file(name)))


def _with_settings(argv: list[str], flag: str, needed: str, read: Callable[[str], Mapping[Any, Any]]) -> list[str]:
    """Put the settings that a flag's value stands for in its place, before all other flags."""
    if flag not in argv:
        return argv
    at = argv.index(flag)
    if at + 1 >= len(argv):
        raise ValueError(f"{flag} needs {needed}")
    settings = dict(read(argv[at + 1]))
    rest = [*argv[:at], *argv[at + 2 :]]
    words = next((i for i, text in enumerate(rest) if text.startswith("-")), len(rest))  # 'train', or 'bench run mini'
    # Words without a flag, such as the model of 'evaluate', stand in a file by their names.
    by_place = {name: settings.pop(name) for name in _words_of(rest[:1]) if name in settings}
    own = [str(value) for value in [*by_place.values()][words - 1 :]]
    flags = [text for name, value in _named(settings) for text in _flag(name, value)]
    return [*rest[:words], *own, *flags, *rest[words:]]


def _words_of(command: Sequence[str]) -> list[str]:
    """Return the settings that a command takes by their place, without a flag."""
    kinds = [COMMANDS[name][0] for name in command if name in COMMANDS]
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind, include_extras=True).items()}
    return [name for name, hint in hints.items() if tyro.conf.Positional in get_args(hint)[1:]]


def _named(settings: Mapping[Any, Any], part: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings with their names on the command line, such as ``train.beta`` for those of a part."""
    for key, value in settings.items():
        name = part + str(key).replace("_", "-")
        if isinstance(value, dict):
            yield from _named(value, f"{name}.")
        else:
            yield name, value


def _flag(name: str, value: Any) -> list[str]:
    part, dot, last = name.rpartition(".")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--{part}{dot}no-{last}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def readable(argv: list[str]) -> list[str]:
    """Return the arguments.

    Raises:
        ValueError: one holds bytes that are no text, which no file of a run could keep.
    """
    for number, text in enumerate(argv, start=1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"argument {number}, {text!a}, is not UTF-8; use other names") from error
    return argv


def parse(argv: list[str]) -> Any:
    """Make a command's settings from its arguments.

    Raises:
        SettingError: a value has no meaning.
        ValueError: the algorithm is unknown, or lacks a setting that is given.
        SystemExit: tyro has printed its help, or what it cannot read.
    """
    argv, notes = with_names_of_today(argv)
    for note in notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    subcommands: dict[str, Callable[..., Any]] = {name: config for name, (config, _) in COMMANDS.items()}
    if own := config_class(argv):
        subcommands[argv[0]] = own
    told = io.StringIO()
    try:
        with redirect_stderr(told), legible_width():
            return tyro.extras.subcommand_cli_from_dict(subcommands, prog="textgym", description=DESCRIPTION, args=argv)
    except SystemExit as end:
        for error in _causes(end):
            if isinstance(error, SettingError):  # whose sentence is clearer than tyro's box around it
                raise error from None
        print(printable(told.getvalue()), end="", file=sys.stderr)
        raise


@contextmanager
def legible_width() -> Iterator[None]:
    """Make tyro lay out its help for at least :data:`NARROWEST` columns; in 5 columns it never ends."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(NARROWEST, shutil.get_terminal_size().columns))
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def make_streams_safe() -> None:
    """Let standard streams accept every text in any locale, and replace closed ones."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif mode == "w":
            stream.reconfigure(errors="backslashreplace")


def _reader_is_gone() -> bool:
    """Return True if standard output is a broken pipe, and close it, as the interpreter would complain at its end."""
    try:
        out = sys.stdout.fileno()
    except OSError:  # it is no file, but a text in memory
        return False
    if hasattr(select, "poll"):  # what Windows lacks
        poll = select.poll()
        poll.register(out, 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def _print_warning(message: Warning | str, kind: type[Warning], *_: Any) -> None:
    print(printable(f"{kind.__name__}: {message}"), file=sys.stderr)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(printable("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _stop(error: BaseException | str, status: int) -> NoReturn:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
