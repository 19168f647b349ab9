"""Supervised fine-tuning of a language model on demonstrations, with ``transformers.Trainer``.

The recipe is that of Ouyang et al. 2022, arXiv:2203.02155, appendix C.1: up to 16 epochs, a cosine down to 10 % of the
learning rate, dropout on the residual branches, and the checkpoint with the highest score of a reward model. Validation
loss is a poor criterion: it rises after the first epoch while the texts still improve.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

from textgym.agents.offline.data import UNTRAINED, Demonstration, collate, collate_apart, next_token_loss
from textgym.agents.offline.likelihood import check_causal, check_readable
from textgym.agents.offline.sft_settings import EpochRow, SFTSettings
from textgym.lm.files.loading import (
    accepted,
    frozen_dropout,
    in_full_precision,
    is_encoder_decoder,
)
from textgym.lm.parts.lora import is_adapted, train_adapters, unwrapped
from textgym.lm.parts.seq2seq import start_token
from textgym.lm.trunk import Trunk

Judge: TypeAlias = Callable[[PreTrainedModel], Mapping[str, float]]
"""Measures a model in eval mode; its ``"score"``, if present, decides which checkpoint is kept."""

Collate: TypeAlias = Callable[[Sequence[Demonstration]], dict[str, Tensor]]
"""Makes a batch of the model's arguments and ``labels``."""

BRANCHES = {
    *("attn", "self_attn", "attention", "self_attention", "crossattention", "mlp", "feed_forward", "ffn"),
    *("encoder_attn", "fc2"),  # BART; OPT
    *("SelfAttention", "EncDecAttention", "DenseReluDense"),  # T5
}
"""Names that architectures give to the parts of a block whose outputs are added to the residual stream."""


@dataclass(frozen=True)
class SFTReport:
    """Result of fine-tuning.

    Attributes:
        epochs: one row for each epoch, and one before training.
        kept_epoch: the epoch whose weights the model now has.
        kept_by: ``"score"`` or ``"loss"``, the metric that chose that epoch.
        stopped: the reason why training ended before its last epoch; None if it did not.
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
    """Train a model in place, and leave it in eval mode with the weights of its best epoch.

    Completions and end tokens are trained, prompts are not; the loss is the mean of −log p over the trained tokens of a
    batch. If the model has adapters, only they are trained. Global random state is restored afterwards.

    Args:
        model: the model to train.
        demonstrations: the training data.
        validation: demonstrations whose loss is measured before training and after each epoch.
        judge: measures the model at the same times, for instance with a reward model on its own samples.
        keep_by: the metric that chooses the epoch; by default the judge's ``"score"`` if there is a judge, otherwise
            the validation loss.
        settings: settings of the training.
        seed: random seed of order and dropout.
        directory: directory of the training state between epochs; a temporary one by default.
        resume: continue from the last complete epoch in ``directory``; the arguments must be those of the first call.
        on_epoch: called before training and after each epoch, with all rows so far.
        progress: True to show a progress bar.

    Returns:
        The rows of all epochs, and the choice among them.

    Raises:
        ValueError: an argument does not fit (nothing was trained then), or the training state is damaged.
        TrainingError: training diverged.
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
            model, demonstrations, collating(model), measure, settings, keep_by, seed, place, resume, on_epoch, progress
        )
    model.eval()
    return SFTReport(tuple(rows), kept_epoch, keep_by, stopped)


def _measurement(
    model: PreTrainedModel, validation: Sequence[Demonstration], judge: Judge | None, keep_by: str, batch_size: int
) -> Callable[[], dict[str, float]]:
    """Return a function that measures the model: the judge's metrics and the validation loss."""
    if keep_by == "score" and judge is None:
        raise ValueError("keep_by='score' needs a judge; pass judge=…, or keep_by='loss'")

    def measure() -> dict[str, float]:
        model.eval()
        with isolated_random_state():
            judged = judge(model) if judge else {}
        if keep_by == "score" and "score" not in judged:
            raise ValueError(f"the judge returned {sorted(judged)}; expected 'score' among them")
        return {**judged, "loss": mean_loss(model, validation, batch_size)}

    return measure


