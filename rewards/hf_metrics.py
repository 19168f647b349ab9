"""Hugging Face ``evaluate`` metrics as rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textgym.rewards.functions import reward_name
from textgym.types import completion_text


class EvaluateReward:
    """One number of an ``evaluate`` metric, computed for each completion against a reference column.

    Args:
        metric: an ``evaluate.EvaluationModule``, the folder of one, or a name on the hub (``"rouge"``).
        key: the entry of the metric's result that is the reward, e.g. ``"rougeL"``.
        reference: the column of references: for each completion a text, or a list of texts.
        **options: keyword arguments of the metric's ``compute``.

    Raises:
        FileNotFoundError: a metric given by name or folder cannot be loaded.
    """

    def __init__(self, metric: Any, key: str, reference: str = "reference", **options: Any) -> None:
        self.metric = _load(metric) if isinstance(metric, str | Path) else metric
        self.key = key
        self.reference = reference
        self.required_columns = (reference,)  # checked before training
        self.options = options
        self.name = key

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]:
        """Compute ``N`` numbers for ``N`` completions.

        Raises:
            KeyError: the data lacks the reference column, or the result lacks the key.
        """
        if self.reference not in columns:
            data = sorted(set(columns) - {"prompts", "completion_ids"})
            raise KeyError(
                f"{reward_name(self)!r} compares with the column {self.reference!r}, got the columns "
                f"{', '.join(data) or 'none'}; name another with reference="
            )
        references: Sequence[Any] = columns[self.reference]
        return [self._one(text, ref) for text, ref in zip(map(completion_text, completions), references, strict=True)]

    def _one(self, completion: str, reference: str | Sequence[str]) -> float:
        # A metric aggregates over all predictions, so each completion needs a call of its own.
        result = self.metric.compute(predictions=[completion], references=[reference], **self.options)
        if self.key not in result:
            raise KeyError(f"key {self.key!r} is not in the metric's result, which has {sorted(result)}")
        value = result[self.key]
        # Some metrics return a list with one entry per prediction.
        return float(value[0] if isinstance(value, list) and len(value) == 1 else value)


def _load(metric: str | Path) -> Any:
    import evaluate  # takes three seconds to import, so only if it is used

    try:
        return evaluate.load(str(metric), keep_in_memory=True)
    except (OSError, ImportError) as error:
        raise FileNotFoundError(
            f"the evaluate metric {str(metric)!r} cannot be loaded ({type(error).__name__}: {error}). "
            "Metrics given by name come from the Hugging Face hub: without a network pass the folder of "
            "a metric, or an evaluate.Metric object; install the packages that the metric itself needs"
        ) from error
