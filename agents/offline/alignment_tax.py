"""The alignment tax: increase of the loss on pretraining text and on other tasks' references during training.

Source of the term: Ouyang et al. 2022, section 4.2, arXiv:2203.02155.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from textgym.agents.offline.data import Demonstration, encode_demonstrations
from textgym.agents.offline.pretraining import pretraining_loss
from textgym.lm.files.loading import context_length
from textgym.lm.trunk import Trunk

Texts: TypeAlias = Mapping[str, Sequence[Demonstration]]
"""Texts to measure, by the name of their loss."""

PTX = "ptx_loss"
"""Name of the loss on held-out pretraining text."""
OF_TASK = "loss/"
"""Prefix of the losses on other tasks."""
OTHERS = f"{OF_TASK}others"
"""Name of their mean, in which every task has the same weight."""
OF_TEXTS = "texts/"
"""Prefix of the measures of sampled texts, such as their diversity."""
REFERENCES = 64
"""Number of reference texts of each other task: they take 0.1 s, with a standard error of about 3 %."""


def mini_corpus(
    tokenizer: PreTrainedTokenizerBase, end_token_id: int, stream: int, count: int
) -> tuple[Demonstration, ...]:
    """Draw ``count`` texts from the training distribution of the mini tasks' base model, keyed by ``stream``."""
    from textgym.tasks.mini.base_model import corpus  # the grammars of eight languages

    pairs = corpus(np.random.default_rng(stream), count)
    rows = [{"prompt": prompt, "completion": continuation} for prompt, continuation in pairs]
    return encode_demonstrations(rows, tokenizer, end_token_id, source="the mini tasks' corpus")


def other_references(
    task: str, tokenizer: PreTrainedTokenizerBase, end_token_id: int
) -> dict[str, tuple[Demonstration, ...]]:
    """Return reference texts of every mini task except ``task``, by the name of their loss; always the same texts.

    They are drawn from the languages directly, since loading seven tasks with their splits takes 12 seconds.
    """
    from textgym.tasks.mini.base_model import LANGUAGES  # the grammars of eight languages

    found = {}
    for language in LANGUAGES:
        if language.name == task:
            continue
        rng = np.random.default_rng(0)
        examples = [language.draw(rng) for _ in range(REFERENCES)]
        rows = [{"prompt": example.prompt, "completion": example.reference} for example in examples]
        source = f"references of {language.name}"
        found[f"{OF_TASK}{language.name}"] = encode_demonstrations(rows, tokenizer, end_token_id, source=source)
    return found


def fitting(trunk: Trunk, texts: Texts) -> Texts:
    """Return the kinds of text whose every text fits into the model's context."""
    limit = context_length(trunk.model)
    longest = {name: max(one.n_tokens for one in shown) for name, shown in texts.items()}
    return {name: shown for name, shown in texts.items() if limit is None or longest[name] <= limit}


def forgetting(trunk: Trunk, texts: Texts) -> dict[str, dict[str, float]]:
    """Compute the mean of −log π per token of each kind of text, in nats, and the mean over other tasks.

    Returns:
        ``mean``, ``sem`` (standard error) and ``n`` (number of texts) by the name of the loss.
    """
    found = {name: pretraining_loss(trunk, shown) for name, shown in texts.items()}
    others = [loss for name, loss in found.items() if name.startswith(OF_TASK)]
    if others:
        sem = math.hypot(*(loss["sem"] for loss in others)) / len(others)
        mean = sum(loss["mean"] for loss in others) / len(others)
        found[OTHERS] = {"mean": mean, "sem": sem, "n": min(loss["n"] for loss in others)}
    return found


def in_short(names: Iterable[str]) -> list[str]:
    """Return the names of measures without the losses on single tasks, whose mean stands for them, and of texts."""
    return [name for name in names if name == OTHERS or not name.startswith((OF_TASK, OF_TEXTS))]
