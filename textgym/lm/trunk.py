"""A language model taken apart into backbone and output head, for whole-sequence passes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.lm.files.loading import explained, is_encoder_decoder, shared_copy
from textgym.lm.parts.backbones import Backbone, CausalBackbone
from textgym.lm.parts.heads import Head, make_head
from textgym.lm.parts.seq2seq import Seq2SeqBackbone


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


class Trunk:
    """A language model taken apart into backbone and output head, so that logits arise only where they are needed.

    Args:
        model: causal or encoder–decoder.
        n_frozen: so many of its lower layers are frozen, and what they compute may be kept.

    Raises:
        ValueError: the model has no trunk of its own, or its logits do not follow from the trunk's states alone.
    """

    def __init__(self, model: PreTrainedModel, n_frozen: int = 0) -> None:
        self.model = model
        with explained(
            f"{type(model).__name__} cannot be taken apart into a trunk that reads token ids alone and an output head"
        ):
            self.backbone = make_backbone(model, n_frozen)
            self.base = self.backbone.module
            self.head: Head = make_head(model, self.backbone)

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        """``[n, T+1, d]``: the states before each response token, and the one after the last.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            prompt_length: ``P``.
            prefix: what the frozen layers compute of these sequences, where it was kept.
        """
        return self.backbone.states(input_ids, attention_mask, prompt_length, prefix)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        """``[n, L, d]`` what the frozen layers compute; None where there are none. Arguments as above."""
        return self.backbone.prefix(input_ids, attention_mask, prompt_length)
