"""Texts of ``textgym train --pretraining``: those learned beside the reward, and those that measure forgetting."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from textgym.agents.offline.alignment_tax import PTX, Texts, fitting, mini_corpus, other_references
from textgym.agents.offline.data import Demonstration, task_demonstrations
from textgym.agents.offline.likelihood import check_readable
from textgym.agents.offline.pretraining import encode_texts
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import names_encoder_decoder
from textgym.lm.trunk import Trunk
from textgym.rows import BadRowError, Screening, read_placed_rows
from textgym.tasks import MINI
from textgym.tasks.mini.miniature import shared_tokenizer
from textgym.tasks.task import Task
from textgym.tokenization import trained_end
from textgym.types import SpecialTokens

HELD_OUT = 0.1  # share of a file's texts that only measure
MOST_HELD_OUT = 512
MINI_TEXTS = 8192  # drawn once: enough for a run of some hundred updates to see few of them twice


def pretraining_texts(
    source: str,
    task: Task | None,
    mdp: TokenMDP,
    special_tokens: SpecialTokens = "text",
    screening: Screening | None = None,
) -> tuple[tuple[Demonstration, ...], tuple[Demonstration, ...]]:
    """Return texts to learn, and others to measure forgetting on: the same ones for every seed of the run.

    Args:
        source: a file of texts; ``"task"`` for the task's references; or ``"mini"`` for what the base model of the
            mini tasks learned from.
        task: the run's, where it has one.
        mdp: source of the tokenizer, the end token, and the length P + T of a piece of text.
        special_tokens: treatment of strings of special tokens in a file.
        screening: accounts for rows without text; without it they are errors.

    Raises:
        ValueError, FileNotFoundError: there is no text; the file is named, and the row where one is at fault.
    """
    end = trained_end(mdp.tokenizer, mdp.end_token_ids)
    if source == "task":
        return _references(task, mdp, end)
    if source == "mini":
        return mini_corpus(mdp.tokenizer, end, 0, MINI_TEXTS), mini_corpus(mdp.tokenizer, end, 1, MOST_HELD_OUT)
    learned, measured = _split(read_texts(Path(source), screening), source)
    return (
        encode_texts(learned, mdp.tokenizer, end, mdp.width, source, special_tokens),
        encode_texts(measured, mdp.tokenizer, end, mdp.width, source, special_tokens),
    )


def measured_texts(task: Task | None, mdp: TokenMDP, held_out: tuple[Demonstration, ...], trunk: Trunk) -> Texts:
    """Return the texts to measure before and after, by the names of their losses: held-out text and other tasks.

    In a run on a mini task that is the references of the seven others, where the model has the mini tasks' vocabulary
    and a context for them. Without held-out text nothing is measured.

    Raises:
        ValueError: the model cannot read the held-out text.
    """
    if not held_out:
        return {}
    check_readable(trunk.model, held_out, "held-out text")
    if task is None or task.name not in MINI or mdp.tokenizer.get_vocab() != shared_tokenizer().get_vocab():
        return {PTX: held_out}
    others = other_references(task.name, mdp.tokenizer, trained_end(mdp.tokenizer, mdp.end_token_ids))
    return {PTX: held_out, **fitting(trunk, others)}


def read_texts(path: Path, screening: Screening | None = None) -> list[str]:
    """Return the texts of a file: those in the column ``text``, or each line of a ``.txt`` that is not blank.

    Args:
        path: the file.
        screening: accounts for rows without text; without it they are errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no text, or a row has none. Rows are counted from 1.
    """
    if not path.exists():
        raise FileNotFoundError(f"pretraining={str(path)!r}: no such file; expected .jsonl, .txt, 'task' or 'mini'")
    if path.suffix == ".txt":
        try:
            texts = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error})") from error
    else:
        empty = path.is_file() and path.stat().st_size == 0
        texts = [] if empty else _texts(path, screening or Screening())
    if not texts:
        raise ValueError(f"pretraining={str(path)!r} has no text; expected at least two")
    return texts


def _texts(path: Path, screening: Screening) -> list[str]:
    found: list[str] = []
    for place, row in read_placed_rows(path, screening).items():
        with screening.row(place):
            found.append(_text(row))
    screening.require_some(found, str(path))
    return found


def _text(row: dict[str, object]) -> str:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        said = f"text is {text!r:.80}" if "text" in row else f"no field 'text'; got the fields {sorted(row)}"
        raise BadRowError(f"{said}; expected a text that is not empty")
    return text


def _split(texts: list[str], source: str) -> tuple[list[str], list[str]]:
    """Return texts to learn, and some that are none of them."""
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 2:
        raise ValueError(f"pretraining={source!r} has a single text, of which none can be held out; expected more")
    count = min(max(1, round(HELD_OUT * len(distinct))), MOST_HELD_OUT)
    aside = {distinct[i] for i in np.random.default_rng(0).choice(len(distinct), count, replace=False)}
    return [text for text in texts if text not in aside], [text for text in distinct if text in aside]


def _references(
    task: Task | None, mdp: TokenMDP, end: int
) -> tuple[tuple[Demonstration, ...], tuple[Demonstration, ...]]:
    if task is None:
        raise ValueError("pretraining='task' takes the references of a task; pass --task ID, or a file of texts")
    tokenizer = None if mdp.tokenizer is task.tokenizer else mdp.tokenizer
    closing = mdp.base_model is not None and names_encoder_decoder(mdp.base_model)
    splits = ("train", "validation")
    learned, measured = (task_demonstrations(task, split, end, tokenizer, closing=closing) for split in splits)
    return learned, measured[:MOST_HELD_OUT]
