"""One stage on the pipeline's page: a few figures, with a link to the stage's own report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from textgym.intervals import SampleMean
from textgym.reports.before_after import METRICS, Metric, changes_of
from textgym.reports.charts.runs import calibration_plot
from textgym.reports.formatting import decimals, number, percent
from textgym.reports.headlines import STEP_NAMES, stop_sentence
from textgym.reports.heldout_accuracy import accuracy_explained, accuracy_headline, heldout_accuracy
from textgym.reports.run import EPOCH_METRICS, Panel, column, ends, epoch_panel, loss_curve, panel, warnings_by_curve
from textgym.reports.run_files import read_run_lines, read_run_object

RESULTS = {"sft": "kept.json", "labels": "labels.json", "reward-model": "reward_model.json", "train": "evaluation.json"}
WHILE_TRAINING = ("rollout/score", "rollout/gold", "rollout/components/gold", "rollout/kl", "train/ptx_loss")
TO_LABEL = "to_label.jsonl"  # to be filled in by people
STORE = "labels.sqlite"  # what people answered on the page
LONGEST_EXAMPLE = 8  # ranked completions that are shown


@dataclass(frozen=True)
class StageRun:
    """The directory of a stage, as far as it exists.

    Attributes:
        name: as ``stages.json`` calls it.
        kind: a key of ``SECTIONS``.
        directory: relative to the page.
        begun: True if the directory exists.
        waits: file that people's labels go to, or empty.
        finished: True if it has the stage's result.
        link: to the stage's own report, as a URL; empty where there is none.
        evaluation, result: of ``evaluation.json`` and of the file that ``RESULTS`` names.
        rows, samples: of ``metrics.jsonl`` and of ``samples.jsonl``; for labels, of ``rankings.jsonl``.
        notices: lines that could not be read.
        stopped: sentence on the place and reason of a stop, or empty.
    """

    name: str
    kind: str
    directory: str
    begun: bool
    waits: str
    finished: bool
    link: str
    evaluation: Mapping[str, Any]
    result: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    notices: Sequence[str]
    stopped: str = ""

    @classmethod
    def read(cls, out: Path, stage: Mapping[str, Any]) -> StageRun:
        """Read the files of one entry of ``stages.json``; a missing file counts as empty."""
        directory, kind = str(stage["directory"]), str(stage["kind"])
        path = out / directory
        evaluation, result = read_run_object(path / "evaluation.json"), read_run_object(path / RESULTS[kind])
        rows, notices = read_run_lines(path / "metrics.jsonl")
        samples, more_notices = read_run_lines(path / ("rankings.jsonl" if kind == "labels" else "samples.jsonl"))
        return cls(
            name=str(stage["name"]),
            kind=kind,
            directory=directory,
            begun=path.is_dir(),
            waits=next((name for name in (TO_LABEL, STORE) if (path / name).exists()), ""),
            finished=bool(result) and (kind not in ("sft", "train") or "after" in evaluation),
            link=f"{quote(directory)}/report.html" if (path / "report.html").exists() else "",
            evaluation=evaluation,
            result=result,
            rows=rows,
            samples=samples,
            notices=[*notices, *more_notices],
            stopped=stop_sentence(read_run_object(path / "stopped.json"), STEP_NAMES.get(kind, "iteration")),
        )

    @property
    def learns_policy(self) -> bool:
        return self.kind in ("sft", "train")

    @property
    def model(self) -> str:
        """The name of the model that the stage produces."""
        return "SFT" if self.kind == "sft" else self.name

    @property
    def title(self) -> str:
        """The heading of the section."""
        return "SFT: supervised fine-tuning" if self.kind == "sft" else self.name[:1].upper() + self.name[1:]

    @property
    def state(self) -> str:
        if self.finished:
            return "done"
        if not self.begun:
            return "not begun"
        if self.stopped:
            return f"{self.stopped[:1].lower()}{self.stopped[1:].rstrip('.')}"
        return f"waits for ranks in {self.directory}/{self.waits}" if self.waits else "unfinished"

    @property
    def anchor(self) -> str:
        """The section's id on the page."""
        return quote(self.directory, safe="")


# -- A section for each kind -----------------------------------------------------------------------


def _sft(run: StageRun) -> dict[str, Any]:
    kept = run.result.get("epoch")
    judge = next((name for name in ("gold", "score") if _measured(run.rows, f"validation/{name}")), None)
    panels = [epoch_panel(run.rows, "loss", EPOCH_METRICS["sft"]["loss"], kept, "validation")]
    if judge is not None:
        described = replace(METRICS[judge], hint="of samples, by epoch")
        panels.append(epoch_panel(run.rows, judge, described, kept, described.label))
    by = run.result.get("by")
    return {"kept": kept, "by": by, "epochs": _last_epoch(run.rows), "panels": _drawn(panels)}


