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
from textgym.files import write_text


class MetricsFile(KVWriter):
    """Appends one JSON object per iteration to ``metrics.jsonl``.

    Args:
        path: the file.
        iterations: how many iterations the checkpoint has seen; later lines belong to work that is done again.
    """

    def __init__(self, path: Path, iterations: int = 0) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_text(path, "".join(line + "\n" for line in lines[:iterations]))

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        row: dict[str, Any] = {"iteration": int(key_values.get("time/iterations", 0))}
        row |= {key: float(value) for key, value in sorted(key_values.items()) if isinstance(value, Real)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

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
                tqdm.write(f"warning: {message}", file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield
