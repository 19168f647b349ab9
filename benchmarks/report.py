"""The report of a run: one HTML page that needs nothing but a browser.

:func:`write_report` reads a run directory and draws what it finds there. ``config.json`` and
``metrics.jsonl`` must exist; ``evaluation.json``, ``samples.jsonl`` and ``reward_model.json`` add
a section each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from textgym.agents.guards import alarms
from textgym.benchmarks.comparison import (
    METRICS,
    Metric,
    compare,
    explain,
    exponent,
    headline,
    metric,
    number,
)
from textgym.benchmarks.curves import curve
from textgym.benchmarks.reading import read_lines, read_object
from textgym.benchmarks.templating import tint, write_page
from textgym.rendering import largest, show_token, strength

TOKENS = "time/total_timesteps"
RATIO_ERROR = "train/first_minibatch_ratio_error"
RATIO_TOLERANCE = 1e-4
HEADLINES = [f"rollout/{name}" for name in METRICS]
COMPONENTS = "/components/"
NEEDED_BY = "write_report"
SAMPLES_SHOWN = 6  # the others stand folded below

DIAGNOSTICS: Mapping[str, Metric] = {
    "train/policy_loss": Metric("Policy loss", "the clipped surrogate"),
    "train/value_loss": Metric("Value loss", "squared error of the critic"),
    "train/explained_variance": Metric("Explained variance", "1: the critic foresees every return"),
    "train/entropy": Metric("Entropy", "nats per token"),
    "train/approx_kl": Metric("KL within an update", "between old and new policy, nats per token"),
    "train/clip_fraction": Metric("Clip fraction", "share of tokens whose ratio was clipped"),
    "train/learning_rate": Metric("Learning rate"),
    "train/beta": Metric("β", "price of one nat of KL"),
    RATIO_ERROR: Metric("Ratio error", "distance from 1 at the first minibatch"),
}


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path."""
    return write_page("report.html", contents(Path(run_dir)), Path(run_dir) / "report.html")


def contents(run_dir: Path) -> dict[str, Any]:
    """Everything the page shows, read from ``run_dir``."""
    config = read_object(run_dir / "config.json", NEEDED_BY)
    rows, notices = read_lines(run_dir / "metrics.jsonl", NEEDED_BY)
    samples, more_notices = read_lines(run_dir / "samples.jsonl")
    evaluation = read_object(run_dir / "evaluation.json")
    comparisons = compare(evaluation)
    reward_model = read_object(run_dir / "reward_model.json")
    algorithm, task = str(config.get("algorithm", "training")).upper(), config.get("task", "an unnamed task")
    headlines, diagnostics = panels(rows)
    return {
        "title": headline(algorithm, comparisons) if comparisons else f"{algorithm} on {task}",
        "explanation": explain(comparisons),
        "facts": facts(config, rows, evaluation),
        "notices": notices + more_notices + warned(rows),
        "comparisons": comparisons,
        "headlines": headlines,
        "diagnostics": diagnostics,
        "ratio": ratio_check(rows),
        "pairs": pair_samples(samples),
        "shown": SAMPLES_SHOWN,
        "reward_model": reward_model,
        "reward_model_loss": loss_curve(reward_model.get("loss_curve")),
        "tables": tables(config),
    }


def warned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists a run's warnings, each kind once, as in :func:`textgym.agents.guards.alarms`."""
    found: dict[str, str] = {}
    for row in rows:
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        for kind, message in alarms(numbers, rows[0]).items():
            found.setdefault(kind, f"Iteration {row.get('iteration', '?')}: {message}.")
    return list(found.values())


# -- Curves ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A curve with what stands around it. ``kind`` chooses its colour."""

    metric: Metric
    kind: str
    first: str
    last: str
    svg: str


