"""Models without their output heads, as functions of whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from textgym.lm.files.loading import accepted
from textgym.lm.parts.freezing import FrozenPrefix, layers_of

OPTIONAL = {"use_cache": False}
"""Arguments that are passed if the model's ``forward`` accepts them."""


class Backbone(Protocol):
    """Model without its output head.

    Its *prefix* is the output of its frozen lower layers for given sequences. It can be kept while the layers above are
    trained.
    """

    module: nn.Module
    stacks: Sequence[nn.Module]
    """The parts that compute states; the output head reads those of the last one."""

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        """Compute ``[n, T+1, d]``: the states before each response token, and the one after the last.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            prompt_length: ``P``.
            prefix: ``[n, L, d]`` for these sequences, or for the same with more tokens at the end; None to compute it.
        """

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        """Compute the prefix, ``[n, L, d]``; None if nothing can be kept. Arguments: see :meth:`states`."""

    def inputs(self, input_ids: Tensor) -> dict[str, Any]:
        """Return arguments of the whole model's ``forward`` for sequences ``[n, w]`` without padding."""

    def last_states(self, inputs: dict[str, Any]) -> Tensor:
        """Return the states that the output head reads if the whole model is called with these arguments."""


class CausalBackbone:
    """One stack of layers that processes prompt and response as one text.

    Each row's tokens are moved to the left first. The computation is then as wide as the longest sequence (rather than
    the longest prompt plus the longest response), and a causal pass needs no padding mask, since no token attends to
    its right.

    Args:
        module: a model without its output head.
        n_frozen: number of its lower layers that are frozen.
    """

    def __init__(self, module: nn.Module, n_frozen: int = 0) -> None:
        self.module = module
        self.stacks: Sequence[nn.Module] = (module,)
        self._optional = accepted(module, **OPTIONAL)
        self.frozen: FrozenPrefix | None = None
        if n_frozen:
            frozen = FrozenPrefix(layers_of(module)[:n_frozen])
            self.frozen = frozen if self._can_be_kept(frozen) else None

    def _can_be_kept(self, frozen: FrozenPrefix) -> bool:
        """Return True if the frozen layers' output is a plain tensor that no trained parameter contributes to."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=next(self.module.parameters()).device)
        # Built under no_grad, the output would never require a gradient, and the check would see nothing.
        with torch.enable_grad():
            given = frozen.record(lambda: self.last_states(self.inputs(ids)))
        return isinstance(given, Tensor) and not given.requires_grad

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        inputs = self.inputs(tokens_first(input_ids, attention_mask))
        if prefix is None or self.frozen is None:
            states = self.last_states(inputs)
        else:
            # Recorded states may be of longer sequences; causal states of a prefix do not depend on what follows.
            with self.frozen.replayed(prefix[:, : inputs["input_ids"].shape[1]]):
                states = self.last_states(inputs)
        # Column P + t − 1 of the observation holds the token before response token t. Its position in the row is where
        # its state lies after the shift to the left.
        wanted = position_ids(attention_mask)[:, prompt_length - 1 :, None].expand(-1, -1, states.shape[-1])
        return states.gather(1, wanted)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        if self.frozen is None:
            return None
        inputs = self.inputs(tokens_first(input_ids, attention_mask))
        states: Tensor = self.frozen.record(lambda: self.last_states(inputs))
        return states

    def inputs(self, input_ids: Tensor) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **self._optional}

    def last_states(self, inputs: dict[str, Any]) -> Tensor:
        states: Tensor = self.module(**inputs).last_hidden_state
        return states


def tokens_first(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return ``[n, L]`` each row's tokens, moved to the left; L is the length of the longest row."""
    longest = int(attention_mask.sum(1).max())
    # A stable sort of the mask puts tokens before padding and keeps their order.
    order = attention_mask.argsort(dim=1, descending=True, stable=True)[:, :longest]
    return input_ids.gather(1, order)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Return ``[n, w]`` positions under left padding: the cumulative sum of the mask, minus 1."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
