"""Models without their output heads, as functions of whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from textgym.lm.freezing import FrozenPrefix, layers_of
from textgym.lm.loading import accepted

OPTIONAL = {"use_cache": False}
"""Arguments for models whose ``forward`` takes them."""


class Backbone(Protocol):
    """A model without its output head.

    Its *prefix* is what its frozen lower layers compute of sequences. It can be kept while the layers above change.
    """

    module: nn.Module
    stacks: Sequence[nn.Module]
    """The parts that compute states; the last one gives those that the output head reads."""

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        """``[n, T+1, d]``: the states before each response token, and the one after the last.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            prompt_length: ``P``.
            prefix: ``[n, L, d]`` of these sequences, or of the same with more tokens at the end; None to compute it.
        """

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        """``[n, L, d]``; None where nothing can be kept. Arguments as :meth:`states`."""

    def inputs(self, input_ids: Tensor) -> dict[str, Any]:
        """Arguments of the whole model's ``forward`` for sequences ``[n, w]`` without padding."""

    def last_states(self, inputs: dict[str, Any]) -> Tensor:
        """Return the states that the output head reads when the whole model is given these arguments."""


class CausalBackbone:
    """One stack of layers that reads prompt and response as one text.

    Each row's tokens are moved to the left first: what is computed then is as wide as the longest sequence (not as
    the longest prompt and the longest response together), and a plain causal pass needs no padding mask, since
    nothing looks to its right.

    Args:
        module: a model without its output head.
        n_frozen: so many of its lower layers are frozen.
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
        """Nothing that is trained may have a part in it, and it must be states alone that go up."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=next(self.module.parameters()).device)
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
            with self.frozen.replayed(prefix[:, : inputs["input_ids"].shape[1]]):
                states = self.last_states(inputs)
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
    """``[n, L]`` each row's tokens, moved to the left; L is the longest row's."""
    longest = int(attention_mask.sum(1).max())
    order = attention_mask.argsort(dim=1, descending=True, stable=True)[:, :longest]
    return input_ids.gather(1, order)


def position_ids(attention_mask: Tensor) -> Tensor:
    """``[n, w]`` positions under left padding: the cumulative sum of the mask, minus 1."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
