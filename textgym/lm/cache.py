"""A key-value cache of slots: preallocated, written per row, in the observation's own columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True)
class DecodeWindow:
    """The slots ``[0, n)`` each append one token, each in its own column.

    Attributes:
        columns: ``[n]`` where each slot's token stands.
        first: the first column that any of these slots uses; those before it are left out.
        end: one past the last column in use.
    """

    columns: Tensor
    first: int
    end: int

    @property
    def seen(self) -> int:
        """Columns before the query, as the model counts them."""
        return self.end - self.first - 1

    def write(self, buffer: Tensor, new: Tensor) -> Tensor:
        n = len(self.columns)
        buffer[torch.arange(n, device=buffer.device), :, self.columns] = new[:, :, 0]
        return buffer[:n, :, self.first : self.end]


@dataclass(frozen=True)
class PrefillWindow:
    """Some slots are filled anew with the columns ``[first, end)``."""

    slots: Tensor
    first: int
    end: int

    @property
    def seen(self) -> int:
        return 0

    def write(self, buffer: Tensor, new: Tensor) -> Tensor:
        buffer[self.slots, :, self.first : self.end] = new
        return new


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, ``[N, heads, P+T, d]`` each, allocated at the first use."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, states: Tensor) -> Tensor:
        # Zeros, since a masked column still enters the attention with weight 0, and 0 · NaN is NaN.
        heads, size = states.shape[1], states.shape[3]
        return states.new_zeros(self.cache.n_slots, heads, self.cache.width, size)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        window = self.cache.window
        return window.write(self.keys, key_states), window.write(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.cache.window.seen

    def get_max_length(self) -> int:
        return self.cache.width


class SlotCache(Cache):
    """A transformers cache whose rows are slots that start, advance and restart independently.

    A token's keys stand in the column in which the observation shows it. Before each forward pass ``window`` says
    which slots and columns it writes; a decode reads a view, so that no key is copied.

    Args:
        n_slots: ``N``.
        width: ``P + T``.
    """

    def __init__(self, n_slots: int, width: int) -> None:
        super().__init__(layer_class_to_replicate=partial(SlotLayer, self))  # type: ignore[arg-type]
        self.n_slots = n_slots
        self.width = width
        self.window: DecodeWindow | PrefillWindow = PrefillWindow(torch.arange(0), 0, 0)

    def move(self, source: int, target: int, end: int) -> None:
        """Copies the first ``end`` columns of one slot over another."""
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys[target, :, :end] = layer.keys[source, :, :end]
                layer.values[target, :, :end] = layer.values[source, :, :end]
