"""The report of a run: one self-contained HTML page.

:func:`write_report` reads a run directory. ``config.json`` and ``metrics.jsonl`` must exist;
``evaluation.json``, ``samples.jsonl``, ``kept.json`` and ``reward_model.json`` are optional. A run that was stopped has
``stopped.json``: ``{"iteration": n, "reason": "…"}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from textgym.env.rendering import largest, show_token, strength
from textgym.intervals import SampleMean
from textgym.lm.guards import alarms
from textgym.reports.before_after import METRICS, Metric, changes_of, metric
from textgym.reports.charts.runs import epoch_curves, training_curve
from textgym.reports.formatting import exponent, is_finite, number
from textgym.reports.headlines import STEP_NAMES, RunSummary, run_headline, stop_sentence
from textgym.reports.heldout_accuracy import heldout_accuracy
from textgym.reports.pages import css_tint, write_page
from textgym.reports.run_files import read_run_lines, read_run_object
from textgym.reports.settings import by_name

TOKENS_KEY = "time/total_timesteps"
KNOWN_BY_OTHER_NAMES = ("rollout/ep_rew_mean", "rollout/ep_len_mean")  # stable-baselines3's, of score and length
RATIO_ERROR = "train/first_minibatch_ratio_error"
RATIO_TOLERANCE = 1e-4
HEADLINES = [f"rollout/{name}" for name in METRICS]
EVALUATED = [f"validation/{name}" for name in METRICS]
COMPONENTS = "/components/"
LEAVES_ITS_SAMPLER = ("best-of-n",)
"""Algorithms that sample from the reference all the time, so that no ratio says anything."""
CALLED = {"reward-model": "Reward model", "tamer": "Model of feedback", "distill": "Distillation"}
"""Names of what a command does, where they are no algorithm's in capitals."""
_NEEDED_BY = "write_report"
_SAMPLES_SHOWN = 6  # the others are folded
BESIDE = ("_sem", "_low", "_high", "/pairs", "/completions", "/prompts", "/steps")
"""Suffixes of numbers that belong to another number, and have no curve of their own."""

ROLLOUT: Mapping[str, Metric] = {
    "rollout/kl_k3": Metric("KL, estimated by k3", "nats per sequence, never negative"),
    "rollout/kl_exact": Metric("KL, exact", "nats per sequence, over the vocabulary"),
    "rollout/stopped": Metric("Ended", "share of responses with an end token"),
    "rollout/greedy_score": Metric("Greedy score", "the reward of the most probable responses"),
    "rollout/best_score": Metric("Best score", "of each prompt's responses"),
    "rollout/turns": Metric("Turns", "of the policy, per episode"),
    "rollout/foreign_tokens": Metric("Foreign tokens", "of the other side, per episode"),
}
DIAGNOSTICS: Mapping[str, Metric] = {
    "train/policy_loss": Metric("Policy loss", "as the algorithm defines it"),
    "train/value_loss": Metric("Value loss", "squared error of the critic"),
    "train/explained_variance": Metric("Explained variance", "1: the critic predicts every return"),
    "train/entropy": Metric("Entropy", "nats per token"),
    "train/approx_kl": Metric("KL within an update", "between old and new policy, nats per token"),
    "train/clip_fraction": Metric("Clip fraction", "share of tokens beyond the clip range"),
    "train/learning_rate": Metric("Learning rate"),
    "train/grad_norm": Metric("Gradient norm", "before it is clipped"),
    "train/beta": Metric("β", "price of one nat of KL"),
    RATIO_ERROR: Metric("Ratio error", "distance from 1 at the first minibatch"),
}
EPOCH_METRICS: Mapping[str, Mapping[str, Metric]] = {
    "sft": {"loss": Metric("Loss", "nats per token of demonstrations")},
    "dpo": {
        "accuracy": Metric("Accuracy", "share of pairs ordered as labelled; chance is 0.5"),
        "margin": Metric("Margin", "of implicit rewards, chosen less rejected: β · nats"),
        "loss": Metric("Loss", "per pair; where nothing is learned log 2 = 0.693, for IPO 1 / (4β²)"),
    },
    "kto": {
        "accuracy": Metric("Accuracy", "share of pairs of both labels ordered as labelled; chance is 0.5"),
        "margin": Metric("Margin", "of implicit rewards, desirable less undesirable: β · nats"),
        "loss": Metric("Loss", "per completion; half of its weight where nothing is learned"),
    },
}
"""Measures of each epoch by command, the most important first."""
ALARMED = {kind: f"train/{kind}" for kind in ("approx_kl", "clip_fraction", "entropy")} | {"kl": "rollout/kl"}
"""The curve that each kind of alarm is about."""


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path."""
    return write_page("report.html", run_contents(Path(run_dir)), Path(run_dir) / "report.html")


def run_contents(run_dir: Path) -> dict[str, Any]:
    """Read the contents of the page from a run directory."""
    config = read_run_object(run_dir / "config.json", _NEEDED_BY)
    stopped = read_run_object(run_dir / "stopped.json")
    rows, notices = read_run_lines(run_dir / "metrics.jsonl", "" if stopped else _NEEDED_BY)
    samples, more_notices = read_run_lines(run_dir / "samples.jsonl")
    evaluation, kept = read_run_object(run_dir / "evaluation.json"), read_run_object(run_dir / "kept.json")
    evaluations, evaluation_notices = read_run_lines(run_dir / "validation.jsonl")
    reward_model = read_run_object(run_dir / "reward_model.json")
    command = str(config.get("command") or "")
    episodes = config.get("eval_episodes")
    comparisons = changes_of(evaluation, command, episodes)
    finished = bool(comparisons) or (command == "reward-model" and bool(reward_model)) or "heldout" in evaluation
    accuracy = heldout_accuracy(reward_model, evaluation if command == "reward-model" else {})
    summary = RunSummary(
        command=command,
        algorithm=CALLED.get(command) or str(config.get("algorithm", "training")).upper(),
        task=str(config.get("task") or config.get("data") or "prompts of your own"),
        rows=rows,
        comparisons=comparisons,
        kept=kept,
        judged=accuracy,
        stopped=stopped,
        finished=finished,
    )
    ratio = None if config.get("algorithm") in LEAVES_ITS_SAMPLER else ratio_check(rows)
    page, warnings = run_headline(summary), warnings_by_curve(rows)
    alarmed = {*warnings, *([RATIO_ERROR] if ratio is not None and not ratio.passed else [])}
    headlines, diagnostics = run_panels(command, rows, kept.get("epoch"), _episodes(config), alarmed)
    reason = stop_sentence(stopped, summary.step)
    return {
        "title": page.title,
        "explanation": page.explanation,
        "facts": facts(config, rows, evaluation) + best_kept(read_run_object(run_dir / "best" / "best.json")),
        "notices": notices
        + more_notices
        + evaluation_notices
        + stopped_early(evaluation)
        + ([reason] if reason and finished else []),
        "alarms": ([reason] if reason and not finished else []) + list(warnings.values()),
        "comparisons": comparisons,
        "before": [] if comparisons else only_before(evaluation, command, episodes),
        "agree": any(0 in (row.before.half, row.after.half) and row.name != "kl" for row in comparisons),
        "unit": STEP_NAMES.get(command, "iteration"),
        "headlines": headlines,
        "evaluations": evaluation_panels(evaluations, episodes),
        "diagnostics": diagnostics,
        "banded": any(f"{key}_sem" in row for row in rows for key in HEADLINES),
        "ratio": ratio,
        "pairs": before_and_after(samples),
        "coloured": any(reward for sample in samples for reward in _rewards(sample)),
        "shown": _SAMPLES_SHOWN,
        "judged": accuracy if reward_model else None,
        "offset": reward_model.get("offset"),
        "epochs": by_name(config).get("epochs"),
        "reward_model_loss": loss_curve(reward_model.get("loss_curve")),
        "tables": tables(config),
        "signature": evaluation.get("reward"),
    }


def stopped_early(evaluation: Mapping[str, Any]) -> list[str]:
    """Return a notice of why training ended before its last token, if it did."""
    return [f"Training stopped early: {evaluation['stopped_early']}."] if "stopped_early" in evaluation else []


# --- warnings --------------------------------------------------------------------------------------------------


def warnings_by_curve(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the first warning of each kind, by the curve that it is about.

    They are those of :func:`textgym.lm.guards.alarms`; among them is an iteration that was not trained on what
    was sampled.
    """
    found: dict[str, str] = {}
    for row in rows:
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        for kind, message in alarms(numbers, rows[0]).items():
            found.setdefault(ALARMED.get(kind, kind), f"Iteration {row.get('iteration', '?')}: {message}.")
    return found


