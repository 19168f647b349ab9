"""The report of an InstructGPT loop (Ouyang et al. 2022): one page for all stages, from base model to last policy.

:func:`write_pipeline_report` reads the pipeline's directory. ``config.json`` and ``stages.json`` must exist; a stage
that has not run, or that was interrupted, is listed as missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from textgym.intervals import SampleMean
from textgym.lm.sampling import Sampling
from textgym.reports.before_after import Change, changes_of, with_interval
from textgym.reports.charts.runs import stage_steps
from textgym.reports.formatting import NBSP, decimals, number
from textgym.reports.pages import write_page
from textgym.reports.pipeline_stages import SECTIONS, StageRun
from textgym.reports.run import Sample, shown_sample, tables
from textgym.reports.run_files import read_run_object, run_text

_NEEDED_BY = "write_pipeline_report"
_SAMPLES_SHOWN = 3  # the others are folded
LEARNED = ("score", "reward_model")  # each iteration has a reward model of its own, so these cannot be compared
LEADING_METRICS = ("gold", "grammatical", "kl")  # the most important first
COLOURS = ("gold", "kl")


def write_pipeline_report(out: Path) -> Path:
    """Write ``report.html`` into a pipeline's directory and return its path.

    Raises:
        FileNotFoundError: ``out`` holds no ``config.json`` or no ``stages.json``.
        ValueError: one of them has other content than expected.
    """
    out = Path(out)
    return write_page("pipeline.html", pipeline_contents(out), out / "report.html")


def pipeline_contents(out: Path) -> dict[str, Any]:
    """Read the contents of the page from a pipeline's directory."""
    config = read_run_object(out / "config.json", _NEEDED_BY)
    runs = [StageRun.read(out, stage) for stage in read_stages(out / "stages.json")]
    missing = [run for run in runs if not run.finished]
    alike, begun_with = measured_alike(runs, config)
    milestones = milestones_of(alike, begun_with)
    journeys = journeys_of(milestones)
    title, explanation = pipeline_headline(journeys, runs, str(config.get("task") or "prompts of your own"))
    return {
        "title": title,
        "explanation": explanation,
        "facts": _facts(config, runs),
        "notices": _absent(missing) + [f"{run.name}: {notice}" for run in runs for notice in run.notices],
        "milestones": list(milestones),
        "journeys": journeys,
        "pictured": pictured(journeys),
        "policies": sum(run.kind == "train" for run in runs),
        "runs": runs,
        "sections": {run.name: SECTIONS[run.kind](run) for run in runs if run.begun},
        "samples": samples_of(alike, begun_with),
        "shown": _SAMPLES_SHOWN,
        "tables": tables(config),
    }


def read_stages(path: Path) -> list[dict[str, Any]]:
    """Return the pipeline's list of stages.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no list of stages with a name, a directory and a known kind.
    """
    stages = json.loads(run_text(path, _NEEDED_BY))
    if not isinstance(stages, list):
        raise ValueError(f"{path} must hold a JSON list of stages, got {type(stages).__name__}")
    for index, stage in enumerate(stages):
        if not isinstance(stage, dict) or not {"name", "directory"} <= set(stage) or stage.get("kind") not in SECTIONS:
            expected = f"a name, a directory and a kind of {', '.join(SECTIONS)}"
            raise ValueError(f"{path}: stage {index} is {stage!r}; expected an object with {expected}")
    return stages


def _facts(config: Mapping[str, Any], runs: Sequence[StageRun]) -> list[tuple[str, str]]:
    found = {
        "task": config.get("task"),
        "seed": config.get("seed"),
        "iterations": config.get("iterations"),
        "stages": f"{sum(run.finished for run in runs)} of {len(runs)}",
    }
    return [(label, str(value)) for label, value in found.items() if value is not None]


def _absent(missing: Sequence[StageRun]) -> list[str]:
    if not missing:
        return []
    states = ", ".join(f"{run.name} ({run.state})" for run in missing)
    return [f"The loop is not complete. Missing: {states}."]


# -- From stage to stage ---------------------------------------------------------------------------


