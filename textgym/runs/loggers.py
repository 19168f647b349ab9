"""Services that receive a run's metrics during training, each through its own client: TensorBoard, W&B, Trackio.

They receive the contents of ``metrics.jsonl`` and ``validation.jsonl`` under the same names, and some samples as a
table. The files are authoritative: a failing service causes one warning, and the run continues.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, TensorBoardOutputFormat

from textgym.files import read_json, write_json
from textgym.reports.run_files import read_run_lines
from textgym.runs.directory import read_kept_rows
from textgym.runs.recording import EVALUATIONS, ServiceWarning
from textgym.types import Service

PROJECT = "textgym"
IDENTITY = "loggers.json"
"""File in the run's directory that holds its id in the services, so that a resumed run continues there."""
COLUMNS = ("prompt", "completion", "score", "kl", "finish_reason")
TOKENS = "time/total_timesteps"


@dataclass(frozen=True)
class Samples:
    """Rows of ``samples.jsonl``, logged as a table."""

    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, out: Path, stage: str) -> Samples:
        """Read a run's samples of a stage, ``"before"`` or ``"after"``."""
        return cls([row for row in read_kept_rows(out / "samples.jsonl") if row["stage"] == stage])

    @property
    def cells(self) -> list[list[Any]]:
        """One row for each sample, with the columns ``COLUMNS``."""
        return [[row.get(name) for name in COLUMNS] for row in self.rows]

    def markdown(self) -> str:
        """Render the table as Markdown."""
        lines = [COLUMNS, ["---"] * len(COLUMNS), *([_cell(value) for value in cells] for cells in self.cells)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


@contextmanager
def opened_loggers(names: Sequence[Service], out: Path, done: int = -1) -> Iterator[list[KVWriter]]:
    """Open the services for a run whose ``config.json`` exists, and close them afterwards.

    A service that cannot be opened causes a warning and is left out. In a resumed run, each service ends with every row
    exactly once, whichever of the last rows it had received before the run was killed.

    Args:
        names: names of the services.
        out: the run.
        done: the step up to which a resumed run keeps its rows; -1 if all are sent again.
    """
    if names and not (out / IDENTITY).is_file():
        # The id is written before any service is opened, so that a run that is killed here continues in the same place.
        write_json(out / IDENTITY, {"id": uuid.uuid4().hex[:8]})
    opened = []
    for name in dict.fromkeys(names):
        try:
            writer = OPEN[name](out, done)
        except Exception as error:
            _warn(name, error)
        else:
            opened.append(Tolerant(name, writer))
            # A client may have lost rows that it held in memory; Tolerant drops those that did arrive.
            for step, row in kept_rows(out, done) if isinstance(writer, Client) else ():
                opened[-1].write(row, {}, step)
    try:
        yield list(opened)
    except BaseException:
        for tolerant in opened:
            tolerant.abandon()
        raise
    for tolerant in opened:
        tolerant.close()


def kept_rows(out: Path, done: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the iterations and evaluations of a run up to a step, each with its step, as they were logged."""
    found = []
    for name, left_out in (("metrics.jsonl", ("iteration",)), (EVALUATIONS, ("iteration", TOKENS))):
        for row in read_run_lines(out / name)[0]:
            if row.get(TOKENS, done + 1) <= done:
                found.append((int(row[TOKENS]), {key: value for key, value in row.items() if key not in left_out}))
    return sorted(found, key=lambda each: each[0])


def run_name(out: Path) -> str:
    """Return a run's name in services: its directory's name, prefixed with those of the runs that contain it."""
    path = out.resolve()
    top = path
    for parent in path.parents:
        if (parent / "config.json").is_file():
            top = parent
    return str(path.relative_to(top.parent))


def _warn(name: str, error: Exception) -> None:
    warnings.warn(
        f"log={name}: {type(error).__name__}: {error}. The run continues without it; its own files have everything",
        ServiceWarning,
        stacklevel=3,
    )


class Tolerant(KVWriter):
    """Wrapper that sends only steps that are new to a service; a failure causes one warning and does not end the run.

    Args:
        name: name of the service.
        writer: the service's writer.
    """

    def __init__(self, name: str, writer: KVWriter) -> None:
        self.name = name
        self.writer = writer
        self.known = writer.known if isinstance(writer, Client) else -1
        self.warned = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        if step > self.known:
            self._do(lambda: self.writer.write(key_values, key_excluded, step))

    def close(self) -> None:
        self._do(self.writer.close)

    def abandon(self) -> None:
        """Close the service for a run that failed, if it distinguishes such runs."""
        self._do(self.writer.abandon if isinstance(self.writer, Client) else self.writer.close)

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            if not self.warned:
                self.warned = True
                _warn(self.name, error)


class Rows:
    """Sender of rows of epochs or batches, each once, with its ``iteration`` as the step."""

    def __init__(self, writers: Sequence[KVWriter]) -> None:
        self.sent = -1
        self.writers = writers

    def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send the rows that are new."""
        for row in rows:
            if row["iteration"] > self.sent:
                self.sent = int(row["iteration"])
                self.send_values({name: value for name, value in row.items() if name != "iteration"})

    def send_values(self, values: Mapping[str, Any]) -> None:
        """Send additional values at the last row's step."""
        for writer in self.writers:
            writer.write(dict(values), dict.fromkeys(values, ()), max(self.sent, 0))


# --- the services ----------------------------------------------------------------------------------------------


class TensorBoard(TensorBoardOutputFormat):
    """Event files in the run's ``tensorboard``; ``tensorboard --logdir`` accepts that, the run or a folder of runs."""

    def __init__(self, out: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what it had received after the checkpoint, which is logged again.
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=done + 1)
        self._is_closed = False
        settings = json.dumps(read_json(out / "config.json"), indent=4, ensure_ascii=False)
        self.writer.add_text("settings", "".join(f"    {line}\n" for line in settings.split("\n")), max(done, 0))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        shown = {name: v.markdown() if isinstance(v, Samples) else v for name, v in key_values.items()}
        super().write(shown, key_excluded, step)


class Client(KVWriter):
    """Run in a service whose client has ``init``, ``log``, ``Table`` and ``finish``, as those of W&B and Trackio do.

    Args:
        client: the service's package.
        out: the run, whose settings become ``config``.
        failure: arguments of ``finish`` that mark the run as failed.
        settings: further arguments of ``init``.

    Attributes:
        run: the result of ``init``.
        known: the last step that the service has of this run; -1 for none.
    """

    known: int = -1

    def __init__(self, client: Any, out: Path, failure: Mapping[str, Any], **settings: Any) -> None:
        self.client = client
        self.failure = failure
        self.run = client.init(resume="allow", config=read_json(out / "config.json"), **settings)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.client.log({name: self._value(value) for name, value in sorted(key_values.items())}, step=step)

    def _value(self, value: Any) -> Any:
        return self.client.Table(columns=list(COLUMNS), data=value.cells) if isinstance(value, Samples) else value

    def close(self) -> None:
        self.client.finish()

    def abandon(self) -> None:
        """Finish the run as failed."""
        self.client.finish(**self.failure)


def wandb_run(out: Path, done: int) -> Client:
    """Open a run of Weights & Biases with the id in the run's directory; its environment variables take precedence.

    Its client passes rows to a separate process, which sends them even if ours is killed.
    """
    import wandb

    opened = Client(
        wandb,
        out,
        failure={"exit_code": 1},
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=os.environ.get("WANDB_NAME") or run_name(out),
        id=os.environ.get("WANDB_RUN_ID") or _id(out),
        dir=os.environ.get("WANDB_DIR") or str(out),
    )
    # Rows up to the server's step are there already; those up to ``done`` are in any case.
    opened.known = max(opened.run.step - 1, done)
    return opened


def trackio_run(out: Path, _: int) -> Client:
    """Open a run of Trackio, which identifies runs by name, so the id is part of the name.

    Its client may hold rows in memory when the process is killed; they are sent again.
    """
    import trackio

    project = os.environ.get("TRACKIO_PROJECT") or PROJECT
    opened = Client(trackio, out, failure={}, project=project, name=f"{run_name(out)}-{_id(out)}")
    opened.known = getattr(opened.run, "_next_step", 0) - 1
    return opened


def _id(out: Path) -> str:
    return str(read_json(out / IDENTITY)["id"])


OPEN: Mapping[str, Callable[[Path, int], KVWriter]] = {
    "tensorboard": TensorBoard,
    "wandb": wandb_run,
    "trackio": trackio_run,
}