def only_before(
    evaluation: Mapping[str, Any], command: str, episodes: int | None
) -> list[tuple[Metric, SampleMean, int | None]]:
    """Return the measures of a run that was evaluated only before training: description, number, decimal places."""
    found = changes_of({"before": evaluation.get("before"), "after": evaluation.get("before")}, command, episodes)
    return [(row.metric, row.before, row.places) for row in found]


def _episodes(config: Mapping[str, Any]) -> int | None:
    """Return the episodes behind each number of an iteration."""
    found = (config.get("hyperparameters") or {}).get("episodes_per_iteration")
    return found if isinstance(found, int) else None


# -- Curves ----------------------------------------------------------------------------------------


# --- curves ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A curve with its description. ``kind`` chooses its colour; ``alarm`` marks a curve that training warned of."""

    metric: Metric
    kind: str
    first: str
    last: str
    svg: str
    alarm: bool = False


def run_panels(
    command: str, rows: Sequence[Mapping[str, Any]], kept: int | None, episodes: int | None, alarmed: set[str]
) -> tuple[list[Panel], list[Panel]]:
    """Return the headline curves and the training diagnostics of a run, by the command that made it."""
    if command in EPOCH_METRICS:
        names = dict.fromkeys(key.partition("/")[2] for row in rows for key in row if key.startswith("validation/"))
        known = EPOCH_METRICS[command]
        ordered = [*known, *(name for name in names if name not in known and not name.endswith(_BESIDE_NAMES))]
        found = [epoch_panel(rows, name, known.get(name) or _of_samples(name), kept) for name in ordered]
        return [one for one in found if one is not None], []
    if command == "reward-model":  # its loss is shown beside its accuracy
        rows = [{key: value for key, value in row.items() if key != "train/loss"} for row in rows]
    return panels(rows, episodes, alarmed, STEP_NAMES.get(command, "iteration"))


_BESIDE_NAMES = tuple(end.lstrip("/") for end in BESIDE)


def _of_samples(name: str) -> Metric:
    described = metric(name)
    return replace(described, hint=f"{described.hint}, of samples" if described.hint else "of samples")


def epoch_panel(
    rows: Sequence[Mapping[str, Any]], name: str, described: Metric, kept: int | None, validation: str = "held out"
) -> Panel | None:
    """Return a measure by epoch, on held-out and on training data; None if it was never measured.

    Its ends are the numbers before training and of the epoch that was kept, or of the last one.
    """
    keys = {validation: f"validation/{name}", "training": f"train/{name}"}
    curves = {label: column(rows, key) for label, key in keys.items() if _is_series(key, rows)}
    if not curves:
        return None
    leading = next(iter(curves.values()))
    # The caption ends at the kept epoch, since later epochs were discarded.
    until = leading if kept is None or not kept < len(leading) else [*leading[:kept], leading[kept]]
    first, last = ends(until)
    kind = described.label.lower() if described.label.lower() in ("loss", "gold", "score", "kl") else "other"
    return Panel(described, kind, first, last, epoch_curves(curves, kept, described.label))


