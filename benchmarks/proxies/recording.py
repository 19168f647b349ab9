"""What an algorithm logs while it learns, kept in memory."""

from __future__ import annotations

from numbers import Real
from typing import Any

from stable_baselines3.common.logger import KVWriter


class Recorder(KVWriter):
    """One row of numbers for each dump of a logger, with the tokens generated so far under ``tokens``.

    ``algorithm.set_logger(Logger(None, [recorder]))`` before ``learn(…, log_interval=1)`` makes it a learning curve.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {name: float(value) for name, value in key_values.items() if isinstance(value, Real)}
        self.rows.append({"tokens": float(step), **numbers})

    def close(self) -> None:
        """There is nothing to close."""
