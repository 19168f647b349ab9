"""Early stopping, decided from a run's evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from textgym.numbers import check_given, count, finite
from textgym.progress import short

Row: TypeAlias = dict[str, float]
"""One evaluation: ``iteration``, ``time/total_timesteps``, and ``validation/NAME`` with ``validation/NAME_sem``."""


LEAST = "min-"
"""Before the name of a figure of which less is better."""


def best_row(rows: Sequence[Row], metric: str) -> Row | None:
    """Return the best evaluation after an iteration, the first of equal ones; None where there is none.

    Args:
        rows: evaluations in order; one before training (iteration 0) is left out.
        metric: a name of what was measured, of which more is better, or ``"min-NAME"``, of which less is.
    """
    found = [row for row in rows if row["iteration"] > 0 and math.isfinite(_value(row, metric))]
    return max(found, key=lambda row: _value(row, metric), default=None)


def _value(row: Row, metric: str) -> float:
    """Return a metric, or the negative of one of which less is better; NaN where it was not measured."""
    value = row.get(f"validation/{metric.removeprefix(LEAST)}", math.nan)
    return -value if metric.startswith(LEAST) else value


@dataclass(frozen=True)
class StopRules:
    """Rules that end training early, each asked after every evaluation.

    Attributes:
        score: ends it as soon as the mean score is at least this.
        kl: ends it as soon as the mean KL to the reference is more than this, in nats per response.
        patience: ends it after so many evaluations in a row that were no better than the best before them.
        metric: what ``patience`` looks at, as :func:`best_row` reads it.

    Raises:
        ValueError: a number is out of its range.
    """

    score: float | None = None
    kl: float | None = None
    patience: int | None = None
    metric: str = "score"

    def __post_init__(self) -> None:
        check_given(self, finite, "score")
        check_given(self, finite, "kl", above=0)
        check_given(self, count, "patience")

    def __bool__(self) -> bool:
        return (self.score, self.kl, self.patience) != (None, None, None)

    def reason(self, rows: Sequence[Row], unit: str = "iteration") -> str | None:
        """Return why training ends after these evaluations, in words; None where it goes on.

        Args:
            rows: evaluations in order.
            unit: what ``iteration`` counts in them.
        """
        after = [row for row in rows if row["iteration"] > 0]
        if not after:
            return None
        row, where = after[-1], f"at {unit} {after[-1]['iteration']:.0f}"
        if self.score is not None and row["validation/score"] >= self.score:
            return f"the validation score is {short(row['validation/score'])} {where} (stop_score={self.score:g})"
        if self.kl is not None and row["validation/kl"] > self.kl:
            return f"the validation KL is {short(row['validation/kl'])} nats per response {where} (stop_kl={self.kl:g})"
        best = best_row(after, self.metric)
        since = sum(best is None or later["iteration"] > best["iteration"] for later in after)
        if self.patience is not None and since >= self.patience:
            return (
                f"{self.metric} on validation prompts was no better than at {unit} "
                f"{0 if best is None else best['iteration']:.0f} in {since} evaluations in a row, the last {where} "
                f"(stop_patience={self.patience})"
            )
        return None
