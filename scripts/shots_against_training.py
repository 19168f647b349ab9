"""Zero-, one- and few-shot prompts against fine-tuning and reinforcement on two mini tasks, in one table.

Usage: python scripts/shots_against_training.py OUT [TOKENS]

The base model of the mini tasks is asked with 0, 1 and more examples before each prompt, fine-tuned on 1,000
references, and trained by PPO on gold for TOKENS tokens. All answer the same test prompts. OUT keeps everything.
"""

from __future__ import annotations

import sys
from pathlib import Path

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


def trained(task: str, out: Path, tokens: int) -> dict[str, Path]:
    """Train by both ways, unless it was done; return the runs."""
    runs = {"SFT": out / f"{task}-sft", "RL": out / f"{task}-rl"}
    whole = f"textgym/{task}-v0"
    if not (runs["SFT"] / "report.html").exists():
        textgym(["sft", "--task", whole, "--reward", "gold", "--out", str(runs["SFT"]), "--overwrite", *FINE_TUNING])
    if not (runs["RL"] / "report.html").exists():
        given = ("--total-timesteps", str(tokens), *REINFORCEMENT)
        textgym(["train", "--task", whole, "--out", str(runs["RL"]), "--overwrite", *given])
    return runs


def rows_of(task: str, out: Path, tokens: int) -> list[tuple[str | Estimate | None, ...]]:
    """Return a row for each way to make the base model do a task."""
    asked = {"task": f"textgym/{task}-v0", "limit": PROMPTS}
    found = {
        f"{result.shots}-shot": result
        for result in evaluate(EvaluateConfig(str(BASE_MODEL), shots=SHOTS[task], **asked))  # type: ignore[arg-type]
    }
    for name, run in trained(task, out, tokens).items():
        (found[name],) = evaluate(EvaluateConfig(str(run), **asked))  # type: ignore[arg-type]
    return [(task, name, *cells(result)) for name, result in found.items()]


def cells(result: Result) -> list[Estimate | None]:
    """Return the measures of the table."""
    return [_cell(result.measures.get(name)) for name in COLUMNS]


def _cell(measured: Measured | None) -> Estimate | None:
    if measured is None or measured.value is None or measured.low is None or measured.high is None:
        return None
    return Estimate(measured.value, measured.low, measured.high)


def main(out: Path, tokens: int) -> None:
    rows = [row for task in SHOTS for row in rows_of(task, out, tokens)]
    note = f"{PROMPTS} test prompts, one sample each; in parentheses 95 % intervals over prompts."
    table = Table("Shots against training", ("task", "model", *COLUMNS.values()), tuple(rows), note)
    write_text(out / "table.md", markdown_table(table) + "\n")
    print(markdown_table(table))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
