"""PPO-ptx: pretraining text in every update, against the loss of general language ability.

Equation 2 of Ouyang et al. 2022, arXiv:2203.02155: the objective gains γ·E[log π(x)] over pretraining text x. The loop
adds it, not an algorithm, so that every algorithm supports it. Here E is a mean over *tokens*, in nats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from textgym.agents.offline.data import Demonstration
from textgym.agents.offline.likelihood import check_readable, log_likelihood
from textgym.lm.trunk import Trunk
from textgym.numbers import check, count, finite
from textgym.tokenization import encode_content, warn_of_special_strings
from textgym.types import Prompt, SpecialTokens

STREAM = 0x707478
"""Separates the draws of texts from other random streams of the same seed."""


@dataclass(frozen=True)
class Pretraining:
    """Pretraining text whose likelihood every update also raises.

    Attributes:
        texts: the texts to draw from; the tokens of their prompts are not trained. See :func:`encode_texts`.
        coefficient: γ, the weight of the mean of −log π over the tokens of a batch. Published: 27.8, with a reward
            model's score at 175 billion parameters. At 0 the loss is measured but not trained on.
        batch_size: number of texts in each update.
    """

    texts: tuple[Demonstration, ...]
    coefficient: float = 0.1
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("pretraining: there is no text; expected at least one")
        check(self, finite, "coefficient", low=0)
        check(self, count, "batch_size")

    def draw(self, seed: int, update: int) -> list[Demonstration]:
        """Draw an update's texts without replacement; a pure function, so that a resumed run needs only its counter."""
        size = min(self.batch_size, len(self.texts))
        rows = np.random.default_rng([STREAM, seed, update]).choice(len(self.texts), size, replace=False)
        return [self.texts[row] for row in rows]

    def loss(self, trunk: Trunk, seed: int, update: int) -> Tensor:
        """Compute the mean of −log π over the trained tokens of an update's texts; it has a gradient unless γ is 0."""
        with torch.set_grad_enabled(self.coefficient > 0 and torch.is_grad_enabled()):
            log_probs, valid = log_likelihood(trunk, self.draw(seed, update))
            return -log_probs.sum() / valid.sum()

    def described(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the settings, and a digest in place of the texts."""
        digest = hashlib.sha256()
        for shown in self.texts:
            digest.update(np.array([-1, *shown.prompt.ids, -2, *shown.response_ids], np.int64).tobytes())
        return {
            "coefficient": self.coefficient,
            "batch_size": self.batch_size,
            "n_texts": len(self.texts),
            "digest": digest.hexdigest(),
        }


def check_same(kept: dict[str, Any] | None, given: Pretraining | None) -> None:
    """Check that a run resumes with the pretraining text that it began with.

    Args:
        kept: the checkpoint's :meth:`Pretraining.described`, or None.
        given: the pretraining to resume with, or None.

    Raises:
        ValueError: they differ; the difference is named.
    """
    found = None if given is None else given.described()
    if kept == found:
        return
    if kept is None or found is None:
        has, lacks = ("the checkpoint", "this call") if found is None else ("this call", "the checkpoint")
        raise ValueError(
            f"pretraining: {has} has one and {lacks} has none; pass the run's own to load(…, pretraining=…)"
        )
    changed = ", ".join(f"{key}: {kept[key]} there, {found[key]} here" for key in kept if kept[key] != found[key])
    raise ValueError(f"pretraining: it differs from the checkpoint's ({changed}); pass the run's own")


def encode_texts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int | None,
    max_length: int,
    source: str = "pretraining",
    special_tokens: SpecialTokens = "text",
) -> tuple[Demonstration, ...]:
    """Encode running text as demonstrations; every token except a text's first is trained, the end token included.

    Args:
        texts: documents. Long ones are cut into pieces, each beginning with the last token of the previous one.
        tokenizer: the model's tokenizer, with the special tokens that it adds by itself.
        end_token_id: ends a document; None for none.
        max_length: maximum number of tokens in a piece, at least 2.
        source: name of the data in errors.
        special_tokens: as in :func:`textgym.prompts.encode_prompts`.

    Raises:
        ValueError: no texts, or a text without a token to predict. Rows are counted from 1.
    """
    if not texts:
        raise ValueError(f"{source} has no text; expected at least one")
    if special_tokens == "text":
        warn_of_special_strings(tokenizer, [[text] for text in texts], source)
    pieces = []
    for number, text in enumerate(texts, start=1):
        ids = encode_content(tokenizer, text, special_tokens=special_tokens)
        if end_token_id is not None and ids[-1:] != [end_token_id]:
            ids.append(end_token_id)
        if len(ids) < 2:
            raise ValueError(f"{source}, row {number}: {text!r:.80} has no token to predict; leave it out")
        for start in range(0, len(ids) - 1, max_length - 1):
            piece = ids[start : start + max_length]
            first = Prompt(text, str(tokenizer.decode(piece[:1])), (piece[0],))
            pieces.append(Demonstration(first, tuple(piece[1:])))
    return tuple(pieces)


@torch.no_grad()
def pretraining_loss(trunk: Trunk, texts: Sequence[Demonstration], batch_size: int = 32) -> dict[str, float]:
    """Compute the mean of −log π per token of held-out text, in nats, and its standard error over ``n`` texts."""
    losses, counts = [], []
    for start in range(0, len(texts), batch_size):
        log_probs, valid = log_likelihood(trunk, texts[start : start + batch_size])
        losses.append(-log_probs.sum(1).double().cpu().numpy())
        counts.append(valid.sum(1).cpu().numpy())
    loss, count = np.concatenate(losses), np.concatenate(counts)
    mean, n = loss.sum() / count.sum(), len(texts)
    residual = loss - mean * count  # the delta method, as numerator and denominator of the ratio both vary
    error = np.sqrt((residual**2).sum() * n / (n - 1)) / count.sum() if n > 1 else 0.0
    return {"mean": float(mean), "sem": float(error), "n": n}


def check_pretraining(pretraining: Pretraining, trunk: Trunk) -> None:
    """Check that the model can read every pretraining text.

    Raises:
        ValueError: a text does not fit into its context or vocabulary.
    """
    check_readable(trunk.model, pretraining.texts, "pretraining text")
