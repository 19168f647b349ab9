"""Supervised fine-tuning: a language model imitates demonstrations, through ``transformers.Trainer``.

The recipe is that of Ouyang et al. 2022, arXiv:2203.02155, appendix C.1: up to 16 epochs, a cosine down to 10 % of the
learning rate, dropout on the residual branches, and the checkpoint kept that a reward model likes best. Validation loss
is the wrong judge: it rises after the first epoch while the texts still become better.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.agents.offline.data import UNTRAINED, Demonstration, collate, next_token_loss
from textgym.agents.offline.likelihood import check_causal
from textgym.agents.offline.sft_settings import EpochRow, SFTSettings
from textgym.lm.files.loading import (
    accepted,
    context_length,
    embedding_rows,
    frozen_dropout,
    in_full_precision,
    require_causal,
)
from textgym.lm.parts.lora import is_adapted, train_adapters, unwrapped
from textgym.lm.trunk import Trunk

Judge: TypeAlias = Callable[[PreTrainedModel], Mapping[str, float]]
"""Measures a model in eval mode; its ``"score"`` decides which checkpoint is kept, if it is there."""

BRANCHES = {"attn", "self_attn", "attention", "self_attention", "crossattention", "mlp", "feed_forward", "ffn"}
"""What architectures call the parts of a block whose outputs are added to the residual stream."""


@dataclass(frozen=True)
class SFTReport:
    """What fine-tuning gave.

    Attributes:
        epochs: one row each, and one before training.
        kept_epoch: the epoch whose weights the model now has.
        kept_by: ``"score"`` or ``"loss"``: what chose that epoch.
        stopped: why training ended before its last epoch, in words; None where it did not.
    """

    epochs: tuple[EpochRow, ...]
    kept_epoch: int
    kept_by: Literal["score", "loss"]
    stopped: str | None = None


def fine_tune(
    model: PreTrainedModel,
    demonstrations: Sequence[Demonstration],
    *,
    validation: Sequence[Demonstration],
    judge: Judge | None = None,
    keep_by: Literal["score", "loss"] | None = None,
    settings: SFTSettings | None = None,
    seed: int = 0,
    directory: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Sequence[EpochRow]], None] | None = None,
    progress: bool = True,
) -> SFTReport:
    """Trains a model in place, and leaves it in eval mode with the weights of its best epoch.

    Completions and end tokens are trained, prompts are not; the loss is the mean of −log p over the trained tokens of a
    batch. Of a model with adapters these alone change. Global random state is left as it was.

    Args:
        model: learns.
        demonstrations: what it learns.
        validation: demonstrations whose loss is measured after each epoch.
        judge: measures the model after each epoch, for instance by a reward model on its own samples.
        keep_by: what chooses the epoch; the judge's ``"score"`` where there is a judge, else the validation loss.
        settings: of the training.
        seed: of order and dropout.
        directory: where training state lies between epochs; a scratch directory unless given.
        resume: go on from the last whole epoch in ``directory``; the arguments must be those of the first call.
        on_epoch: called before training, and after each epoch with all rows up to then.
        progress: show a progress bar.

    Raises:
        ValueError: something does not fit; nothing has been trained then. Or training state is damaged.
    """
    settings = settings or SFTSettings()
    keep_by = keep_by or ("score" if judge else "loss")
    model = frozen_dropout(in_full_precision(unwrapped(model)))
    _check(model, demonstrations, validation, settings, seed)
    if is_adapted(model):
        train_adapters(model)
    measure = _measurement(model, validation, judge, keep_by, settings.batch_size // settings.accumulate)

    from textgym.agents.offline.hf_trainer import run_trainer  # transformers.Trainer takes seconds to import

    with tempfile.TemporaryDirectory() as scratch, isolated_random_state(), only_dropout(model, settings):
        place = directory or Path(scratch)
        rows, kept_epoch, stopped = run_trainer(
            model, demonstrations, measure, settings, keep_by, seed, place, resume, on_epoch, progress
        )
    model.eval()
    return SFTReport(tuple(rows), kept_epoch, keep_by, stopped)


def _measurement(
    model: PreTrainedModel, validation: Sequence[Demonstration], judge: Judge | None, keep_by: str, batch_size: int
) -> Callable[[], dict[str, float]]:
    """Measures the model as it then is: what the judge says, and the validation loss."""
    if keep_by == "score" and judge is None:
        raise ValueError("keep_by='score' needs a judge")

    def measure() -> dict[str, float]:
        model.eval()
        with isolated_random_state():
            judged = judge(model) if judge else {}
        if keep_by == "score" and "score" not in judged:
            raise ValueError(f"the judge gave {sorted(judged)}; expected 'score' among them")
        return {**judged, "loss": mean_loss(model, validation, batch_size)}

    return measure


def _check(
    model: PreTrainedModel,
    demonstrations: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    settings: SFTSettings,
    seed: int,
) -> None:
    """Everything that could fail for what the caller gave, before any work."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}; expected 0 or more, and less than 2**32")
    check_precision(settings)
    require_causal(model, "fine-tuning")
    _check_demonstrations(model, demonstrations, "demonstrations")
    _check_demonstrations(model, validation, "validation")
    check_causal(Trunk(model), demonstrations)


