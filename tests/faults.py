"""Faults at a chosen file operation of a command: signals, and disks that are full or read-only.

A command runs in a process of its own. An audit hook numbers its file operations inside the run's directory, and at a
chosen one, before it is carried out, a signal arrives or the operation fails. The process is forked from a server that
has everything imported, so that one costs a fraction of a second.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from textgym.files import is_leftover, write_text

PRELOADED = [
    *(f"textgym.commands.{name}" for name in ("train", "sft", "preferences", "reward_model", "pipeline")),
    *(
        "textgym.agents.offline.hf_trainer",
        "transformers.models.gpt2.modeling_gpt2",
        "textgym.cli",
        "pytest",
        "tests.faults",
    ),
]
SIGNALS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM, "SIGINT": 128 + signal.SIGINT}
"""Signals, with the exit status of a process that each one ends."""
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
STATUS = {**SIGNALS, "full": 1, "read-only": 2}
"""The exit status that each fault ends a command with."""
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command.

    Attributes:
        status: its exit status; negative for a signal that killed it.
        text: what it printed.
        operations: its file operations in the run's directory, as ``"event path"``.
    """

    status: int
    text: str
    operations: list[str]


def run(
    place: Path, argv: Sequence[str], fault: str | None = None, at: int = 0, seconds: float | None = None
) -> Outcome:
    """Run a command with ``--out run`` in a folder.

    Args:
        place: the folder.
        argv: the command.
        fault: a name of SIGNALS or ERRORS; None for none.
        at: the operation, from 1, before which the fault comes.
        seconds: kill the process after so long; None to let it end.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log = place / "log"
    child = context.Process(target=_child, args=(str(place), list(argv), fault, at))
    for name in ("log", "operations"):
        (place / name).unlink(missing_ok=True)
    child.start()
    child.join(300 if seconds is None else seconds)
    if seconds is not None:
        child.kill()
        child.join()
    assert child.exitcode is not None, f"{argv} does not end"
    kept = place / "operations"
    lines = kept.read_text().splitlines() if kept.exists() else []
    return Outcome(child.exitcode, log.read_text() if log.exists() else "", lines)


def _child(place: str, argv: list[str], fault: str | None, at: int) -> None:
    import torch

    from textgym.cli import main

    torch.set_num_threads(1)
    os.chdir(place)
    for module in ("runs.training", "commands.learner", "commands.reward_model"):  # figures take most of the time
        import_module(f"textgym.{module}").write_report = _bare_report
    import_module("textgym.commands.pipeline.command").write_pipeline_report = _bare_report  # type: ignore[attr-defined]
    status: Any = 0
    text = io.StringIO()
    _install(Path(place, "run"), fault, at)
    try:
        with redirect_stdout(text), redirect_stderr(text):
            main(argv)
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        status = 99
        text.write(f"TRACEBACK {type(error).__name__}: {error}")
    Path(place, "log").write_text(text.getvalue())
    os._exit(status)


def _bare_report(out: Path) -> Path:
    write_text(out / "report.html", "a page without figures")
    return out / "report.html"


def _install(out: Path, fault: str | None, at: int) -> None:
    """Number the operations inside of a directory, write them down, and let the fault come at one of them."""
    record = os.open(out.parent / "operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    inside = (str(out), "run")
    count = 0

    def met(event: str, path: Any, folder: int = -1) -> None:
        nonlocal count
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
        if folder != -1:  # as shutil.rmtree removes entries
            text = f"{os.readlink(f'/proc/self/fd/{folder}')}/{text}"
        if not (text in inside or text.startswith((f"{out}/", "run/"))) or text.endswith("/.lock"):
            return
        count += 1
        os.write(record, f"{event} {os.path.relpath(text, out.parent) if text[0] == '/' else text}\n".encode())
        if count == at and fault in SIGNALS:
            os.kill(os.getpid(), getattr(signal, fault))
        elif fault in ERRORS and (count >= at > 0):  # a disk stays full
            raise OSError(ERRORS[fault], os.strerror(ERRORS[fault]), text)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES:
            met(event, args[0], args[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1)
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
            met(event, args[0])

    fsync = os.fsync

    def watched_fsync(handle: int) -> None:
        met("fsync", os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else str(out / "?"))
        fsync(handle)

    os.fsync = watched_fsync
    _watch_tensors(met, fault)
    sys.addaudithook(hook)


def _watch_tensors(met: Any, fault: str | None) -> None:
    """Number the writing of tensors, which Rust does unseen: before it, and with half of the file written."""
    import safetensors.torch

    write = safetensors.torch.serialize_file

    def watched(tensors: Any, filename: Any, *rest: Any, **named: Any) -> None:
        met("tensors", filename)
        write(tensors, filename, *rest, **named)
        if fault != "SIGKILL":
            return
        whole = Path(filename).read_bytes()
        os.truncate(filename, len(whole) // 2)  # which is one operation more
        Path(filename).write_bytes(whole)  # and this another

    safetensors.torch.serialize_file = watched


def leftovers(out: Path) -> list[str]:
    """Return what a run should not have left in its directory."""
    hidden = (".moving", ".replaced")
    return [str(path) for path in out.rglob("*") if is_leftover(path.name) or path.name in hidden]


def result(out: Path) -> dict[str, Any]:
    """Return what must not depend on faults: weights, training state, measurements and metrics, but for times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_dir() or path.name in (".lock", "report.html", "stages.json", "manifest.json", "config.json"):
            continue
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: row[key] for key in row if not key.startswith("time/")} for row in rows]
        else:
            found[name] = path.read_bytes()
    return found
