"""Training in a run's directory, from the first measurement to the report."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import Logger

from textgym.agents.algorithm import SequenceAlgorithm
from textgym.benchmarks.report import write_report
from textgym.runs.directory import CHECKPOINT, Standing, first_result, read_kept
from textgym.runs.evaluator import Evaluator
from textgym.runs.recording import MetricsFile, SaveEvery, printed_warnings, stops_noted
from textgym.runs.stopping import StopAtBoundary


def train(
    algorithm: SequenceAlgorithm,
    out: Path,
    evaluator: Evaluator,
    total_timesteps: int,
    checkpoint_every: int,
    standing: Standing,
) -> Path:
    """Evaluate, train with checkpoints and metrics, evaluate again, and write the report.

    Args:
        algorithm: new, or from the run's checkpoint.
        out: the run's directory, which this process holds.
        evaluator: measures before and after.
        total_timesteps: tokens in all, those before a resume included.
        checkpoint_every: iterations between checkpoints.
        standing: how the run was found.

    Returns:
        The report's path.

    Raises:
        TrainingError: training diverged; ``stopped.json`` and ``stopped_batch.jsonl`` say where and on what.
        Stopped: a signal ended it; the last complete iteration is in the checkpoint.
    """
    algorithm.set_logger(Logger(str(out), [MetricsFile(out / "metrics.jsonl", algorithm.iteration)]))
    if "before" not in read_kept(out / "evaluation.json"):
        evaluator("before", algorithm)
    first_result(out)
    remaining = total_timesteps - algorithm.num_timesteps
    if remaining > 0:
        if standing.tokens_before is not None:
            print(_extension(algorithm, standing.tokens_before, total_timesteps))
        stop = StopAtBoundary()
        callbacks = [SaveEvery(out / CHECKPOINT, checkpoint_every), stop]
        with printed_warnings(), stops_noted(out, evaluator.mdp), stop.listening():
            algorithm.learn(remaining, callbacks, reset_num_timesteps=not standing.resumed, progress_bar=True)
    evaluator("after", algorithm)
    return write_report(out)


def _extension(algorithm: SequenceAlgorithm, before: int, total: int) -> str:
    """Say what more tokens mean for the learning rate, whose decay spans the whole run."""
    done = algorithm.num_timesteps
    rates = [algorithm.lr_schedule(max(0.0, 1 - done / tokens)) for tokens in (before, total)]
    return (
        f"--resume: {before} tokens in all become {total}, of which {done} are done. The learning rate is planned over "
        f"all of them: it goes on at {rates[1]:.3g} instead of {rates[0]:.3g}, so this is not the run that {total} "
        "tokens would have given from the start"
    )
