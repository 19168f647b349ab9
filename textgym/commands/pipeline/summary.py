"""Output of a pipeline in the terminal: a line for each stage, and a table of all models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textgym import runs
from textgym.agents.offline.alignment_tax import OF_TEXTS
from textgym.commands.pipeline.plan import Stage
from textgym.reports.pipeline import LEARNED, measures_base
from textgym.runs.directory import read_kept_rows

UNLIKE = ("score", "kl")  # of the first model they are measured otherwise: by gold, and to itself
Measured = Mapping[str, Mapping[str, float]]


def stage_line(stage: Stage) -> str:
    """Return the result of a complete stage, in a line."""
    out = stage.config.out
    if stage.kind == "labels":
        return _labels_line(_read(out / "labels.json"))
    if stage.kind == "reward-model":
        return _reward_model_line(_read(out / "reward_model.json"))
    found = _read(out / "evaluation.json")
    before, after = found["before"], found["after"]
    names = [name for name in ("gold", "score") if name in after and name in before][:1]
    told = [f"{name} {before[name]['mean']:.3f} → {after[name]['mean']:.3f}" for name in names]
    if stage.kind == "sft" and (loss := _kept_loss(out)) is not None:
        told.insert(0, f"validation loss {loss[0]:.3f} → {loss[1]:.3f}")
    return ", ".join([*told, f"KL {after['kl']['mean']:.2f} nats per text"])


def stage_table(stages: Sequence[Stage], config: Mapping[str, Any]) -> str:
    """Return all models on the same held-out prompts, one line a measure, with 95 % intervals.

    What reward models say is left out where each of several iterations has one of its own.

    Args:
        stages: all of them, complete.
        config: the loop's settings, as ``config.json`` keeps them.
    """
    columns = models(stages, config)
    unlike = LEARNED if sum(stage.kind == "train" for stage in stages) > 1 else ()
    names = [
        name
        for name in next(reversed(columns.values()))
        if not name.startswith(("loss/", OF_TEXTS)) and name not in unlike
    ]
    lines = [" " * 14 + "".join(f"{title:>18}" for title in columns)]
    for name in names:
        cells = (runs.interval(found[name]) if name in found else "" for found in columns.values())
        lines.append(f"{name:14}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def models(stages: Sequence[Stage], config: Mapping[str, Any]) -> dict[str, Measured]:
    """Return the measures of the first model, of the fine-tuned one, and of each iteration's policy.

    The first is left out where it was measured otherwise than the others.
    """
    policies = [stage for stage in stages if stage.kind == "train"]
    columns: dict[str, Measured] = {}
    if stages[0].kind == "sft" and measures_base(config):
        base = _read(stages[0].config.out / "evaluation.json")["before"]
        columns["base"] = {name: value for name, value in base.items() if name not in UNLIKE}
    first = "sft" if stages[0].kind == "sft" else "base"
    columns[first] = _read(policies[0].config.out / "evaluation.json")["before"]
    return columns | {stage.name: _read(stage.config.out / "evaluation.json")["after"] for stage in policies}


def pipeline_sample_pairs(stages: Sequence[Stage], count: int) -> str:
    """Return some prompts with samples from before the first and after the last reinforcement."""
    policies = [stage.config.out for stage in stages if stage.kind == "train"]
    return runs.sample_pairs(policies[-1], count, since=policies[0])


def _labels_line(found: Mapping[str, Any]) -> str:
    dropped = "".join(f"; {count} prompts dropped: {reason}" for reason, count in found["dropped"].items())
    gold = f", gold {found['gold_mean']:.3f}" if "gold_mean" in found else ""
    return f"{found['rankings']} prompts ranked, {found['pairs']} pairs{gold}{dropped}"


def _reward_model_line(found: Mapping[str, Any]) -> str:
    accuracy, bounds = found.get("heldout_accuracy"), found.get("accuracy_interval")
    if accuracy is None:
        return "no pairs were held out to judge it by"
    spread = f" [{bounds[0]:.1%}, {bounds[1]:.1%}]" if bounds else ""
    prompts = f" of {found['prompts']} prompts" if "prompts" in found else ""
    beside = {"the longer text": found.get("length_baseline"), "gold itself": found.get("ceiling")}
    others = "; ".join(f"{name}: {share:.1%}" for name, share in beside.items() if share is not None)
    told = f"orders {accuracy:.1%}{spread} of the held-out pairs{prompts} as the labeller did"
    return f"{told} ({others})" if others else told


def _kept_loss(out: Path) -> tuple[float, float] | None:
    """Return the validation loss before training and of the epoch that was kept."""
    rows = {row.get("iteration"): row.get("validation/loss") for row in read_kept_rows(out / "metrics.jsonl")}
    before, after = rows.get(0), rows.get(_read(out / "kept.json")["epoch"])
    return None if before is None or after is None else (before, after)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
