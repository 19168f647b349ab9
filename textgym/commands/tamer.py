"""``textgym tamer``: learn a dense reward from people's feedback on single tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from textgym import runs
from textgym.commands.configs.tamer import TamerConfig
from textgym.commands.learner import learning_task, open_learner
from textgym.files import write_json, write_json_lines
from textgym.reports.formatting import count_of
from textgym.reports.run import write_report
from textgym.rewards.feedback.delays import Uniform
from textgym.rewards.feedback.model import FeedbackModel
from textgym.rewards.feedback.records import read_placed_feedback
from textgym.rewards.feedback.training import (
    CreditedResponse,
    encode_feedback,
    fit_feedback,
    measure_feedback,
    split_feedback,
)
from textgym.rewards.models.model import RewardModel
from textgym.rows import Screening


def tamer(config: TamerConfig) -> Path:
    """Check everything, then train; print the evaluation and return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something does not fit; nothing was written then.
    """
    config = runs.as_begun(config)
    about = {"command": "tamer", "algorithm": "tamer", **runs.settings_of(config)}
    with runs.claimed(config.out, about, config.overwrite, config.resume) as standing:
        if not standing.resumed:
            screening = Screening(skip_bad=config.skip_bad)
            model, learned, heldout = gather(config, screening)
            runs.begin_run(config.out, about, config.overwrite)
            runs.note_screening(config.out, screening)
            services = runs.opened_loggers(config.log, config.out)
            with runs.printed_warnings(), services as loggers, runs.stops_noted(config.out):
                _train(config, model, learned, heldout, screening, runs.Rows(loggers))
            runs.first_result(config.out)
        report = write_report(config.out)
    print(f"\n{summary(config.out)}\n\nmodel:  {config.out / runs.CHECKPOINT}\nreport: {report}")
    return report


def gather(
    config: TamerConfig, screening: Screening
) -> tuple[RewardModel, list[CreditedResponse], list[CreditedResponse]]:
    """Return the model as it begins, and the feedback to learn from and to measure on.

    Raises:
        ValueError: a row cannot be used, or no event can mean any token.
    """
    generator = torch.Generator().manual_seed(config.seed)
    learner = open_learner(config.model, learning_task(config))
    model = RewardModel.from_causal_lm(learner.model, learner.tokenizer, generator)
    model.set_special_tokens(config.special_tokens)
    found = read_placed_feedback(config.data, screening)
    examples = encode_feedback(model, found, Uniform(config.delay_low, config.delay_high), str(config.data), screening)
    return model, *split_feedback(examples, config.settings.heldout, generator)


def _train(
    config: TamerConfig,
    model: RewardModel,
    learned: Sequence[CreditedResponse],
    heldout: Sequence[CreditedResponse],
    screening: Screening,
    sent: runs.Rows,
) -> None:
    """Train and measure; the checkpoint is written last, so that it implies everything else."""
    generator = torch.Generator().manual_seed(config.seed)
    losses = fit_feedback(model, learned, config.settings, generator, on_step=lambda own: sent.send(_rows(own)))
    write_json_lines(config.out / "metrics.jsonl", _rows(losses))
    fitted = FeedbackModel(model)
    measured = measure_feedback(fitted, heldout) if heldout else {}
    sent.send_values({f"validation/{name}": value for name, value in measured.items()})
    every = [*learned, *heldout]
    counted = {
        "responses": len(every),
        "events": sum(len(example.values) for example in every),
        "events_without_credit": sum(example.without_credit for example in every),
        "delay": asdict(Uniform(config.delay_low, config.delay_high)),
    }
    write_json(config.out / "evaluation.json", {**counted, "heldout": measured, **screening.counts})
    fitted.save(config.out / runs.CHECKPOINT)


def _rows(losses: Sequence[float]) -> list[dict[str, float]]:
    return [{"iteration": step, "train/loss": loss} for step, loss in enumerate(losses, start=1)]


def summary(out: Path) -> str:
    """Return what was learned from, and the results on held-out prompts, one line a figure."""
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    delay, measured = found["delay"], found["heldout"]
    lines = [
        f"{count_of(found['events'], 'event')} of feedback on {count_of(found['responses'], 'response')}, credited to "
        f"tokens by a delay of {delay['low']:g} to {delay['high']:g} s"
    ]
    if found["events_without_credit"]:
        lines += [f"{count_of(found['events_without_credit'], 'further event')} can mean no token, and taught nothing"]
    if measured:
        lines += [
            f"held out: {count_of(int(measured['events']), 'event')}",
            f"  {'squared error':34}{measured['error']:8.3f}",
            f"  {'that of the mean':34}{measured['baseline']:8.3f}",
            f"  {'share of signs that are right':34}{measured['sign']:8.3f}",
        ]
    return "\n".join(lines)
