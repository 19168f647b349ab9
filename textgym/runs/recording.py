"""Records of a run while it trains: metrics, evaluations, warnings, and the reason if it stopped."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter
from tqdm import tqdm

from textgym.agents.functional.stop_rules import Row
from textgym.env.mdp import TokenMDP
from textgym.env.rendering import printable
from textgym.files import append_line, json_lines, read_text, write_json, write_json_lines, write_text
from textgym.lm.guards import TrainingError, TrainingWarning
from textgym.reports.run import write_report
from textgym.runs.directory import read_kept_rows
from textgym.types import Episodes

EVALUATIONS = "validation.jsonl"
STOPPED, STOPPED_BATCH = "stopped.json", "stopped_batch.jsonl"


class ServiceWarning(UserWarning):
    """Warning that a service fails to accept metrics; the run continues without it."""


class MetricsFile(KVWriter):
    """Writer of one JSON object per iteration to ``metrics.jsonl``; values logged between iterations are left out.

    Args:
        path: the file.
        iterations: number of iterations in the checkpoint; later lines are removed, as that work is repeated.

    Raises:
        ValueError: the file is damaged: a line of those iterations is missing or cannot be read.
    """

    def __init__(self, path: Path, iterations: int = 0) -> None:
        self.path = path
        read = json_lines(read_text(path), str(path)) if path.exists() else ()
        lines = list(islice(read, iterations))
        for number in range(1, iterations + 1):
            line = lines[number - 1] if number <= len(lines) else None
            if line is not None and line.error is not None:
                raise line.error
            row = None if line is None else line.value
            if not isinstance(row, dict) or row.get("iteration") != number:
                raise ValueError(f"{path} is damaged: line {number} is not that of iteration {number}")
        write_text(path, "".join(f"{line.text}\n" for line in lines))

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        # stable-baselines3 also dumps at other times; only complete iterations make a row.
        if "time/iterations" not in key_values:
            return
        row: dict[str, Any] = {"iteration": int(key_values["time/iterations"])}
        row |= {key: float(value) for key, value in sorted(key_values.items()) if isinstance(value, Real)}
        append_line(self.path, json.dumps(row))

    def close(self) -> None:
        """Do nothing, as no file is held open."""


def keep_evaluations(out: Path, rows: Sequence[Row]) -> None:
    """Write all evaluations so far into the run, as a whole."""
    write_json_lines(out / EVALUATIONS, rows)


def kept_evaluations(out: Path, iteration: int, every: int) -> list[Row]:
    """Read the run's evaluations up to an iteration; later ones belong to work that is repeated.

    Raises:
        ValueError: the file is damaged: an evaluation that was due until then is missing or cannot be read.
    """
    rows: list[Row] = [row for row in read_kept_rows(out / EVALUATIONS) if row.get("iteration", math.inf) <= iteration]
    known = {row["iteration"] for row in rows}
    missing = next((due for due in range(0, iteration + 1, every) if iteration and due not in known), None)
    if missing is not None:
        raise ValueError(f"{out / EVALUATIONS} is damaged: the evaluation after iteration {missing} is missing")
    return rows


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Print each :class:`TrainingWarning` and :class:`ServiceWarning` as one line above the progress bar.

    Other warnings are handled as before.
    """
    ours = (TrainingWarning, ServiceWarning)
    with warnings.catch_warnings():
        for category in ours:
            warnings.simplefilter("always", category)
        # ``catch_warnings`` restores the hook at the end of the block.
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, ours):
                tqdm.write(printable(f"warning: {message}"), file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


@contextmanager
def stops_noted(out: Path, mdp: TokenMDP | None = None) -> Iterator[None]:
    """Record the reason and the training batch if the block ends with a :class:`TrainingError`.

    ``stopped.json`` gets the iteration (or epoch) and the reason, which the report shows; ``stopped_batch.jsonl`` gets
    a row for each response or text.

    Args:
        out: the run.
        mdp: holds the prompts, and decodes responses; None if texts are trained on.
    """
    for name in (STOPPED, STOPPED_BATCH):
        (out / name).unlink(missing_ok=True)
    try:
        yield
    except TrainingError as error:
        rows = error.batch or []
        if mdp is not None and isinstance(rows, Episodes):
            rows = episode_rows(rows, mdp)
        write_json_lines(out / STOPPED_BATCH, rows)
        write_json(out / STOPPED, {"iteration": _iteration_after(out / "metrics.jsonl"), "reason": str(error)})
        # The report shows the reason, and the metrics up to it.
        write_report(out)
        raise


def _iteration_after(metrics: Path) -> int | None:
    """Return the iteration (or epoch) after the last logged one; None if none are logged during training."""
    if not metrics.exists():
        return None
    rows = read_kept_rows(metrics)
    return int(rows[-1]["iteration"]) + 1 if rows else 1


def episode_rows(episodes: Episodes, mdp: TokenMDP) -> list[dict[str, Any]]:
    """Return episodes as rows: prompt, completion, its token ids, and each token's reward and log-probability."""
    rows = []
    for i in range(len(episodes)):
        length = int(episodes.extents[i])
        ids = episodes.actions[i, :length].tolist()
        prompt = mdp.prompts[int(episodes.prompt_index[i])]
        per_token = {name: getattr(episodes, name)[i, :length].tolist() for name in ("rewards", "log_probs")}
        rows.append({"prompt": prompt.text, "completion": mdp.completion(prompt, ids), "ids": ids, **per_token})
    return rows
