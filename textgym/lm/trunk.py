"""A language model taken apart, for whole-sequence passes."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from textgym.lm.architecture import make_backbone
from textgym.lm.heads import Head, make_head
from textgym.lm.loading import explained


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
