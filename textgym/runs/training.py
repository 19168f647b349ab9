"""Training in a run's directory, from the first measurement to the report."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.logger import Logger

from textgym.agents.algorithm import SequenceAlgorithm
from textgym.benchmarks.report import write_report
from textgym.runs.directory import CHECKPOINT, read_kept
from textgym.runs.evaluator import Evaluator
from textgym.runs.recording import MetricsFile, SaveEvery, printed_warnings


def train(
    algorithm: SequenceAlgorithm,
    out: Path,
    evaluator: Evaluator,
    total_timesteps: int,
    checkpoint_every: int,
    resumed: bool,
) -> Path:
    """Evaluates, trains with checkpoints and metrics, evaluates again, and writes the report.

    Returns:
        The report's path.
    """
    algorithm.set_logger(Logger(str(out), [MetricsFile(out / "metrics.jsonl", algorithm.iteration)]))
    if "before" not in read_kept(out / "evaluation.json"):
        evaluator("before", algorithm)
    remaining = total_timesteps - algorithm.num_timesteps
    if remaining > 0:
        callback = SaveEvery(out / CHECKPOINT, checkpoint_every)
        with printed_warnings():
            algorithm.learn(remaining, callback, reset_num_timesteps=not resumed, progress_bar=True)
    evaluator("after", algorithm)
    return write_report(out)
