"""Findings on the quality of labels, for the terminal and for reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from textgym.intervals import Estimate
from textgym.labelling.quality import Agreement, LabelQuality
from textgym.reports.findings import Cell, Findings, Table


def label_findings(quality: LabelQuality) -> Findings:
    """Return the quality of labels as a headline and tables."""
    tables = [_overall(quality), _by_labeller(quality)]
    if len(quality.labellers) > 1:
        tables.append(_between(quality))
    return Findings(_headline(quality), tuple(tables))


def label_record(quality: LabelQuality) -> dict[str, Any]:
    """Return the quality of labels as an object of JSON; NaN becomes None, and pairs of people a list."""
    record = asdict(quality)
    record["between"] = [{"labellers": list(pair), **asdict(found)} for pair, found in quality.between.items()]
    plain: dict[str, Any] = _without_nan(record)
    return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _headline(quality: LabelQuality) -> str:
    people = len(quality.labellers)
    who = "1 person" if people == 1 else f"{people} people"
    skipped = sum(quality.skipped.values())
    told = f"{quality.answers} answers of {who} to {quality.questions} questions, {skipped} skipped"
    share = quality.between_people.share
    if share is None:
        return f"{told}; no question was ranked by two people, so agreement is unknown."
    return f"{told}; two people order {100 * share.value:.0f} % of pairs alike."


def _overall(quality: LabelQuality) -> Table:
    agreements = {
        "agreement between people": quality.between_people,
        "agreement with oneself": quality.with_oneself,
        "agreement with gold": quality.with_gold,
        "wins of the text shown first": quality.first_shown,
    }
    rows: list[tuple[Cell, ...]] = [
        (name, found.share, found.pairs, found.ties, found.questions) for name, found in agreements.items()
    ]
    rows.append(("Krippendorff's α of the ranks (ordinal)", quality.alpha, None, None, None))
    rows.append(("median seconds of an answer", quality.seconds, None, None, None))
    rows += [(f"completions flagged {axis}", share, None, None, None) for axis, share in quality.flags.items()]
    if quality.scores is not None:
        rows.append(("mean overall score, 1 to 7", quality.scores, None, None, None))
    rows += [(f"skipped: {reason}", count, None, None, None) for reason, count in quality.skipped.items()]
    note = (
        "Agreement is the share of pairs of completions ordered alike, with its 95 % interval; pairs that either side "
        "ties are left out and counted under ties. The text shown first should win half of its pairs."
    )
    return Table("Labels", ("measure", "value", "pairs", "ties", "questions"), tuple(rows), note)


def _by_labeller(quality: LabelQuality) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, own.answers, own.skipped, own.seconds, own.with_oneself.share, own.with_gold.share)
        for name, own in quality.labellers.items()
    )
    columns = ("labeller", "answers", "skipped", "seconds", "with oneself", "with gold")
    return Table("By labeller", columns, rows, "Seconds: median of an answer.")


def _between(quality: LabelQuality) -> Table:
    names = tuple(quality.labellers)

    def cell(one: str, other: str) -> Estimate | None:
        found: Agreement | None
        if one == other:
            found = quality.labellers[one].with_oneself
        else:
            first, second = sorted((one, other))
            found = quality.between[first, second]
        return found.share

    rows: tuple[tuple[Cell, ...], ...] = tuple((one, *(cell(one, other) for other in names)) for one in names)
    return Table(
        "Labeller × labeller", ("", *names), rows, "Share of pairs ordered alike; on the diagonal, with oneself."
    )