def check_precision(settings: SFTSettings) -> None:
    """ValueError where this machine cannot compute as the settings want."""
    if settings.precision == "fp16" and not torch.accelerator.is_available():
        raise ValueError("precision='fp16' needs an accelerator, and there is none; use 'bf16' or 'fp32'")


def _check_demonstrations(model: PreTrainedModel, demonstrations: Sequence[Demonstration], argument: str) -> None:
    """Every row must be readable by the model."""
    if not demonstrations:
        raise ValueError(f"{argument} is empty; expected at least one demonstration")
    limit, tokens = context_length(model), embedding_rows(model)
    for number, shown in enumerate(demonstrations, start=1):
        if not shown.prompt.ids or not shown.response_ids:
            raise ValueError(f"{argument}, row {number}: prompt or response has no tokens")
        if limit is not None and shown.n_tokens > limit:
            raise ValueError(f"{argument}, row {number} has {shown.n_tokens} tokens, the model's context {limit}")
        if max(*shown.prompt.ids, *shown.response_ids) >= tokens:
            raise ValueError(
                f"{argument}, row {number} holds tokens beyond the {tokens} that the model embeds; encode it with the "
                "model's own tokenizer"
            )


@torch.no_grad()
def mean_loss(model: PreTrainedModel, demonstrations: Sequence[Demonstration], batch_size: int = 32) -> float:
    """Return the mean of −log p over all trained tokens of the demonstrations, in nats per token."""
    total = count = 0.0
    for start in range(0, len(demonstrations), batch_size):
        batch = {
            name: part.to(model.device) for name, part in collate(demonstrations[start : start + batch_size]).items()
        }
        labels = batch.pop("labels")
        trained = int((labels != UNTRAINED).sum())
        total += float(next_token_loss(model(**batch, **accepted(model, use_cache=False)).logits, labels)) * trained
        count += trained
    return total / count


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Put the global generators of random, NumPy and torch back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - Trainer seeds it
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def only_dropout(model: nn.Module, settings: SFTSettings) -> Iterator[None]:
    """Dropout as the settings have it and no other, whatever the model's config says; undone afterwards.

    Raises:
        ValueError: dropout is wanted, and no part of the model is known to feed a residual stream.
    """
    share = settings.residual_dropout
    built_in = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    branches = _residual_branches(model)
    if share and not branches:
        raise ValueError(
            f"residual_dropout={share}: {type(model).__name__} names no attention or feed-forward parts "
            f"({', '.join(sorted(BRANCHES))}) in its blocks; set residual_dropout to 0"
        )

    def drop(module: nn.Module, _: Any, output: Any) -> Any:
        def dropped(value: Tensor) -> Tensor:
            return nn.functional.dropout(value, share, module.training)

        return (dropped(output[0]), *output[1:]) if isinstance(output, tuple) else dropped(output)

    hooks = [branch.register_forward_hook(drop) for branch in branches] if share else []
    try:
        for module in built_in:
            module.p = 0.0
        yield
    finally:
        for module, p in built_in.items():
            module.p = p
        for hook in hooks:
            hook.remove()


def _residual_branches(model: nn.Module) -> list[nn.Module]:
    blocks = [block for layers in model.modules() if isinstance(layers, nn.ModuleList) for block in layers]
    return [part for block in blocks for name, part in block.named_children() if name in BRANCHES]
