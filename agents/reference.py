"""What the KL is measured to: a frozen copy, another model, or the policy's own trunk with its adapters off."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from textgym.agents.policy import LMPolicy
from textgym.lm.loading import context_length, embedding_rows, frozen_copy, load_causal_lm
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
        return None, AdaptersOff(policy.lm)
    # A copy, since freezing the caller's model might freeze the policy.
    model = policy.lm if source is None else unwrapped(source) if isinstance(source, nn.Module) else None
    reference = frozen_copy(load_causal_lm(str(source)) if model is None else model)
    _check_fits(reference, policy)
    reference.to(policy.device)  # type: ignore[arg-type]  # transformers wraps it without its types
    return reference, Trunk(reference)


def _check_fits(reference: PreTrainedModel, policy: LMPolicy) -> None:
    if embedding_rows(reference) < policy.n_actions:
        raise ValueError(
            f"the reference embeds {embedding_rows(reference)} tokens, the task has {policy.n_actions} actions"
        )
    limit = context_length(reference)
    if limit is not None and limit < policy.width:
        raise ValueError(f"the reference's context of {limit} tokens is shorter than P + T = {policy.width}")
