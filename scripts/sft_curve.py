"""Fine-tune on few demonstrations and draw the over-fitting: the figure and the table of docs/instruct.md.

Usage: python scripts/sft_curve.py TASK REWARD_MODEL OUT [FIGURE.svg]

TASK is a mini task, such as textgym/Reviews-v0, and REWARD_MODEL a run of ``textgym reward-model`` on it; OUT gets a
run of ``textgym sft`` for each seed, and the same command goes on where it was cut off.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.sft import sft
from textgym.files import read_json_lines
from textgym.registration import load_task

SEEDS = (0, 1, 2)
DEMONSTRATIONS = 500
VALIDATION = 256
SETTINGS = SFTSettings(epochs=16, learning_rate=1e-3)
PANELS = {
    "validation/loss": "validation loss",
    "validation/score": "reward model's score",
    "validation/gold": "gold",
    "validation/grammatical": "grammatical",
}
EPOCHS_SHOWN = (0, 1, 2, 4, 8, 12, 16)
COLOURS = ("#1f5fa8", "#c2571a", "#2f8f5b")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "textgym", "font.size": 9, "figure.facecolor": "white"}


def write_references(path: Path, task: str, split: str, count: int, seed: int) -> None:
    """Write some of the task's reference texts as a file of demonstrations."""
    prompts = load_task(task).prompts(split)
    chosen = [prompts[i] for i in np.random.default_rng(seed).choice(len(prompts), count, replace=False)]
    rows = [{"prompt": p.content, "completion": p.columns["reference"], **p.columns} for p in chosen]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(task: str, reward_model: str, out: Path, seed: int) -> None:
    """Train one seed for sixteen epochs, each scored by the reward model on the task's validation prompts."""
    data, validation = out / f"demonstrations-{seed}.jsonl", out / "validation.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    write_references(data, task, "train", DEMONSTRATIONS, seed)
    write_references(validation, task, "validation", VALIDATION, 0)
    place = out / f"seed-{seed}"
    sft(
        SFTConfig(
            out=place,
            data=data,
            validation=validation,
            task=task,
            reward=f"rm:{reward_model}",
            seed=seed,
            resume=place.exists(),
            settings=SETTINGS,
        )
    )


def read_rows(out: Path) -> list[list[dict[str, float]]]:
    """Return a row for each epoch, of each seed."""
    files = [read_json_lines(out / f"seed-{seed}" / "metrics.jsonl") for seed in SEEDS]
    return [[row for _, row in rows] for rows in files]


def draw(seeds: list[list[dict[str, float]]]) -> str:
    """Draw one panel a measure and one line a seed, as an SVG on white."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 2.9), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            for rows, colour in zip(seeds, COLOURS, strict=True):
                axes.plot([row["iteration"] for row in rows], [row[key] for row in rows], color=colour, linewidth=1.6)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("epoch")
            axes.grid(axis="y", color="#dddddd", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "".join(line.rstrip() + "\n" for line in file.getvalue().splitlines())


def table(seeds: list[list[dict[str, float]]]) -> str:
    """Return means over the seeds at some epochs, in Markdown."""
    lines = ["| epoch | " + " | ".join(PANELS.values()) + " |", "| ---: |" + " ---: |" * len(PANELS)]
    for epoch in EPOCHS_SHOWN:
        means = (f"{np.mean([rows[epoch][key] for rows in seeds]):.2f}" for key in PANELS)
        lines.append(f"| {epoch} | " + " | ".join(means).replace("-", "−") + " |")
    return "\n".join(lines)


def main(task: str, reward_model: str, out: Path, figure: Path | None) -> None:
    for seed in SEEDS:
        run(task, reward_model, out, seed)
    seeds = read_rows(out)
    if figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_text(draw(seeds), encoding="utf-8")
    print(table(seeds))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)
