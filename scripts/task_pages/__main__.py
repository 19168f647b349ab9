"""``python -m scripts.task_pages``: write one Markdown page for each task, and their list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from scripts.task_pages.page import index, page
from scripts.task_pages.policies import Budget
from textgym.files import write_text
from textgym.tasks import TASKS


@dataclass(frozen=True)
class Pages:
    """Write a page for each task: its description, its reward, and the scores of simple policies."""

    out: Path
    """The folder."""
    task: tuple[str, ...] = tuple(TASKS)
    """Which tasks, by name."""
    responses: int = Budget.responses
    """Sampled by each policy."""
    references: int = Budget.references
    """Imitated by the fine-tuned base model; 0 for none."""
    seed: int = Budget.seed
    """Of everything random."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages."""
    settings = tyro.cli(Pages, args=arguments, prog="python -m scripts.task_pages")
    if unknown := [name for name in settings.task if name not in TASKS]:
        raise SystemExit(f"error: task={unknown} is unknown; expected some of {', '.join(TASKS)}")
    if settings.responses < 2 or settings.references < 0 or settings.seed < 0:
        raise SystemExit("error: expected at least 2 responses, and references and seed from 0")
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)  # as sums depend on it, and pages should not
    settings.out.mkdir(parents=True, exist_ok=True)
    budget = Budget(settings.responses, settings.references, settings.seed)
    for name in tqdm(settings.task, desc="pages", disable=None):
        write_text(settings.out / f"{name}.md", page(name, budget))
    write_text(settings.out / "README.md", index(tuple(TASKS), [path.stem for path in settings.out.glob("*.md")]))


if __name__ == "__main__":
    main()
