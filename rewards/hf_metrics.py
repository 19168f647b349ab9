"""Hugging Face ``evaluate`` metrics as rewards."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from textgym.numbers import check_words
from textgym.rewards.functions import reward_name
from textgym.types import completion_text


class EvaluateReward:
    """One number of an ``evaluate`` metric, computed for each completion against a reference column.

    Args:
        metric: an ``evaluate.EvaluationModule``, the folder of one, or a name on the hub (``"rouge"``).
        key: the entry of the metric's result that is the reward, e.g. ``"rougeL"``; may be empty if there is only one.
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

    @property
    def signature(self) -> str:
        """Settings that decide the scores, with the digest of the metric's source."""
        metric = type(self.metric)
        given = {"key": self.key, "reference": self.reference, **self.options}
        settings = ", ".join(f"{name}={value!r}" for name, value in given.items())
        try:
            source = f"#{hashlib.sha256(inspect.getsource(metric).encode()).hexdigest()[:8]}"
        except (OSError, TypeError):  # typed into a console
            source = ""
        return f"{type(self).__name__}({metric.__name__}{source}, {settings}; evaluate {metadata.version('evaluate')})"

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
        if not self.key and len(result) == 1:
            (value,) = result.values()
        elif self.key in result:
            value = result[self.key]
        else:
            raise KeyError(f"key {self.key!r} is not in the metric's result, which has {sorted(result)}")
        # Some metrics return a list with one entry per prediction.
        return float(value[0] if isinstance(value, list) and len(value) == 1 else value)


@dataclass(frozen=True)
class EvaluateHub:
    """One number of an ``evaluate`` metric of the Hugging Face hub: downloads code, and **runs it** on this machine.

    Metrics of ``evaluate`` are Python files. Loading one by name runs whatever its author put there, with your rights;
    use it for metrics that you have read. The metrics of ``textgym`` itself (``rouge``, ``bleu`` …) download nothing.

    The score is ``metric.compute(predictions=[completion], references=[references])[key]`` for each completion. Its
    formula, range, treatment of several references and of an empty completion are the metric's own. The metric is
    loaded when a task takes this reward, before any text is generated.
    """

    packages: ClassVar[tuple[str, ...]] = ("evaluate",)

    metric: str
    """Name of the metric on the hub, such as ``rouge`` or ``owner/metric``; or the folder of one."""
    key: str = ""
    """Entry of the metric's result that is the reward; needed if the result has several."""
    references: str = "references"
    """Column of references: a text or a list of texts in each row."""

    def __post_init__(self) -> None:
        check_words(self, "metric", "references")

    @property
    def name(self) -> str:
        """The name in logs: the key, or else the metric's own name."""
        return self.key or self.metric.rpartition("/")[2]

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that the data must have, which is checked before training."""
        return (self.references,)

    def bind(self, tokenizer: Any) -> EvaluateHub:
        """Load the metric, so that one that cannot be loaded is an error before training.

        Raises:
            FileNotFoundError: it cannot be loaded.
        """
        _ = self._reward
        return self

    @cached_property
    def _reward(self) -> EvaluateReward:
        return EvaluateReward(self.metric, self.key, self.references)

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]:
        """Compute ``N`` numbers for ``N`` completions.

        Raises:
            KeyError: the data lacks the references; the result lacks the key, or has several and none is named.
        """
        return self._reward(completions, **columns)


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
