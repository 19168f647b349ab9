"""A key-value cache of slots that begin and end independently, yet all stand at the same column."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

SPARE_COLUMNS = 16
"""How many tokens fit in before the columns are packed anew: several, since packing copies all that is cached; few,
since what lies close together is read up to twice as fast."""


@dataclass
class Window:
    """Where a forward pass writes and reads; all layers look here.

    Attributes:
        slots: of which slots.
        first: the column where reading begins.
        start: the column where writing begins.
        end: the column where both end.
        columns: how many columns are allocated.
    """

    slots: slice = field(default_factory=lambda: slice(0))
    first: int = 0
    start: int = 0
    end: int = 0
    columns: int = 0


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, ``[N, heads, columns, d]`` each, allocated at the first use."""

    is_sliding = False  # a model's sliding window is its mask's business: every column is here

    def __init__(self, n_slots: int, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_slots = n_slots
        self.window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (self._allocate(states) for states in (key_states, value_states))
        self.is_initialized = True

    def _allocate(self, states: Tensor) -> Tensor:
        # Zeros, since a masked column still enters the attention with weight 0, and 0 · NaN is NaN.
        return states.new_zeros(self.n_slots, states.shape[1], self.window.columns, states.shape[3])

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def pack(self, n: int, source: slice, target: slice) -> None:
        """Copy columns of the first n slots into new buffers."""
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
        window = self.window
        buffer[window.slots, :, window.start : window.end] = new
        return buffer[window.slots, :, window.first : window.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.window.start - self.window.first

    def get_max_length(self) -> int:
        return self.window.columns


class SlotCache(Cache):
    """A transformers cache for rows that restart at any time.

    Whenever a row begins, its tokens are laid down so that they end in the column where all others end. To the model
    this is an ordinary left-padded batch: a decode writes one column and reads a view, and masks, sliding windows and
    distances between tokens are what the model's own code makes of them. Nothing is copied in most steps.

    Args:
        n_slots: ``N``.
        device: the model's.
    """

    def __init__(self, n_slots: int, device: torch.device | str = "cpu") -> None:
        self.window = Window()
        super().__init__(layer_class_to_replicate=partial(SlotLayer, n_slots, self.window))  # type: ignore[arg-type]
        self.mask = torch.zeros(n_slots, 0, dtype=torch.bool, device=device)
        """``[N, columns]`` True where a token stands."""
        self.end = 0
        """The column where every slot's tokens end."""

    def align(self, n: int, longest: int, longest_new: int) -> None:
        """Chooses where the next tokens end, and makes room for them.

        Args:
            n: the first n slots each gain one token; what the others held is forgotten.
            longest: columns of the longest of them.
            longest_new: columns of the longest that begins in another slot.
        """
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
        """Copy slots over others."""
        for layer in self._slot_layers():
            for buffer in layer.buffers:
                buffer[targets] = buffer[sources]
        self.mask[targets] = self.mask[sources]

    def append(self, n: int, longest: int) -> Tensor:
        """Readies the first n slots for one token each.

        Args:
            n: slots.
            longest: columns of the longest of them, the new token's included.

        Returns:
            ``[n, longest]`` their mask.
        """
        self._look(slice(0, n), self.end - longest, self.end - 1)
        self.mask[:n, self.end - 1] = True
        return self.mask[:n, self.end - longest : self.end]

    def fill(self, start: int, mask: Tensor) -> None:
        """Readies the slots from ``start`` on for tokens under ``mask``, ``[k, w]``, that replace what they held."""
        count, width = mask.shape
        slots = slice(start, start + count)
        self._look(slots, self.end - width, self.end - width)
        self.mask[slots] = False
        self.mask[slots, self.end - width : self.end] = mask

    def _look(self, slots: slice, first: int, start: int) -> None:
        window = self.window
        window.slots, window.first, window.start, window.end = slots, first, start, self.end