def panels(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Panel], list[Panel]]:
    """The headline curves and the training diagnostics, each in reading order."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if _is_series(key, rows)]
    inner = [key for key in keys if key.startswith(("train/", "time/"))]
    outer = [key for key in keys if key not in inner]
    headlines, diagnostics = _ordered(outer, HEADLINES), _ordered(inner, list(DIAGNOSTICS))
    return [panel(key, rows) for key in headlines], [panel(key, rows) for key in diagnostics]


def _ordered(keys: Sequence[str], first: Sequence[str]) -> list[str]:
    """``first`` in their order, then the rest in theirs; components come last."""
    rank = {key: index for index, key in enumerate(first)}
    return sorted(keys, key=lambda key: (COMPONENTS in key, rank.get(key, len(rank))))


def _is_series(key: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    if key in (TOKENS, "iteration") or key.endswith("_sem"):
        return False
    return any(math.isfinite(value) for value in column(rows, key))


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """One metric over the iterations, NaN where it is missing or no number."""
    values = (row.get(key) for row in rows)
    return [float(v) if isinstance(v, int | float) and math.isfinite(v) else math.nan for v in values]


def panel(key: str, rows: Sequence[Mapping[str, Any]]) -> Panel:
    """The curve of one metric, which must be a number in some row."""
    name = key.rpartition("/")[2]
    described = DIAGNOSTICS.get(key) or metric(name)
    if COMPONENTS in key:
        described = Metric(name, "a component of the reward")
    y = column(rows, key)
    sem = column(rows, f"{key}_sem") if any(f"{key}_sem" in row for row in rows) else None
    has_tokens = any(TOKENS in row for row in rows)
    x = column(rows, TOKENS) if has_tokens else [float(index) for index in range(len(rows))]
    first, last = ends(y)
    svg = curve(x, y, sem, label=described.label, x_label="tokens" if has_tokens else "iterations")
    kind = name if key in HEADLINES else "other"
    return Panel(described, kind, first, last, svg)


def ends(y: Sequence[float]) -> tuple[str, str]:
    """The first and the last finite value, told with equally many decimal places."""
    finite = [value for value in y if math.isfinite(value)]
    pair = finite[0], finite[-1]
    size = max(map(abs, pair))
    places = max(2 - exponent(size), 0) if size >= 1e-3 else None
    return number(pair[0], places), number(pair[1], places)


def loss_curve(losses: Any) -> str | None:
    """The loss of a reward model by batch; None where it was not logged."""
    if not losses:
        return None
    return curve(range(len(losses)), losses, label="Loss of the reward model", x_label="batches")


@dataclass(frozen=True)
class RatioCheck:
    """Whether what is trained is what was sampled: the ratio of the first minibatch must be 1."""

    largest: float
    tolerance: float = RATIO_TOLERANCE

    @property
    def passed(self) -> bool:
        return self.largest <= self.tolerance


def ratio_check(rows: Sequence[Mapping[str, Any]]) -> RatioCheck | None:
    """The largest ratio error of the run; None where it was not logged."""
    errors = [abs(value) for value in column(rows, RATIO_ERROR) if math.isfinite(value)]
    return RatioCheck(max(errors)) if errors else None


# -- Samples ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """A token on the page: ``gap`` is the white space before it, which stays bare."""

    gap: str
    ink: str
    colour: str
    title: str


@dataclass(frozen=True)
class Sample:
    """A response on the page."""

    tokens: list[Token]
    numbers: list[tuple[str, str]]


@dataclass(frozen=True)
class Pair:
    """The responses to one prompt before and after training; None where there is none."""

    prompt: str
    before: Sample | None
    after: Sample | None


def pair_samples(samples: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Samples side by side: the i-th response to a prompt before training beside the i-th after it."""
    scale = largest([reward for sample in samples for reward in _rewards(sample)])
    by_prompt: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        stages = by_prompt.setdefault(str(sample.get("prompt", "")), {})
        stages.setdefault(str(sample.get("stage")), []).append(shown_sample(sample, scale))
    return [
        Pair(prompt, before, after)
        for prompt, stages in by_prompt.items()
        for before, after in zip_longest(stages.get("before", []), stages.get("after", []))
    ]


def _rewards(sample: Mapping[str, Any]) -> list[float]:
    return [float(reward) for reward in sample.get("token_rewards") or [] if reward is not None]


def shown_sample(sample: Mapping[str, Any], scale: float) -> Sample:
    """A line of ``samples.jsonl`` as the page shows it; a token is deepest in colour where its reward is ``scale``."""
    tokens, rewards = sample.get("tokens", []), sample.get("token_rewards") or []
    shown = [
        _token(token, reward, scale, f"token {index} of {len(tokens)}")
        for index, (token, reward) in enumerate(zip_longest(tokens, rewards[: len(tokens)]), start=1)
    ]
    numbers = [
        (metric(name).label, number(sample[name])) for name in ("score", "gold", "kl") if sample.get(name) is not None
    ]
    if reason := sample.get("finish_reason"):
        numbers.append(("Finish", str(reason)))
    return Sample(shown, numbers)


def _token(token: str, reward: float | None, scale: float, place: str) -> Token:
    text = show_token(str(token))
    ink = text.lstrip()
    level = 0.0 if reward is None else strength(reward, scale)
    title = place if reward is None else f"{place}: {number(reward, 4, sign=True)}"
    return Token(text[: len(text) - len(ink)], ink, tint(level) if level else "", title)


# -- Settings --------------------------------------------------------------------------------------


def facts(
    config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The line under the title: what was run, and how much of it."""
    tokens = [value for value in column(rows, TOKENS) if math.isfinite(value)]
    found = {
        "task": config.get("task"),
        "seed": config.get("seed"),
        "iterations": len(rows),
        "tokens": number(tokens[-1], 0) if tokens else None,
        "bad rows left out": evaluation.get("skipped_rows"),
        "rows dropped as too long": evaluation.get("dropped_rows"),
        "prompts shortened": evaluation.get("shortened_rows"),
        "evaluated on": f"{evaluation['episodes']} episodes" if "episodes" in evaluation else None,
    }
    return [(label, str(value)) for label, value in found.items() if value is not None]


def tables(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings as tables: one of plain values, then one for each nested object."""
    plain = {key: value for key, value in config.items() if not isinstance(value, dict)}
    nested = {key: value for key, value in config.items() if isinstance(value, dict)}
    groups = {"run": plain, **nested}
    return [(name, list(_flat(group))) for name, group in groups.items() if group]


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested objects as dotted names."""
    for key, value in group.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