def _check(
    model: PreTrainedModel,
    demonstrations: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    settings: SFTSettings,
    seed: int,
) -> None:
    """Check the arguments before any work.

    Raises:
        ValueError: one of them does not fit the model or the machine.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}; expected 0 or more, and less than 2**32")
    check_precision(settings)
    _check_demonstrations(model, demonstrations, "demonstrations")
    _check_demonstrations(model, validation, "validation")
    check_causal(Trunk(model), demonstrations)


def check_precision(settings: SFTSettings) -> None:
    """Check that this machine supports the settings' precision.

    Raises:
        ValueError: it does not.
    """
    if settings.precision == "fp16" and not torch.accelerator.is_available():
        raise ValueError("precision='fp16' needs an accelerator, and there is none; use 'bf16' or 'fp32'")


def _check_demonstrations(model: PreTrainedModel, demonstrations: Sequence[Demonstration], argument: str) -> None:
    """Check that the model can read every row.

    Raises:
        ValueError: it cannot, or there is no row.
    """
    if not demonstrations:
        raise ValueError(f"{argument} is empty; expected at least one demonstration")
    check_readable(model, demonstrations, f"{argument}, row")


def collating(model: PreTrainedModel) -> Collate:
    """Return the function that makes a model's batches: of prompt and response in one row, or of each apart."""
    return partial(collate_apart, start=start_token(model)) if is_encoder_decoder(model) else collate


@torch.no_grad()
def mean_loss(model: PreTrainedModel, demonstrations: Sequence[Demonstration], batch_size: int = 32) -> float:
    """Compute the mean of −log p over all trained tokens of the demonstrations, in nats per token."""
    total = count = 0.0
    collated = collating(model)
    for start in range(0, len(demonstrations), batch_size):
        batch = {
            name: part.to(model.device) for name, part in collated(demonstrations[start : start + batch_size]).items()
        }
        labels = batch.pop("labels")
        trained = int((labels != UNTRAINED).sum())
        total += float(next_token_loss(model(**batch, **accepted(model, use_cache=False)).logits, labels)) * trained
        count += trained
    return total / count


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Restore the global generators of random, NumPy and torch on leaving the block."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - Trainer seeds it
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def only_dropout(model: nn.Module, settings: SFTSettings) -> Iterator[None]:
    """Apply the settings' dropout and no other, whatever the model's config says, within the block.

    Raises:
        ValueError: dropout is set, and no part of the model is known to feed a residual stream.
    """
    share = settings.residual_dropout
    built_in = _dropout_shares(model)
    branches = _residual_branches(model)
    if share and not branches:
        raise ValueError(
            f"residual_dropout={share}: the blocks of {type(model).__name__} have no attention or feed-forward parts "
            f"of known name ({', '.join(sorted(BRANCHES))}); set residual_dropout to 0"
        )

    def drop(module: nn.Module, _: Any, output: Any) -> Any:
        def dropped(value: Tensor) -> Tensor:
            return nn.functional.dropout(value, share, module.training)

        return (dropped(output[0]), *output[1:]) if isinstance(output, tuple) else dropped(output)

    hooks = [branch.register_forward_hook(drop) for branch in branches] if share else []
    try:
        for owner, name, _ in built_in:
            setattr(owner, name, 0.0)
        yield
    finally:
        for owner, name, own in built_in:
            setattr(owner, name, own)
        for hook in hooks:
            hook.remove()


def _dropout_shares(model: nn.Module) -> list[tuple[Any, str, float]]:
    """Return where a model keeps the shares that it drops: owner, name of the attribute, and the share.

    Those are dropout modules, and numbers that a module or a config hands to the function, as in BART, T5 and OPT.
    """
    modules = list(model.modules())
    dropouts = [(module, "p", module.p) for module in modules if isinstance(module, _DropoutNd)]
    configs = {id(config): config for module in modules if (config := vars(module).get("config")) is not None}
    named = [
        (owner, name, value)
        for owner in (*modules, *configs.values())
        for name, value in vars(owner).items()
        if isinstance(value, float) and "drop" in name
    ]
    return [*dropouts, *named]


def _residual_branches(model: nn.Module) -> list[nn.Module]:
    blocks = [block for layers in model.modules() if isinstance(layers, nn.ModuleList) for block in layers]
    return [part for block in blocks for name, part in block.named_children() if name in BRANCHES]