def _last_epoch(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((int(row.get("iteration", 0)) for row in rows), default=0)


def _labels(run: StageRun) -> dict[str, Any]:
    found = run.result
    figures = [
        (name, str(found[name]))
        for name in ("labeller", "prompts", "completions", "rankings", "pairs")
        if name in found
    ]
    if found.get("gold_mean") is not None:
        gold = SampleMean(float(found["gold_mean"]), found.get("gold_sem"), found.get("prompts"))
        places = decimals(gold.half) if gold.half else 3
        spread = f" ± {number(gold.half, places)}" if gold.half else ""
        figures.append(("gold of the samples", number(gold.mean, places) + spread))
    if found.get("ceiling") is not None:
        figures.append(("best possible agreement", percent(found["ceiling"])))
    if found.get("quality"):
        figures += _quality(found["quality"])
    dropped = [(f"dropped: {reason}", str(count)) for reason, count in (found.get("dropped") or {}).items() if count]
    return {"figures": figures + dropped, "example": _example(run.samples)}


def _quality(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how good people's labels are, without what is not known, such as the agreement of one person alone."""
    shares = {
        "agreement between people": found["between_people"]["share"],
        "agreement with gold": found["with_gold"]["share"],
        "wins of the text shown first": found["first_shown"]["share"],
    }
    figures = [("people", str(len(found["labellers"])))]
    figures += [
        (name, f"{percent(share['value'])} [{percent(share['low'])}, {percent(share['high'])}]")
        for name, share in shares.items()
        if share is not None
    ]
    if found["alpha"] is not None:
        figures.append(("Krippendorff's α", number(found["alpha"], 3)))
    if found["seconds"] is not None:
        figures.append(("seconds an answer", number(found["seconds"], 1)))
    return figures


def _example(rankings: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the ranking with the most distinct ranks: its prompt, and its completions, the best first."""
    whole = [row for row in rankings if row.get("completions") and row.get("ranks")]
    if not whole:
        return None
    row = max(whole, key=lambda row: len(set(row["ranks"])))
    ordered = sorted(zip(row["ranks"], row["completions"], strict=False), key=lambda pair: float(pair[0]))
    shown = [(str(rank + 1), str(text).strip()) for rank, text in ordered[:LONGEST_EXAMPLE]]
    return {"prompt": _as_text(row.get("prompt", "")), "ranked": shown}


def _as_text(prompt: Any) -> str:
    """Return a prompt as text, a conversation turn by turn."""
    turns = [f"{m.get('role')}: {m.get('content')}" for m in prompt] if isinstance(prompt, list) else [str(prompt)]
    return "\n\n".join(turns)


def _reward_model(run: StageRun) -> dict[str, Any]:
    losses = run.result.get("loss_curve") or []
    found, curve = heldout_accuracy(run.result, run.evaluation), loss_curve(losses)
    panels = [_calibration(run.evaluation)]
    if curve:
        unit = "of labels, nats per text" if found.labels else "of rankings, nats per pair"
        panels.append(Panel(Metric("Loss", unit), "loss", *ends(losses), curve))
    text = f"{accuracy_headline(found)}. {accuracy_explained(found)}" if found.accuracy else ""
    return {"judged": found, "text": text, "panels": _drawn(panels)}


def _calibration(evaluation: Mapping[str, Any]) -> Panel | None:
    found = evaluation.get("calibration") or {}
    bins = [entry for entry in found.get("bins", []) if entry["count"]]
    if not bins:
        return None
    described = Metric("Calibration", "share of pairs won: true (up) by predicted (across), %")
    error = f"error {percent(found['expected_error'])}" if found.get("expected_error") is not None else ""
    return Panel(described, "score", "", error, calibration_plot(bins, "Calibration of the reward model"))


def _policy(run: StageRun) -> dict[str, Any]:
    keys = [key for key in WHILE_TRAINING if _measured(run.rows, key)]
    alarmed = warnings_by_curve(run.rows)
    panels = [panel(key, run.rows, alarm=key in alarmed) for key in keys]
    banded = any(f"{key}_sem" in row for row in run.rows for key in keys)
    return {"comparisons": changes_of(run.evaluation, "train"), "panels": panels, "banded": banded}


SECTIONS: Mapping[str, Callable[[StageRun], dict[str, Any]]] = {
    "sft": _sft,
    "labels": _labels,
    "reward-model": _reward_model,
    "train": _policy,
}
"""What the page shows of a stage, by its kind."""


def _measured(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(value == value for value in column(rows, key))


def _drawn(panels: Sequence[Panel | None]) -> list[Panel]:
    return [one for one in panels if one is not None]
