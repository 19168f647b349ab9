"""Training in a run's directory, from the first evaluation to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from textgym.agents.functional.stop_rules import LEAST, Row, StopRules
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.callbacks import EvaluateEvery, SaveCheckpoints, StopEarly, evaluation_row, log_evaluation
from textgym.agents.loop.kept import best_note
from textgym.agents.loop.slots import env_attribute
from textgym.evaluation.battery import watched_measures
from textgym.files import write_json
from textgym.reports.run import write_report
from textgym.runs.directory import Standing, first_result, read_kept
from textgym.runs.evaluator import Evaluator
from textgym.runs.loggers import Samples, opened_loggers
from textgym.runs.recording import MetricsFile, keep_evaluations, kept_evaluations, printed_warnings, stops_noted
from textgym.runs.stopping import StopAtBoundary
from textgym.runs.tables import interval
from textgym.types import Service

EARLY = "stopped_early"
"""Key in ``evaluation.json`` of the reason why a run ended before its last token."""


@dataclass(frozen=True)
class Keeping:
    """Settings of checkpoints, evaluations, logging and early stopping of a run.

    Attributes:
        checkpoint_every: iterations between checkpoints.
        keep_last: number of older checkpoints that are kept; None for none.
        eval_every: iterations between evaluations; None for none but before and after.
        keep_best: a metric of the evaluations, whose best iteration is kept; None for no best.
        stop: rules of early stopping.
        log: services that receive the metrics.
    """

    checkpoint_every: int
    keep_last: int | None = None
    eval_every: int | None = None
    keep_best: str | None = None
    stop: StopRules = field(default_factory=StopRules)
    log: Sequence[Service] = ()


def train(
    algorithm: SequenceAlgorithm,
    out: Path,
    evaluator: Evaluator,
    total_timesteps: int,
    keeping: Keeping,
    standing: Standing,
    further: Sequence[BaseCallback] = (),
) -> Path:
    """Evaluate, train with checkpoints and metrics, evaluate again, and write the report.

    Args:
        algorithm: new, or loaded from the run's checkpoint.
        out: the run's directory, locked by this process.
        evaluator: evaluates before and after, and in between if requested.
        total_timesteps: total number of tokens, those before a resume included.
        keeping: settings of checkpoints, evaluations, logging and early stopping.
        standing: state of the run's directory.
        further: callbacks of the command, called before each iteration after checkpoints and evaluations.

    Returns:
        The report's path.

    Raises:
        TrainingError: training diverged; ``stopped.json`` and ``stopped_batch.jsonl`` hold the reason and the batch.
        Stopped: a signal ended it; the last complete iteration is in the checkpoint.
    """
    done = algorithm.boundary_timesteps if standing.resumed else -1
    with printed_warnings(), opened_loggers(keeping.log, out, done) as loggers:
        algorithm.set_logger(Logger(str(out), [*loggers, MetricsFile(out / "metrics.jsonl", algorithm.iteration)]))
        # A resumed run keeps its first evaluation, which the present policy could not reproduce.
        if "before" not in read_kept(out / "evaluation.json"):
            evaluator("before", algorithm)
        first_result(out)
        if not standing.resumed:
            row = _log_stage(algorithm, out, "before")
            keep_evaluations(out, [without_losses(row)] if keeping.eval_every else [])
        evaluation = _learn(algorithm, out, evaluator, total_timesteps, keeping, standing, further)
        finished = "after" in read_kept(out / "evaluation.json")
        evaluator("after", algorithm, evaluation.of(algorithm.iteration) if evaluation else None)
        if not finished:
            _log_stage(algorithm, out, "after", evaluation.rows if evaluation else ())
    return write_report(out)


def _log_stage(algorithm: SequenceAlgorithm, out: Path, stage: str, evaluations: Sequence[Row] = ()) -> Row:
    """Log the evaluation of a stage with samples, except values that periodic evaluations logged; return its row."""
    summary = read_kept(out / "evaluation.json")[stage]
    row = evaluation_row(algorithm.iteration, algorithm.boundary_timesteps, summary)
    algorithm.logger.record(f"samples/{stage}", Samples.of(out, stage))
    logged = next((known for known in evaluations if known["iteration"] == algorithm.iteration), {})
    log_evaluation(algorithm, {name: row[name] for name in row if name not in logged}, algorithm.boundary_timesteps)
    return row


def without_losses(row: Row) -> Row:
    """Return an evaluation without the losses, which are measured only before and after training."""
    return {name: value for name, value in row.items() if not name.startswith("validation/loss/")}


def _learn(
    algorithm: SequenceAlgorithm,
    out: Path,
    evaluator: Evaluator,
    total_timesteps: int,
    keeping: Keeping,
    standing: Standing,
    further: Sequence[BaseCallback],
) -> EvaluateEvery | None:
    """Train the remaining tokens and record an early stop; return the callback of periodic evaluations, if any."""
    evaluation, early, callbacks = None, None, list[BaseCallback]()
    if keeping.eval_every is not None:
        rows = kept_evaluations(out, algorithm.iteration, keeping.eval_every)
        evaluation = EvaluateEvery(
            evaluator.mdp,
            keeping.eval_every,
            evaluator.n_episodes,
            evaluator.seed,
            rows,
            partial(keep_evaluations, out),
            further=watched_measures,
        )
        early = StopEarly(evaluation, keeping.stop)
        early.stopped = keeping.stop.reason(rows)
        callbacks = [evaluation, early]
    saves = SaveCheckpoints(out, keeping.checkpoint_every, keeping.keep_last, evaluation, keeping.keep_best)
    # A run that was killed between an evaluation and the checkpoint of its iteration may lack the best one.
    saves.catch_up(algorithm.iteration)
    remaining = total_timesteps - algorithm.num_timesteps
    resting = remaining > 0 and early is not None and early.stopped is not None
    if early and resting:
        print(f"--resume: the run stopped early, as {early.stopped}; to train on, pass another --stop-… flag, or none")
    elif remaining > 0:
        # The results after the previous end are not those of the longer run.
        evaluator.forget("after")
        if standing.tokens_before is not None:
            print(_extension(algorithm, standing.tokens_before, total_timesteps))
        stop = StopAtBoundary()
        assert algorithm.env is not None
        with stops_noted(out, env_attribute(algorithm.env, "mdp")), stop.listening():
            callbacks += [saves, *further, stop]
            algorithm.learn(remaining, callbacks, reset_num_timesteps=not standing.resumed, progress_bar=True)
    reason = algorithm.ended or (early.stopped if early else None)
    if remaining > 0 and reason and not resting:
        print(f"stopped early: {reason}")
    note_early_stop(out, reason if remaining > 0 else None)
    return evaluation


def _extension(algorithm: SequenceAlgorithm, before: int, total: int) -> str:
    """Explain the effect of additional tokens on the learning rate, whose decay spans the whole run."""
    done = algorithm.num_timesteps
    # The schedule maps the remaining share of training, from 1 to 0, to a rate.
    rates = [algorithm.lr_schedule(max(0.0, 1 - done / tokens)) for tokens in (before, total)]
    return (
        f"--resume: {before} tokens in all become {total}, of which {done} are done. The learning rate is planned over "
        f"all of them: it continues at {rates[1]:.3g} instead of {rates[0]:.3g}, so this is not the run that {total} "
        "tokens would have given from the start"
    )


def note_early_stop(out: Path, reason: str | None) -> None:
    """Record in ``evaluation.json`` the reason for an early stop; None removes it."""
    kept = read_kept(out / "evaluation.json")
    kept.pop(EARLY, None)
    write_json(out / "evaluation.json", {**kept, EARLY: reason} if reason else kept)


def best_line(out: Path) -> str:
    """Describe the best checkpoint of a run, its path and its metric, in one line; empty if none is kept."""
    note = best_note(out / "best")
    if note is None:
        return ""
    name = note["metric"].removeprefix(LEAST)
    before = read_kept(out / "evaluation.json").get("before", {}).get(name)
    since = f"; before training {interval(before)}" if before else ""
    return f"{out / 'best'} (iteration {note['iteration']}, {name} {interval(note)}{since})"
