"""The KL's reference: a frozen copy, another model, or the policy's own trunk with its adapters off.

A copy of an adapted policy shares the frozen weights; only the adapters are duplicated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym.agents.policy.lm_policy import LMPolicy
from textgym.lm.agreement import check_whole_passes
from textgym.lm.files.adapters import BASE, set_adapters, write_adapters
from textgym.lm.files.loading import (
    columns_read,
    context_length,
    embedding_rows,
    frozen_copy,
    in_full_precision,
    load_lm,
)
from textgym.lm.files.weights import ADAPTER_CONFIG
from textgym.lm.guards import check_loaded
from textgym.lm.parts.lora import (
    AdaptersOff,
    change_nothing,
    frozen_twin,
    is_adapted,
    save_pretrained,
    shares_base,
    unwrapped,
)
from textgym.lm.trunk import Trunk
from textgym.tokenization import TOKENIZER_FILES, load_tokenizer

PLACE = Path("training", "reference")
"""A checkpoint's folder for its reference."""
WITHOUT_ADAPTERS = "without-adapters"
"""Value of ``reference`` for the model below the policy's adapters."""


@dataclass(frozen=True)
class SavedAdapters:
    """Reference that a checkpoint stores as adapters alone, on the weights of its policy.

    Attributes:
        directory: directory of the adapters.
    """

    directory: Path


Reference: TypeAlias = "str | Path | PreTrainedModel | SavedAdapters | None"
"""Allowed values of ``reference``; see :func:`make_reference`."""


def make_reference(policy: LMPolicy, source: Reference) -> tuple[PreTrainedModel | None, Trunk]:
    """Return the reference model and its trunk; the model is None if the reference is the policy without adapters.

    Args:
        policy: the policy before training.
        source: a directory, a hub id, a loaded model, which is copied; :data:`WITHOUT_ADAPTERS`; or None for the
            initial policy. Adapters that came with the policy are part of it. Fresh adapters change nothing yet, so
            that the policy's own trunk with its adapters switched off is used.

    Raises:
        ValueError: the reference does not fit the policy.
    """
    if source is None and is_adapted(policy.lm) and policy.fresh_adapters and change_nothing(policy.lm):
        source = WITHOUT_ADAPTERS
    if source == WITHOUT_ADAPTERS:
        if not is_adapted(policy.lm):
            raise ValueError(f"reference={source!r}, but the policy has no adapters; leave reference out")
        return None, _sharing_trunk(policy, partial(AdaptersOff, policy.lm))
    reference = _copied(policy, source)
    if source is not None:  # a copy of the policy needs no check: the policy was checked
        check_loaded(reference, "reference")
    _check_fits(reference, policy)
    reference.to(policy.device)  # type: ignore[arg-type]  # transformers wraps it without its types
    trunk = _sharing_trunk(policy, partial(Trunk, reference))
    if isinstance(source, str | Path | nn.Module):  # another model than the policy
        check_whole_passes(trunk, policy.width, policy.prompt_length)
    return reference, trunk


def check_tokens(source: Reference, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a reference numbers the task's tokens as the task does, if its directory has a tokenizer.

    Args:
        source: the reference; a loaded model, or a directory without a tokenizer, is not checked.
        tokenizer: the task's.

    Raises:
        ValueError: the reference has another number for some token, or lacks it.
    """
    if not isinstance(source, str | Path) or not any((Path(source) / name).is_file() for name in TOKENIZER_FILES):
        return
    own, other = tokenizer.get_vocab(), load_tokenizer(source).get_vocab()
    differs = next((token for token in sorted(own, key=own.__getitem__) if other.get(token) != own[token]), None)
    if differs is not None:
        found = "does not have" if differs not in other else f"has as number {other[differs]}"
        raise ValueError(
            f"reference={str(source)!r} has another vocabulary, of {len(other)} tokens beside the task's {len(own)}: "
            f"token {own[differs]} of the task is {differs!r}, which the reference {found}; pass a reference with the "
            "policy's tokenizer"
        )


def _copied(policy: LMPolicy, source: Reference) -> PreTrainedModel:
    """Return a frozen model; a copy of an adapted policy shares its frozen weights."""
    if isinstance(source, SavedAdapters):
        return set_adapters(frozen_twin(policy.lm), source.directory)
    if isinstance(source, nn.Module):
        # A copy, since freezing the caller's model might freeze the policy.
        return frozen_copy(in_full_precision(unwrapped(source)))
    if source is not None:
        return frozen_copy(load_lm(str(source)))
    return frozen_twin(policy.lm) if is_adapted(policy.lm) else frozen_copy(policy.lm)


def save_reference(reference: PreTrainedModel, policy: LMPolicy, scratch: Path, checkpoint: Path) -> None:
    """Write a reference into a checkpoint; as adapters alone if it shares the policy's weights.

    Args:
        reference: the algorithm's reference model.
        policy: the algorithm's policy.
        scratch: the directory in which the checkpoint is being written.
        checkpoint: its final place.
    """
    if shares_base(reference, policy.lm):
        write_adapters(reference, scratch / PLACE, checkpoint / BASE)
    else:
        save_pretrained(reference, scratch / PLACE, checkpoint / PLACE)


def saved_reference(checkpoint: Path) -> Reference:
    """Return the reference that a checkpoint holds; :data:`WITHOUT_ADAPTERS` if it holds none."""
    directory = checkpoint / PLACE
    if not directory.is_dir():
        return WITHOUT_ADAPTERS
    alone = (directory / ADAPTER_CONFIG).is_file() and not (directory / "config.json").is_file()
    return SavedAdapters(directory) if alone else str(directory)


def _check_fits(reference: PreTrainedModel, policy: LMPolicy) -> None:
    if embedding_rows(reference) < policy.n_actions:
        raise ValueError(
            f"the reference embeds {embedding_rows(reference)} tokens, fewer than the task's {policy.n_actions} actions"
            "; pass a reference with the policy's vocabulary"
        )
    limit = context_length(reference)
    if limit is not None and limit < columns_read(reference, policy.width, policy.prompt_length):
        raise ValueError(
            f"the reference's context of {limit} tokens is shorter than P + T = {policy.width}; pass a reference "
            "with a longer context"
        )


def _sharing_trunk(policy: LMPolicy, make: Callable[[int], Trunk]) -> Trunk:
    """Return a trunk that reuses the activations of the policy's frozen layers if its own would be equal."""
    if policy.freeze_layers:
        trunk = make(policy.freeze_layers)
        if _same_prefix(policy.trunk, trunk):
            return trunk
    return make(0)


@torch.no_grad()
def _same_prefix(policy: Trunk, reference: Trunk) -> bool:
    weights = dict(reference.model.named_parameters())
    frozen = [(name, p) for name, p in policy.model.named_parameters() if not p.requires_grad]
    if any(name not in weights or not torch.equal(p, weights[name]) for name, p in frozen):
        return False
    ids = torch.arange(4, device=policy.model.device)[None]
    own, other = (trunk.prefix(ids, torch.ones_like(ids), 2) for trunk in (policy, reference))
    return own is not None and other is not None and torch.equal(own, other)