def measures_base(config: Mapping[str, Any]) -> bool:
    """Return True if the SFT stage measures on the same prompts and with the same sampling as the RL stages do.

    Only the SFT stage measures the base model. It uses the task's held-out prompts and plain sampling.

    It does on the task's own held-out prompts, with plain sampling.

    Args:
        config: the loop's settings, as ``config.json`` keeps them.
    """
    prompts = (config.get("sft", {}).get("demonstrations"), config.get("prompts"), config.get("validation"))
    drawn = config.get("train", {}).get("hyperparameters", {})
    plain = all(drawn.get(name, value) == value for name, value in asdict(Sampling()).items())
    return plain and not any(prompts)


def measured_alike(runs: Sequence[StageRun], config: Mapping[str, Any]) -> tuple[Sequence[StageRun], str]:
    """Return the stages that measured on the same prompts, and the name of the model that the first began with."""
    if measures_base(config) or all(run.kind != "sft" for run in runs):
        return runs, "base"
    return [run for run in runs if run.kind != "sft"], "SFT"


def milestones_of(runs: Sequence[StageRun], begun_with: str = "base") -> dict[str, dict[str, SampleMean]]:
    """Return the measures of each model on the way, by its name, in order: ``base``, ``SFT``, then the policies.

    KL counts from the model at which reinforcement learning began, so the base model has one only without SFT.
    """
    found: dict[str, dict[str, SampleMean]] = {}
    name = begun_with
    for run in runs:
        rows = [row for row in changes_of(run.evaluation) if row.name not in LEARNED] if run.learns_policy else []
        if not rows:
            continue
        if run.kind == "sft":
            rows = [row for row in rows if row.name != "kl"]
        # The model after one stage is the model before the next; the earlier measurement of it is kept.
        before, after = ({row.name: getattr(row, side) for row in rows} for side in ("before", "after"))
        found[name] = {**before, **found.get(name, {})}
        name = run.model
        found[name] = after
    return found


@dataclass(frozen=True)
class Journey:
    """One metric from the base model to the last policy.

    Attributes:
        overall: from the first model that measured it to the last.
        estimates: by the name of the model; None where it was not measured.
    """

    overall: Change
    estimates: Mapping[str, SampleMean | None]

    @property
    def name(self) -> str:
        return self.overall.name

    @property
    def known(self) -> dict[str, SampleMean]:
        return {name: estimate for name, estimate in self.estimates.items() if estimate is not None}

    @property
    def places(self) -> int:
        """Decimal places, by the narrowest known interval."""
        halves = [estimate.half for estimate in self.known.values() if estimate.half]
        return decimals(min(halves)) if halves else 3

    @property
    def kind(self) -> str:
        return self.name if self.name in COLOURS else "other"

    @property
    def svg(self) -> str:
        label = f"{self.overall.metric.label} from stage to stage"
        return stage_steps(self.estimates, label, self.places, large=self.name == "gold")


def journeys_of(milestones: Mapping[str, Mapping[str, SampleMean]]) -> list[Journey]:
    """Return the metrics that at least two models have; those of :data:`LEADING_METRICS` come first."""
    names = dict.fromkeys(name for measured in reversed(list(milestones.values())) for name in measured)
    journeys = []
    ranks = {name: rank for rank, name in enumerate(LEADING_METRICS)}
    for name in sorted(names, key=lambda name: ranks.get(name, len(ranks))):
        estimates = {model: measured.get(name) for model, measured in milestones.items()}
        known = [estimate for estimate in estimates.values() if estimate is not None]
        if len(known) > 1:
            journeys.append(Journey(Change(name, known[0], known[-1]), estimates))
    return journeys


def pictured(journeys: Sequence[Journey]) -> int:
    """Return how many journeys get a chart: two beside gold's, below it rows of three; the table has the rest."""
    small = len(journeys) - 1
    if small < 2 or journeys[0].name != "gold":
        return len(journeys)
    return 1 + 2 + (small - 2) // 3 * 3


# -- Words -----------------------------------------------------------------------------------------

_VERBS = {1: "raised", -1: "lowered"}


