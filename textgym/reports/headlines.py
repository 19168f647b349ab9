"""The headline of a run's report and its explanation, by the command and by the state of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textgym.intervals import half_width
from textgym.reports.before_after import Change, change_headline, explain_changes, kl_sentence, with_interval
from textgym.reports.formatting import NBSP, count_of, is_finite, number, percent
from textgym.reports.heldout_accuracy import CHANCE, HeldOutAccuracy, accuracy_explained, accuracy_headline

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Preferences:
    """Words for the held-out measures of a command that learns from preferences.

    Attributes:
        counted: what its examples are.
        margin: the difference that a margin is.
        accuracy: explanation of the pairs that it orders; may be empty.
    """

    counted: str
    margin: str
    accuracy: str = ""


PREFERENCES: Mapping[str, Preferences] = {
    "dpo": Preferences("pair", "chosen less rejected"),
    "kto": Preferences(
        "completion",
        "desirable less undesirable",
        "A pair is a desirable and an undesirable completion, of any two prompts.",
    ),
}
"""By command."""
STEP_NAMES = {"sft": "epoch", **dict.fromkeys(PREFERENCES, "epoch"), "reward-model": "step", "tamer": "step"}
"""The unit of a row of ``metrics.jsonl`` by command, where it is not an iteration."""


@dataclass(frozen=True)
class Headline:
    """The title of a page and its explanation."""

    title: str
    explanation: str


@dataclass(frozen=True)
class RunSummary:
    """The contents of a run directory that the headline depends on.

    Attributes:
        command: the command that made the run, or empty.
        algorithm: as a reader calls it.
        task: its name.
        rows: rows of ``metrics.jsonl``.
        comparisons: metrics before and after.
        kept: contents of ``kept.json``: the ``epoch`` whose model was kept, and the criterion ``by``.
        judged: held-out accuracy of a reward model.
        stopped: of ``stopped.json``: the ``iteration`` and the ``reason``; empty if the run was not stopped.
        finished: True if the run has its final evaluation.
    """

    command: str
    algorithm: str
    task: str
    rows: Sequence[_Row]
    comparisons: Sequence[Change]
    kept: Mapping[str, Any]
    judged: HeldOutAccuracy
    stopped: Mapping[str, Any]
    finished: bool

    @property
    def step(self) -> str:
        """The unit that a row of metrics is about."""
        return STEP_NAMES.get(self.command, "iteration")


def run_headline(run: RunSummary) -> Headline:
    """Return the headline of a run and its explanation."""
    if not run.finished and (run.stopped or run.command):
        return _cut_short(run)
    if run.command == "reward-model":
        return Headline(accuracy_headline(run.judged), accuracy_explained(run.judged))
    if run.command == "sft" and (found := _losses(run)):
        return _sft(run, *found)
    if run.command in PREFERENCES and _measured(run.rows, "validation/accuracy"):
        return _preferences(run)
    if run.command == "distill" and run.comparisons and run.comparisons[0].name == "kl":
        return _distill(run.comparisons)
    if run.comparisons and run.comparisons[0].name != "kl":
        return Headline(change_headline(run.algorithm, run.comparisons), explain_changes(run.comparisons))
    return Headline(f"{run.algorithm} on {run.task}", explain_changes(run.comparisons) if run.comparisons else "")


def stop_sentence(stopped: Mapping[str, Any], step: str) -> str:
    """Return a sentence about where and why a run stopped; empty if it did not."""
    if not stopped:
        return ""
    reason = str(stopped.get("reason") or "no reason is noted").rstrip(". \n")
    return f"Stopped{_at(stopped, step)}: {reason}."


def _at(stopped: Mapping[str, Any], step: str) -> str:
    """Return the step at which a run stopped, for a sentence; empty if that is unknown."""
    iteration = stopped.get("iteration")
    return "" if iteration is None else f" at {step} {iteration}"


def _cut_short(run: RunSummary) -> Headline:
    rows = max((int(row.get("iteration", 0)) for row in run.rows), default=0)
    done = count_of(rows, run.step)
    if run.stopped:
        title = f"{run.algorithm} stopped{_at(run.stopped, run.step)}"
        return Headline(title, f"It logged {done}; what it would have learned was not measured.")
    title = f"{run.algorithm} on {run.task}: not finished"
    return Headline(title, f"It has logged {done} so far; what it learned has not been measured yet.")


# -- SFT ---------------------------------------------------------------------------------------------


def _losses(run: RunSummary) -> tuple[float, float, int] | None:
    """Return the validation loss before training and of the kept epoch, and that epoch; None if one is missing."""
    known = _loss_by_epoch(run.rows)
    kept = run.kept.get("epoch", max(known, default=0))
    return (known[0], known[kept], kept) if 0 in known and kept in known else None


def _loss_by_epoch(rows: Sequence[_Row]) -> dict[int, float]:
    found = {int(row.get("iteration", 0)): row.get("validation/loss") for row in rows}
    return {epoch: float(loss) for epoch, loss in found.items() if loss is not None and is_finite(loss)}


def _sft(run: RunSummary, before: float, after: float, kept: int) -> Headline:
    first, last = number(before, 3), number(after, 3)
    if first == last:
        title = f"No change in validation loss: {first} nats per token before SFT, {last} after"
    else:
        way = "lowered" if after < before else "raised"
        title = f"SFT {way} the validation loss from {first} to {last} nats per token"
    epochs = max(int(row.get("iteration", 0)) for row in run.rows)
    by = {"loss": "validation loss", "score": "the score of its samples"}.get(str(run.kept.get("by")))
    sentences = []
    if kept == 0:
        sentences.append(f"No epoch of {epochs} was better: the model as it was before training is kept.")
    elif by is not None:
        sentences.append(f"Epoch {kept} of {epochs} is kept, chosen by {by}.")
        losses = _loss_by_epoch(run.rows)
        lowest = min(losses, key=losses.__getitem__)
        if lowest != kept:
            sentences.append(f"The loss was lowest after epoch {lowest}: {number(losses[lowest], 3)}.")
    sentences += _samples_moved(run.comparisons)
    return Headline(title, " ".join(sentences))


def _samples_moved(comparisons: Sequence[Change]) -> list[str]:
    """Return sentences about the reward of samples and their KL, where these were measured."""
    by_name = {row.name: row for row in comparisons}
    found = []
    judge = by_name.get("gold") or by_name.get("score")
    if judge is not None:
        moved = {1: "rose", -1: "fell", 0: "did not clearly move"}[judge.direction]
        before, after = (number(e.mean, judge.places) for e in (judge.before, judge.after))
        change = with_interval(judge.change, judge.places, sign=True)
        found.append(f"The {judge.metric.label.lower()} of samples {moved}, from {before} to {after} ({change}).")
    if kl := by_name.get("kl"):
        found.append(kl_sentence(kl))
    return found


# -- distillation ------------------------------------------------------------------------------------


def _distill(comparisons: Sequence[Change]) -> Headline:
    """Return the KL to the teacher before and after, and what became of the reward of samples."""
    kl, others = comparisons[0], comparisons[1:]
    before, after = (number(e.mean, kl.places) for e in (kl.before, kl.after))
    if kl.clear:
        way = {-1: "lowered", 1: "raised"}[kl.direction]
        title = f"Distillation {way} the KL to the teacher from {before} to {after} nats per response"
    else:
        title = (
            f"No clear change in the KL to the teacher: {before} nats per response before distillation, {after} after"
        )
    left = f"The student ended {with_interval(kl.after, kl.places)} nats per response away from its teacher."
    return Headline(title, " ".join([left, *_samples_moved(others)]))


# -- DPO and KTO ---------------------------------------------------------------------------------------------


def _measured(rows: Sequence[_Row], key: str) -> bool:
    return any(is_finite(row.get(key)) for row in rows)


def _preferences(run: RunSummary) -> Headline:
    words = PREFERENCES[run.command]
    last = [row for row in run.rows if is_finite(row.get("validation/accuracy"))][-1]
    margin = float(last["validation/margin"])
    half = half_width(last.get("validation/margin_sem"), last.get("validation/prompts"))
    spread = "" if half is None else f"{NBSP}±{NBSP}{number(half, 3)}"
    sentences = [
        *([words.accuracy] if words.accuracy else []),
        f"Before training it is {percent(0.5)}, which is chance, as no response is preferred yet.",
        f"The margin of implicit rewards, {words.margin}, is {number(margin, 3, sign=True)}{spread}.",
    ]
    if prompts := last.get("validation/prompts"):
        examples = count_of(last[f"validation/{words.counted}s"], words.counted)
        counted = f"{count_of(prompts, 'held-out prompt')} with {examples}"
        sure = "there is no interval of a single prompt" if prompts == 1 else "intervals are over prompts"
        sentences.append(f"Measured on {counted}; {sure}.")
    sentences += _samples_moved(run.comparisons)
    return Headline(_accuracy_title(run.algorithm, last), " ".join(sentences))


def _accuracy_title(algorithm: str, last: _Row) -> str:
    """Return the held-out accuracy with its interval, as a title."""
    accuracy = percent(float(last["validation/accuracy"]))
    ends = [last.get(f"validation/accuracy_{end}") for end in ("low", "high")]
    low, high = (None if end is None else float(end) for end in ends)
    if low is None or high is None:
        alone = ", of a single prompt" if last.get("validation/prompts") == 1 else ""
        return f"{algorithm} orders {accuracy} of held-out pairs as labelled{alone}"
    bounds = f" ({number(100 * low, 1)} … {number(100 * high, 1)}{NBSP}% at 95{NBSP}%)"
    if low > CHANCE:
        return f"{algorithm} orders {accuracy} of held-out pairs as labelled{bounds}"
    if high < CHANCE:
        return f"{algorithm} made it worse: it orders {accuracy} of held-out pairs as labelled{bounds}"
    return f"No clear change in held-out accuracy: {accuracy} after {algorithm}{bounds}"
