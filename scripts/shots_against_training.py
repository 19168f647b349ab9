"""Zero-, one- and few-shot prompts against fine-tuning and reinforcement on two mini tasks, in one table.

Usage: python scripts/shots_against_training.py OUT [TOKENS] [SEEDS]

The base model of the mini tasks is asked with 0, 1 and more examples before each prompt, fine-tuned on 1,000
references, and trained by PPO on gold for TOKENS tokens, both with SEEDS seeds. All answer the same test prompts. OUT
keeps everything; a run that is complete there is not repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from textgym.benchmarks.analysis.statistics import mean_estimate
from textgym.cli import main as textgym
from textgym.commands.configs.evaluate import EvaluateConfig
from textgym.commands.evaluate import evaluate
from textgym.evaluation.measured import Measured
from textgym.evaluation.page import Result
from textgym.files import write_text
from textgym.intervals import Estimate
from textgym.reports.bench import markdown_table
from textgym.reports.findings import Table
from textgym.tasks.mini.miniature import BASE_MODEL

SHOTS = {"Translation": (0, 1, 3), "Concepts": (0, 1, 2)}
"""As many examples as fit into the 128 tokens of the base model."""
COLUMNS = {"gold": "gold", "grammatical": "grammatical", "kl": "KL", "length": "length", "self_bleu": "self-BLEU"}
FINE_TUNING = ("--count", "1000", "--epochs", "3", "--learning-rate", "1e-3", "--eval-episodes", "64")
REINFORCEMENT = ("--learning-rate", "1e-3", "--beta", "0.02", "--eval-episodes", "64")
PROMPTS = 256


def trained(task: str, out: Path, tokens: int, seed: int) -> dict[str, Path]:
    """Train by both ways, unless it was done; return the runs."""
    runs = {name: out / f"{task}-{name.lower()}-{seed}" for name in ("SFT", "RL")}
    common = ("--task", f"textgym/{task}-v0", "--seed", str(seed), "--overwrite")
    if not (runs["SFT"] / "report.html").exists():
        textgym(["sft", *common, "--reward", "gold", "--out", str(runs["SFT"]), *FINE_TUNING])
    if not (runs["RL"] / "report.html").exists():
        textgym(["train", *common, "--out", str(runs["RL"]), "--total-timesteps", str(tokens), *REINFORCEMENT])
    return runs


def rows_of(task: str, out: Path, tokens: int, seeds: int) -> list[tuple[str | Estimate | None, ...]]:
    """Return a row for each way to make the base model do a task."""
    asked = {"task": f"textgym/{task}-v0", "limit": PROMPTS}
    prompted = evaluate(EvaluateConfig(str(BASE_MODEL), shots=SHOTS[task], **asked))  # type: ignore[arg-type]
    rows = [(task, f"{result.shots}-shot", *map(over_prompts, cells(result))) for result in prompted]
    found: dict[str, list[Result]] = {"SFT": [], "RL": []}
    for seed in range(seeds):
        for name, run in trained(task, out, tokens, seed).items():
            found[name] += evaluate(EvaluateConfig(str(run), **asked))  # type: ignore[arg-type]
    for name, results in found.items():
        measured = zip(*map(cells, results), strict=True)
        rows.append((task, f"{name}, {seeds} seeds", *(over_seeds(column) for column in measured)))
    return rows


def cells(result: Result) -> list[Measured | None]:
    """Return the measures of the table."""
    return [result.measures.get(name) for name in COLUMNS]


def over_prompts(measured: Measured | None) -> Estimate | None:
    """Return a measure of one model, with its interval over prompts."""
    if measured is None or measured.value is None or measured.low is None or measured.high is None:
        return None
    return Estimate(measured.value, measured.low, measured.high)


def over_seeds(column: Sequence[Measured | None]) -> Estimate | None:
    """Return the mean of a measure over trained models, with Student's interval over their seeds."""
    values = [measured.value for measured in column if measured is not None and measured.value is not None]
    if len(values) < len(column):
        return None
    return mean_estimate(values)


def main(out: Path, tokens: int, seeds: int) -> None:
    rows = [row for task in SHOTS for row in rows_of(task, out, tokens, seeds)]
    note = (
        f"{PROMPTS} test prompts, one sample each. In parentheses 95 % intervals: over prompts for a model that was "
        "only prompted, over seeds for one that was trained."
    )
    table = Table("Shots against training", ("task", "model", *COLUMNS.values()), tuple(rows), note)
    write_text(out / "table.md", markdown_table(table) + "\n")
    print(markdown_table(table))


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[2:]]
    main(Path(sys.argv[1]), *given, *(100_000, 3)[len(given) :])
