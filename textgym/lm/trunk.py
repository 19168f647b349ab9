"""A language model split into backbone and head, for whole-sequence passes."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from textgym.lm.architecture import make_backbone
from textgym.lm.heads import Head, make_head
from textgym.lm.loading import explained


class Trunk:
    """A language model split into backbone and output head, so that logits are computed only where they are needed.

    Args:
        model: a causal or encoder–decoder model.
        n_frozen: number of frozen lower layers, whose activations can be stored and reused.

    Raises:
        ValueError: the model has no separate backbone, or its logits depend on more than the backbone's states.
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
        """Compute the states before each response token, and after the last one: ``[n, T+1, d]``.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            prompt_length: ``P``.
            prefix: ``[n, L, d]`` activations of the frozen layers for these sequences, if they were stored.
        """
        return self.backbone.states(input_ids, attention_mask, prompt_length, prefix)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        """Compute the activations of the frozen layers, ``[n, L, d]``; None without any. Arguments as above."""
        return self.backbone.prefix(input_ids, attention_mask, prompt_length)
