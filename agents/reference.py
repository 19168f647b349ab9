"""What the KL is measured to: a frozen copy, another model, or the policy's own trunk with its adapters off."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from textgym.agents.guards import check_loaded
from textgym.agents.policy import LMPolicy
from textgym.lm.loading import columns_read, context_length, embedding_rows, frozen_copy, load_lm
from textgym.lm.lora import AdaptersOff, is_adapted, unwrapped
from textgym.lm.scoring import Trunk


def make_reference(
    policy: LMPolicy, source: str | Path | PreTrainedModel | None
) -> tuple[PreTrainedModel | None, Trunk]:
    """The reference model and its trunk; no model where the policy's own one serves, without its adapters.

    Args:
        policy: as it is before training.
        source: a directory, a hub id, a loaded model, which is copied, or None for the policy as it is now: an adapted
            one is then taken without its adapters.

    Raises:
        ValueError: the reference does not fit the policy.
    """
    if source is None and is_adapted(policy.lm):
        return None, _sharing_trunk(policy, partial(AdaptersOff, policy.lm))
    # A copy, since freezing the caller's model might freeze the policy.
    model = policy.lm if source is None else unwrapped(source) if isinstance(source, nn.Module) else None
    reference = frozen_copy(load_lm(str(source)) if model is None else model)
    check_loaded(reference, "reference")
    _check_fits(reference, policy)
    reference.to(policy.device)  # type: ignore[arg-type]  # transformers wraps it without its types
    return reference, _sharing_trunk(policy, partial(Trunk, reference))


def _check_fits(reference: PreTrainedModel, policy: LMPolicy) -> None:
    if embedding_rows(reference) < policy.n_actions:
        raise ValueError(
            f"the reference embeds {embedding_rows(reference)} tokens, the task has {policy.n_actions} actions"
        )
    limit = context_length(reference)
    if limit is not None and limit < columns_read(reference, policy.width, policy.prompt_length):
        raise ValueError(f"the reference's context of {limit} tokens is shorter than P + T = {policy.width}")


def _sharing_trunk(policy: LMPolicy, make: Callable[[int], Trunk]) -> Trunk:
    """A trunk that takes the activations of the policy's frozen layers for its own, where they are the same."""
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