def panels(
    rows: Sequence[Mapping[str, Any]],
    episodes: int | None = None,
    alarmed: set[str] | frozenset[str] = frozenset(),
    step: str = "iteration",
) -> tuple[list[Panel], list[Panel]]:
    """Return the headline curves and the training diagnostics, each in reading order."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if _is_series(key, rows)]
    inner = [key for key in keys if key.startswith(("train/", "time/"))]
    outer = [key for key in keys if key not in inner]
    headlines, diagnostics = _ordered(outer, HEADLINES), _ordered(inner, list(DIAGNOSTICS))
    return (
        [panel(key, rows, episodes, key in alarmed, step) for key in headlines],
        [panel(key, rows, episodes, key in alarmed, step) for key in diagnostics],
    )


def evaluation_panels(rows: Sequence[Mapping[str, Any]], episodes: int | None) -> list[Panel]:
    """Return the curves of the evaluations on validation prompts during training, in reading order."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if _is_series(key, rows)]
    return [panel(key, rows, episodes) for key in _ordered(keys, EVALUATED)]


def _ordered(keys: Sequence[str], first: Sequence[str]) -> list[str]:
    """Return keys in the order of ``first``, then the rest; components come last, gold the first of them."""
    rank = {key: index for index, key in enumerate(first)}
    gold = f"rollout{COMPONENTS}gold"
    return sorted(keys, key=lambda key: (COMPONENTS in key, key != gold, rank.get(key, len(rank))))