def pipeline_headline(journeys: Sequence[Journey], runs: Sequence[StageRun], task: str) -> tuple[str, str]:
    """Return the result of the loop in one line, and its explanation."""
    so_far = "" if all(run.finished for run in runs) else "So far, "
    by_name = {journey.name: journey for journey in journeys}
    policies = [run for run in runs if run.kind == "train" and run.finished]
    if gold := by_name.get("gold"):
        sentences = [_shares(gold)]
        title = _title(f"{so_far}the loop", gold.overall, "gold")
    elif policies:
        last = changes_of(policies[-1].evaluation)[0]
        label = f"the {last.metric.label.lower()} of its own reward model"
        title = _title(f"{so_far}{policies[-1].name}", last, label)
        sentences = ["No gold reward was measured, and each iteration learns a reward model anew."]
    else:
        return f"The loop on {task}", ""
    for journey in journeys:
        if journey.name != "gold" and journey.overall.verdict == "worse":
            change = with_interval(journey.overall.change, journey.places, sign=True)
            sentences.append(f"{journey.overall.metric.label} got worse: {change}.")
    if kl := by_name.get("kl"):
        last_name, first_name = list(kl.known)[-1], next(iter(kl.known))
        distance = with_interval(kl.overall.after, kl.places)
        sentences.append(f"{_capital(last_name)} ended {distance} nats per sequence away from {first_name}.")
    sentences += [
        f"{_capital(run.name)} earned reward that gold denies: reward hacking." for run in policies if _hacks(run)
    ]
    return _capital(title), " ".join(sentences)


def _title(subject: str, change: Change, label: str) -> str:
    places = _sentence_places(change)
    before, after = number(change.before.mean, places), number(change.after.mean, places)
    if not change.clear:
        return f"{subject} made no clear change in {label}: {before} before, {after} after"
    return f"{subject} {_VERBS[change.direction]} {label} from {before} to {after}"


def _sentence_places(comparison: Change) -> int:
    """Return the decimal places for a sentence, by the interval of the change: fewer than in a table."""
    half = comparison.change.half
    return decimals(half) if half else comparison.places


def _shares(journey: Journey) -> str:
    """Return the total change with its interval, and the part of each step."""
    known, places = list(journey.known.items()), _sentence_places(journey.overall)
    change = with_interval(journey.overall.change, places, sign=True)
    sure = "its interval is unknown" if journey.overall.change.half is None else "a 95 % interval"
    text = f"From {known[0][0]} to {known[-1][0]}: {change}, {sure}."
    if len(known) > 2:
        pairs = pairwise(known)
        parts = (f"{name} {number(new.mean - old.mean, places, True)}" for (_, old), (name, new) in pairs)
        text += f" Step by step: {', '.join(part.replace(' ', NBSP) for part in parts)}."
    return text


def _hacks(run: StageRun) -> bool:
    direction = {row.name: row.direction for row in changes_of(run.evaluation)}
    return direction.get("score", 0) > 0 > direction.get("gold", 0)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- Samples ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """The response of each model to one prompt, by the model's name."""

    prompt: str
    samples: Mapping[str, Sample]


def samples_of(runs: Sequence[StageRun], begun_with: str = "base") -> list[Series]:
    """Return the prompts that every model answered, with the first answer of each."""
    written: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        if not run.learns_policy or not run.samples:
            continue
        names = {"after": run.model} if written else {"before": begun_with, "after": run.model}
        written |= {name: {} for name in names.values()}
        for row in run.samples:
            if name := names.get(str(row.get("stage"))):
                written[name].setdefault(str(row.get("prompt", "")), row)
    written = {name: rows for name, rows in written.items() if rows}
    if len(written) < 2:
        return []
    prompts = [prompt for prompt in next(iter(written.values())) if all(prompt in rows for rows in written.values())]
    return [Series(p, {name: _plain(rows[p]) for name, rows in written.items()}) for p in prompts]


def _plain(row: Mapping[str, Any]) -> Sample:
    """Return a sample without the scores of its own iteration's reward model, which are not comparable."""
    kept = {key: value for key, value in row.items() if key not in ("score", "token_rewards", "kl")}
    return shown_sample(kept, 0.0)
