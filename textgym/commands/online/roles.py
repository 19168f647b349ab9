"""Roles that work in processes of their own: the reward trainer, a labeller with scores, and the page for people.

``python -m textgym.commands.online ROLE RUN`` plays a role until its standard input closes, which happens when
the learner ends, however it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgym.env.rendering import printable
from textgym.files import read_json
from textgym.lm.guards import TrainingError

if TYPE_CHECKING:  # the database costs time to import
    from textgym.labelling.store import LabelStore

POLL = 0.2
"""Seconds between two looks into the run's directory."""
PATIENCE = 5.0
"""Seconds that roles have to end when they are told to."""


@contextmanager
def started_roles(roles: Sequence[str], run: Path) -> Iterator[Callable[[], None]]:
    """Start processes that play roles while the block runs.

    Yields:
        A function that checks that all of them are alive.

    Raises:
        TrainingError: from that function, if one has ended.
    """
    playing: dict[str, subprocess.Popen[bytes]] = {}

    def check() -> None:
        for role, process in playing.items():
            if process.poll() is not None:
                raise TrainingError(
                    f"the {role} of {str(run)!r} has ended with status {process.returncode}; its message stands above. "
                    "--resume goes on once its cause is mended"
                )

    try:
        for role in roles:
            # In a session of their own, as Ctrl-C reaches all processes of one; the learner decides when they end.
            command = [sys.executable, "-m", __package__, role, str(run)]
            playing[role] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        yield check
    finally:
        end_processes(list(playing.values()))


def end_processes(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell all processes at once to end, and make those end that do not."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    for process in _alive_after(PATIENCE, processes):  # it trains; a version is written completely or not at all
        process.terminate()
    for process in _alive_after(PATIENCE, processes):
        process.kill()
        process.wait()


def _alive_after(seconds: float, processes: Sequence[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    over = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, over - time.monotonic()))
    return [process for process in processes if process.poll() is None]


def play_role(arguments: Sequence[str]) -> None:
    """Play a role of a run until standard input closes."""
    from transformers.utils import logging

    from textgym.runs.directory import CONFIG

    role, run = arguments[0], Path(arguments[1])
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    over = threading.Event()
    threading.Thread(target=_await_end, args=(over,), daemon=True).start()
    try:
        ROLES[role](run, read_json(run / CONFIG), over)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(printable(f"error: {role}: {error}"), file=sys.stderr)
        raise SystemExit(1) from None


def _await_end(over: threading.Event) -> None:
    # Not through sys.stdin, whose lock a waiting thread would hold while the interpreter ends.
    while os.read(0, 1):
        pass
    over.set()


def changes(store: LabelStore, over: threading.Event) -> Iterator[int]:
    """Yield the number of the last answer at first, and after each change of answers or questions, until the end."""
    seen: tuple[int, int] | None = None
    while not over.wait(POLL):
        now = (store.count(), len(store.ids()))
        if now != seen:
            seen = now
            yield now[0]


def train_rewards(run: Path, config: dict[str, Any], over: threading.Event) -> None:
    """Train a version whenever there are enough new answers."""
    from textgym.commands.online.schedule import LABELS
    from textgym.commands.online.versions import (
        REWARD,
        forget_versions,
        held_versions,
        newest_version,
        publish,
        reward_trainer,
        settle_versions,
    )
    from textgym.labelling.store import LabelStore

    trainer = reward_trainer(run, config)
    with held_versions(run), LabelStore(run / LABELS) as store:
        settle_versions(run)
        ours = identity(run / REWARD)

        def go_on() -> None:
            # After a learner that was killed another may have begun a new run here, while this process trained.
            if over.is_set() or identity(run / REWARD) != ours:
                raise SystemExit

        for answers in changes(store, over):
            newest = newest_version(run)
            if trainer.is_due(store, newest, answers):
                number = 1 if newest is None else newest.number + 1
                version = trainer.train(store, number, answers, go_on)
                go_on()
                publish(run, version)
                forget_versions(run)


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file or directory; None if it does not exist."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def answer_questions(run: Path, config: dict[str, Any], over: threading.Event) -> None:
    """Answer questions as soon as they are asked."""
    from textgym.commands.online.command import reward_labeller
    from textgym.commands.online.schedule import LABELS
    from textgym.labelling.store import LabelStore

    labeller = reward_labeller(config)
    with LabelStore(run / LABELS) as store:
        for _ in changes(store, over):
            labeller.answer(store)


def serve_page(run: Path, config: dict[str, Any], over: threading.Event) -> None:
    """Serve the page of ``textgym label``."""
    from textgym.commands.online.schedule import LABELS
    from textgym.labelling.server import PageSettings, serve_until
    from textgym.labelling.store import LabelStore

    own = config["page"]
    settings = PageSettings(**{**own, "axes": tuple(own["axes"])}, seed=config["seed"])

    def announce(address: str) -> None:
        print(f"open {address} and rank; questions come as training goes on", flush=True)

    with LabelStore(run / LABELS) as store:
        serve_until(store, settings, lambda _: over.is_set(), announce)


ROLES: dict[str, Callable[[Path, dict[str, Any], threading.Event], None]] = {
    "reward trainer": train_rewards,
    "labeller": answer_questions,
    "page": serve_page,
}