def _is_series(key: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    if key in (TOKENS_KEY, "iteration", *KNOWN_BY_OTHER_NAMES) or key.endswith(BESIDE):
        return False
    return any(math.isfinite(value) for value in column(rows, key))


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return one metric over the iterations, NaN where it is missing or not a number."""
    values = (row.get(key) for row in rows)
    return [float(v) if isinstance(v, int | float) and math.isfinite(v) else math.nan for v in values]


def panel(
    key: str,
    rows: Sequence[Mapping[str, Any]],
    episodes: int | None = None,
    alarm: bool = False,
    step: str = "iteration",
) -> Panel:
    """Return the curve of one metric, which must be a number in some row.

    Args:
        key: key of the metric.
        rows: rows of ``metrics.jsonl``.
        episodes: behind each row's means, which Student's band depends on; None for many.
        alarm: the metric is one that training warned of.
        step: the unit of a row.
    """
    name = key.rpartition("/")[2]
    described = DIAGNOSTICS.get(key) or ROLLOUT.get(key) or metric(name)
    if COMPONENTS in key and name not in METRICS:
        described = Metric(name, "logged with the score")
    y = column(rows, key)
    sem = column(rows, f"{key}_sem") if any(f"{key}_sem" in row for row in rows) else None
    has_tokens = any(TOKENS_KEY in row for row in rows)
    x = column(rows, TOKENS_KEY) if has_tokens else [float(index) for index in range(len(rows))]
    first, last = ends(y)
    if is_lost(rows[-1].get(key)):
        last = "NaN"
    svg = training_curve(x, y, sem, described.label, "tokens" if has_tokens else f"{step}s", episodes)
    kind = name if key in (*HEADLINES, *EVALUATED) or name == "gold" else "other"
    return Panel(described, kind, first, last, svg, alarm or last == "NaN")


def is_lost(value: Any) -> bool:
    """Return True for a logged number that is NaN or infinite."""
    return isinstance(value, float) and not is_finite(value)


def ends(y: Sequence[float]) -> tuple[str, str]:
    """Return the first and the last finite value, with equally many decimal places; a single one is only the last."""
    finite = [value for value in y if math.isfinite(value)]
    pair = finite[0], finite[-1]
    # Places by the larger of both, so that the pair is aligned.
    size = max(map(abs, pair))
    places = max(2 - exponent(size), 0) if 1e-3 <= size < 1e9 else None
    return number(pair[0], places) if len(finite) > 1 else "", number(pair[1], places)


def loss_curve(losses: Any) -> str | None:
    """Return the loss of a reward model by step; None where it was not logged."""
    if not losses:
        return None
    return training_curve(range(1, len(losses) + 1), losses, label="Loss of the reward model", x_label="steps")


@dataclass(frozen=True)
class RatioCheck:
    """The check that training uses what was sampled: the ratio of the first minibatch must be 1."""

    largest: float
    tolerance: float = RATIO_TOLERANCE

    @property
    def passed(self) -> bool:
        return self.largest <= self.tolerance


def ratio_check(rows: Sequence[Mapping[str, Any]]) -> RatioCheck | None:
    """Return the largest ratio error of the run; None where it was not logged."""
    errors = [abs(value) for value in column(rows, RATIO_ERROR) if math.isfinite(value)]
    return RatioCheck(max(errors)) if errors else None


# -- Samples ---------------------------------------------------------------------------------------


# --- samples ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """A token on the page: ``gap`` is the white space before it, which stays uncoloured."""

    gap: str
    ink: str
    colour: str
    title: str
    own: bool = True


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


def before_and_after(samples: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Pair the samples: the i-th response to a prompt before training with the i-th after it."""
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
    """Return a row of ``samples.jsonl`` as the page shows it.

    A token has the deepest colour where its reward is ``scale``.
    """
    tokens, rewards = sample.get("tokens", []), sample.get("token_rewards") or []
    own = sample.get("own") or [True] * len(tokens)
    shown = [
        _token(token, reward, scale, f"token {index} of {len(tokens)}")
        if mine
        else replace(_token(token, None, scale, f"token {index} of {len(tokens)}: the other side's"), own=False)
        for index, (token, reward, mine) in enumerate(zip_longest(tokens, rewards[: len(tokens)], own), start=1)
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
    return Token(text[: len(text) - len(ink)], ink, css_tint(level) if level else "", title)


# -- Settings --------------------------------------------------------------------------------------


# --- figures and settings --------------------------------------------------------------------------------------


def facts(
    config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the facts under the title: the task, the seed, and the amount of training and evaluation."""
    tokens = [value for value in column(rows, TOKENS_KEY) if math.isfinite(value)]
    command = str(config.get("command") or "")
    done = max((int(row.get("iteration", 0)) for row in rows), default=0) if command in STEP_NAMES else len(rows)
    episodes = max((entry.get("n", 0) for entry in _entries(evaluation)), default=0) or evaluation.get("episodes")
    found = {
        "task": config.get("task"),
        "seed": config.get("seed"),
        f"{STEP_NAMES.get(command, 'iteration')}s": number(done),
        "tokens": number(tokens[-1], 0) if tokens else None,
        "held-out prompts": _counted(evaluation.get("prompts")) if command == "reward-model" else None,
        "bad rows left out": evaluation.get("skipped_rows"),
        "rows dropped as too long": evaluation.get("dropped_rows"),
        "prompts shortened": evaluation.get("shortened_rows"),
        "evaluated on": f"{number(episodes)} episode{'' if episodes == 1 else 's'}" if episodes else None,
    }
    return [(label, str(value)) for label, value in found.items() if value is not None]


def _counted(count: int | None) -> str | None:
    return None if count is None else number(count)


def _entries(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the measures of responses, before training and after."""
    stages = [evaluation.get(stage) for stage in ("before", "after")]
    found = [stage.get(name) for stage in stages if isinstance(stage, dict) for name in ("length", "kl", "score")]
    return [entry for entry in found if isinstance(entry, dict)]


def best_kept(note: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the iteration that is kept as the best, from the note beside its checkpoint; empty without one."""
    if not note:
        return []
    name = str(note["metric"]).removeprefix("min-")
    return [("best kept", f"iteration {note['iteration']} ({name} {number(note['mean'])})")]


def tables(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the settings as tables: one of plain values, then one for each nested object."""
    plain = {key: value for key, value in config.items() if not isinstance(value, dict)}
    nested = {key: value for key, value in config.items() if isinstance(value, dict)}
    groups = {"run": plain, **nested}
    return [(name, list(_flat(group))) for name, group in groups.items() if group]


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield the entries of nested objects under dotted names."""
    for key, value in group.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
