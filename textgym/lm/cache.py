"""Key-value cache of slots that begin and end independently, but always end at the same column."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

SPARE_COLUMNS = 16
"""Number of tokens that fit before the columns are packed again. Packing copies the whole cache, so it should be rare;
but memory that lies close together is read up to twice as fast, so spare columns should be few."""


@dataclass
class Window:
    """Range of the cache that a forward pass reads and writes; shared by all layers.

    Attributes:
        slots: the slots.
        first: the column where reading begins.
        start: the column where writing begins.
        end: the column where both end.
        columns: number of allocated columns.
    """

    slots: slice = field(default_factory=lambda: slice(0))
    first: int = 0
    start: int = 0
    end: int = 0
    columns: int = 0


class SlotLayer(CacheLayerMixin):
    """Cache layer with keys and values, ``[N, heads, columns, d]`` each, allocated at the first use."""

    is_sliding = False  # all columns are kept; a model's sliding window is applied by its attention mask

    def __init__(self, n_slots: int, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_slots = n_slots
        self.window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (self._allocate(states) for states in (key_states, value_states))
        self.is_initialized = True

    def _allocate(self, states: Tensor) -> Tensor:
        # Zeros, not ``empty``: masked columns enter attention with weight 0, and 0 · NaN is NaN.
        return states.new_zeros(self.n_slots, states.shape[1], self.window.columns, states.shape[3])

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all slots."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def pack(self, n: int, source: slice, target: slice) -> None:
        """Copy columns of the first n slots into new buffers."""
        # Not in place: source and target may overlap, and the number of columns may change.
        packed = [self._allocate(buffer) for buffer in self.buffers]
        for new, old in zip(packed, self.buffers, strict=True):
            new[:n, :, target] = old[:n, :, source]
        self.keys, self.values = packed

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.buffers
        return self._append(keys, key_states), self._append(values, value_states)

    def _append(self, buffer: Tensor, new: Tensor) -> Tensor:
        # Writing in place and returning a view copies nothing, while torch.cat would copy the whole cache per token.
        window = self.window
        buffer[window.slots, :, window.start : window.end] = new
        return buffer[window.slots, :, window.first : window.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        # Columns before ``first`` belong to longer rows of earlier steps; to the model they do not exist.
        return self.window.start - self.window.first

    def get_max_length(self) -> int:
        return self.window.columns


class SlotCache(Cache):
    """Transformers cache for rows that restart at any time.

    When a row begins, its tokens are placed so that they end in the column where all other rows end. To the model this
    is an ordinary left-padded batch: decoding writes one column and reads a view, and the model's own code handles
    masks, sliding windows and relative positions. Most steps copy nothing.

    Args:
        n_slots: ``N``.
        device: the model's device.
    """

    def __init__(self, n_slots: int, device: torch.device | str = "cpu") -> None:
        self.window = Window()
        super().__init__(layer_class_to_replicate=partial(SlotLayer, n_slots, self.window))  # type: ignore[arg-type]
        self.mask = torch.zeros(n_slots, 0, dtype=torch.bool, device=device)
        """``[N, columns]`` True for tokens."""
        self.end = 0
        """The column where every slot's tokens end."""

    def align(self, n: int, longest: int, longest_new: int) -> None:
        """Choose the column where the next tokens end, and make room for them.

        Args:
            n: the first n slots gain one token each; all other slots are forgotten.
            longest: columns of the longest of them.
            longest_new: columns of the longest row that begins in a different slot.
        """
        # Usually the next column is free and everything stays in place. Otherwise (no column left, a new row that is
        # longer than all before it, or nothing to keep) the cached columns move to the left end of new buffers.
        end = self.end + 1
        if n == 0 or not longest_new <= end <= self.window.columns:
            end = max(longest + 1, longest_new)
            source, target = slice(self.end - longest, self.end), slice(end - 1 - longest, end - 1)
            self._pack(n, end - 1 + SPARE_COLUMNS, source, target)
        self.end = end

    def _pack(self, n: int, columns: int, source: slice, target: slice) -> None:
        self.window.columns = columns
        for layer in self._slot_layers():
            layer.pack(n, source, target)
        packed = self.mask.new_zeros(len(self.mask), columns)
        packed[:n, target] = self.mask[:n, source]
        self.mask = packed

    def _slot_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots to other slots."""
        for layer in self._slot_layers():
            for buffer in layer.buffers:
                # Indexing with a tensor copies the sources first, so slots can be moved in one assignment.
                buffer[targets] = buffer[sources]
        self.mask[targets] = self.mask[sources]

    def append(self, n: int, longest: int) -> Tensor:
        """Prepare the first n slots for one token each.

        Args:
            n: number of slots.
            longest: columns of the longest of them, the new token included.

        Returns:
            ``[n, longest]`` their mask.
        """
        self._set_window(slice(0, n), self.end - longest, self.end - 1)
        # The model reads the mask of this step with the new token included.
        self.mask[:n, self.end - 1] = True
        return self.mask[:n, self.end - longest : self.end]

    def fill(self, start: int, mask: Tensor) -> None:
        """Prepare the slots from ``start`` on for new tokens under ``mask``, ``[k, w]``."""
        count, width = mask.shape
        slots = slice(start, start + count)
        self._set_window(slots, self.end - width, self.end - width)
        # Old keys beyond the new tokens stay in the buffers, but are masked.
        self.mask[slots] = False
        self.mask[slots, self.end - width : self.end] = mask

    def _set_window(self, slots: slice, first: int, start: int) -> None:
        window = self.window
        window.slots, window.first, window.start, window.end = slots, first, start, self.end
