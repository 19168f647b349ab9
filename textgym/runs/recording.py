"""Metrics and checkpoints that a run keeps while it trains."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from tqdm import tqdm

from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.guards import TrainingWarning
from textgym.benchmarks.report import write_report
from textgym.files import append_line, json_line, parse_json, read_text, write_json, write_text
from textgym.lm.finite import TrainingError
from textgym.mdp import TokenMDP
from textgym.rendering import printable
from textgym.types import Episodes

STOPPED, STOPPED_BATCH = "stopped.json", "stopped_batch.jsonl"


class MetricsFile(KVWriter):
    """Appends one JSON object per iteration to ``metrics.jsonl``.

    Args:
        path: the file.
        iterations: how many iterations the checkpoint has seen; later lines belong to work that is done again.

    Raises:
        ValueError: the file is damaged: a line of those iterations is missing or cannot be read.
    """

    def __init__(self, path: Path, iterations: int = 0) -> None:
        self.path = path
        lines = read_text(path).split("\n") if path.exists() else []
        kept = lines[:iterations]
        for number in range(1, iterations + 1):
            row = parse_json(kept[number - 1], f"{path}, line {number}") if number <= len(kept) else None
            if not isinstance(row, dict) or row.get("iteration") != number:
                raise ValueError(f"{path} is damaged: line {number} is not that of iteration {number}")
        write_text(path, "".join(line + "\n" for line in kept))

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        row: dict[str, Any] = {"iteration": int(key_values.get("time/iterations", 0))}
        row |= {key: float(value) for key, value in sorted(key_values.items()) if isinstance(value, Real)}
        append_line(self.path, json.dumps(row))

    def close(self) -> None:
        """Nothing is held open."""


class SaveEvery(BaseCallback):
    """Saves a checkpoint every ``iterations`` iterations, at their boundary, and one at the end."""

    def __init__(self, directory: Path, iterations: int) -> None:
        super().__init__()
        self.directory = directory
        self.iterations = iterations

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        done = self._algorithm.iteration
        if done and done % self.iterations == 0:
            self._algorithm.save(self.directory)

    def _on_training_end(self) -> None:
        self._algorithm.save(self.directory)

    @property
    def _algorithm(self) -> SequenceAlgorithm:
        assert isinstance(self.model, SequenceAlgorithm)
        return self.model


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Prints each :class:`TrainingWarning` as one line beside the progress bar; other warnings are left as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, TrainingWarning):
                tqdm.write(printable(f"warning: {message}"), file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


@contextmanager
def stops_noted(out: Path, mdp: TokenMDP | None = None) -> Iterator[None]:
    """Keep why training stopped, and what it was trained on then, where a :class:`TrainingError` ends the block.

    ``stopped.json`` gets the iteration (or epoch) and the reason, which the report tells, ``stopped_batch.jsonl`` a
    row for each response or text.

    Args:
        out: the run.
        mdp: decodes the responses of reinforcement; None where texts are trained on.
    """
    for name in (STOPPED, STOPPED_BATCH):
        (out / name).unlink(missing_ok=True)
    try:
        yield
    except TrainingError as error:
        rows = error.batch or []
        if mdp is not None and isinstance(rows, Episodes):
            rows = episode_rows(rows, mdp)
        write_text(out / STOPPED_BATCH, "".join(json_line(row) + "\n" for row in rows))
        write_json(out / STOPPED, {"iteration": _iteration_after(out / "metrics.jsonl"), "reason": str(error)})
        write_report(out)
        raise


def _iteration_after(metrics: Path) -> int | None:
    """Return the iteration, or epoch, after the last one that was logged; None where none are logged while training."""
    if not metrics.exists():
        return None
    rows = [line for line in read_text(metrics).split("\n") if line.strip()]
    return int(parse_json(rows[-1], str(metrics))["iteration"]) + 1 if rows else 1


def episode_rows(episodes: Episodes, mdp: TokenMDP) -> list[dict[str, Any]]:
    """Return episodes as rows: prompt, completion, its token ids, and for each token the reward and log-probability."""
    rows = []
    for i in range(len(episodes)):
        length = int(episodes.lengths[i])
        ids = episodes.actions[i, :length].tolist()
        prompt = mdp.prompts[int(episodes.prompt_index[i])]
        per_token = {name: getattr(episodes, name)[i, :length].tolist() for name in ("rewards", "log_probs")}
        rows.append({"prompt": prompt.text, "completion": mdp.completion(prompt, ids), "ids": ids, **per_token})
    return rows
