"""Inspection of a model: its kind, and its parts that map sequences to states and states to logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.lm.backbones import Backbone, CausalBackbone
from textgym.lm.loading import is_encoder_decoder, shared_copy
from textgym.lm.seq2seq import Seq2SeqBackbone


def make_backbone(model: PreTrainedModel, n_frozen: int = 0) -> Backbone:
    """Return the model without its output head, as a function of whole sequences.

    Args:
        model: with or without that head.
        n_frozen: number of lower layers that are frozen.

    Raises:
        ValueError: the model has no separate trunk.
    """
    if is_encoder_decoder(model):
        return Seq2SeqBackbone(model, n_frozen)
    return CausalBackbone(trunk_module(model), n_frozen)


def trunk_module(model: PreTrainedModel) -> nn.Module:
    """Return the part of a causal model below its output head; a model without a head is its own trunk.

    Raises:
        ValueError: there is an output head but no such part.
    """
    base: Any = model.base_model
    if base is not model or model.get_output_embeddings() is None:
        return cast(nn.Module, base)
    found = _parts_with_states(model)  # base_model_prefix is wrong for some classes, such as Llama 4's text model
    if not found:
        raise ValueError(
            f"{type(model).__name__} has an output head but no trunk below it that returns a last_hidden_state; "
            "expected a causal language model of transformers"
        )
    return found[-1]


@torch.no_grad()
def _parts_with_states(model: PreTrainedModel) -> list[nn.Module]:
    """Run one pass and return the model's direct parts that returned states, in the order in which they finished."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(getattr(output, "last_hidden_state", None), Tensor):
            found.append(module)

    hooks = [part.register_forward_hook(note) for part in model.children()]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def trunk_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model without its output head, as a separate transformers model that shares its memory."""
    if not is_encoder_decoder(model):
        return cast(PreTrainedModel, trunk_module(model))
    if model.base_model is not model:
        return cast(PreTrainedModel, model.base_model)
    from transformers import AutoModel  # takes seconds to import

    # T5's encoder and decoder are siblings of its head, so no module holds both without the head.
    return shared_copy(AutoModel.from_config, model, lambda name: name)
