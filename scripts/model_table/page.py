"""The page that shows the table."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
import transformers

from scripts.model_table.measure import CRASH, GREEDY, NOT_BUILT, REFUSED, RIGHT, SLOWER, WRONG
from scripts.model_table.play import P, T
from scripts.model_table.tiny import WINDOW

INTRODUCTION = """# Models that were tried

textgym trains any model of transformers whose passes agree: what it acts is what it learns. When a policy is built, a
few sequences are played, and acting and training are compared with plain passes of the model. A model is refused, with
the numbers, where they differ by more than rounding. Where only a cache of columns would be wrong (recurrent layers,
positions that cannot be told, no cache), acting reads the whole prefix for each token: as right, and slower.

This page says what became of every architecture of transformers {transformers} that writes text and can be built small,
and of variants of the common ones: {count} configurations, with torch {torch}.

| result | configurations |
| --- | --- |
{counts}

The models are tiny and random: about three layers, a vocabulary of 512, sliding windows and chunks of {window} tokens.
Their weights are large enough that a wrong position shows. So the table speaks of the code of an architecture, and of
no checkpoint.

Three rows with prompts of {prompts} or fewer tokens and responses of up to {tokens} are played; one of them begins anew
half-way. The truth is transformers' own: one call per prefix, of one row, without padding or cache. The columns:

- **acting**, **training**: largest difference of a log-probability to that truth, in nats, rounded up to a power of
  ten. Acting is tried twice, the second time with the padding token among the words.
- **ratio**: |ratio − 1| of the first minibatch of PPO, with rows that begin and end at different times.
- **greedy**: our greedy tokens are those of plain passes in every row of the first table. Here: whether `generate`
  gives these {greedy} tokens as well. It does not where it tells other positions than a plain call takes (RoBERTa and
  its kin), adds a token of its own (XLM), or where the cache that it makes departs from plain passes.

Made by `python -m scripts.model_table --page docs/models.md`, which takes some minutes.
"""

CHANGED = "no; only without its cache"
OTHER = "no; not without its cache either"


def page(rows: list[dict[str, Any]]) -> str:
    """Write the page.

    Args:
        rows: one for each configuration, as ``__main__`` makes them.
    """
    found = Counter(row["verdict"] for row in rows)
    kinds = (RIGHT, SLOWER, REFUSED, WRONG, CRASH, NOT_BUILT)
    introduction = INTRODUCTION.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        count=len(rows) - found[NOT_BUILT],
        counts="\n".join(f"| {kind} | {found[kind]} |" for kind in kinds),
        window=WINDOW,
        prompts=P,
        tokens=T,
        greedy=GREEDY,
    )
    parts = [
        introduction,
        _table("Trained", _of(rows, RIGHT, SLOWER, WRONG), "acted | acting | training | ratio | greedy", _trained),
        _table("Why without a cache", _of(rows, SLOWER), "reason", lambda row: [row["slow"]]),
        _table("Refused", _of(rows, REFUSED, CRASH), "message", lambda row: [_message(row, "learn_error")]),
        _table("Not built", _of(rows, NOT_BUILT), "reason", lambda row: [_message(row, "build_error", "plain_error")]),
    ]
    return "\n".join(part for part in parts if part)


def _of(rows: list[dict[str, Any]], *verdicts: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["verdict"] in verdicts]


def _table(title: str, rows: list[dict[str, Any]], columns: str, cells: Any) -> str:
    if not rows:
        return ""
    head = f"| model type | class | variant | {columns} |"
    lines = [head, "| --- " * (head.count("|") - 1) + "|"]
    for row in rows:
        values = [f"`{row['model_type']}`", row["class"], row["varies"], *cells(row)]
        lines.append("| " + " | ".join(values) + " |")
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _trained(row: dict[str, Any]) -> list[str]:
    acted = {RIGHT: "with a cache", SLOWER: "without"}.get(row["verdict"], row["verdict"])
    differences = max(row["acting"], row["padding"]), row["training"], abs(row["ratio_error"])
    return [acted, *map(power, differences), _generate(row)]


def _generate(row: dict[str, Any]) -> str:
    if row["generate"]:
        return "yes"
    if "generate_error" in row:
        return f"it raises {row['generate_error']['message'].partition(':')[0]}"
    return CHANGED if row["generate_uncached"] else OTHER


def power(value: float) -> str:
    """Round up to a power of ten."""
    return "0" if value == 0 else f"1e{math.ceil(math.log10(value))}"


def _message(row: dict[str, Any], *names: str) -> str:
    """Quote the first sentence of an error."""
    message: str = next(row[name]["message"] for name in names if name in row)
    words = message.partition(": ")[2] if row["verdict"] == REFUSED else message
    return words.partition(". ")[0].removesuffix(".").replace("|", "/")
