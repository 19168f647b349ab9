"""A key-value cache of slots that begin and end independently, yet all stand at the same column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

SPARE_COLUMNS = 64
"""Beyond a row's longest prefix: so many tokens are decoded before the columns are moved back to the left."""


@dataclass
class Window:
    """What one forward pass writes and reads; all layers look here.

    Attributes:
        slots: of which slots.
        first: the column where reading begins.
        start: the column where writing begins.
        end: the column where both end.
    """

    slots: slice
    first: int
    start: int
    end: int


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, ``[N, heads, columns, d]`` each, allocated at the first use."""

    is_sliding = False  # a model's sliding window is its mask's business: every column is here

    def __init__(self, n_slots: int, columns: int, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_slots = n_slots
        self.columns = columns
        self.window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, states: Tensor) -> Tensor:
        # Zeros, since a masked column still enters the attention with weight 0, and 0 · NaN is NaN.
        heads, size = states.shape[1], states.shape[3]
        return states.new_zeros(self.n_slots, heads, self.columns, size)

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

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
        return self.columns


class SlotCache(Cache):
    """A transformers cache for rows that restart at any time.

    Whenever a row begins, its tokens are laid down so that they end in the column where all others end. To the model
    this is an ordinary left-padded batch: a decode writes one column and reads a view, and masks, sliding windows and
    distances between tokens are what the model's own code makes of them.

    Args:
        n_slots: ``N``.
        width: ``P + T``, the most tokens that a slot holds.
        device: the model's.
    """

    def __init__(self, n_slots: int, width: int, device: torch.device | str = "cpu") -> None:
        self.columns = width + SPARE_COLUMNS
        self.window = Window(slice(0), 0, 0, 0)
        layer = partial(SlotLayer, n_slots, self.columns, self.window)
        super().__init__(layer_class_to_replicate=layer)  # type: ignore[arg-type]
        self.mask = torch.zeros(n_slots, self.columns, dtype=torch.bool, device=device)
        """``[N, columns]`` True where a token stands."""
        self.end = 0
        """The column where every slot's tokens end."""

    def align(self, n: int, longest: int, longest_new: int) -> None:
        """Chooses where the next tokens end: the first n slots, of at most ``longest`` columns, each gain one token,
        and others begin with up to ``longest_new``."""
        end = self.end + 1 if n else longest_new
        if not longest_new <= end <= self.columns:
            end = max(longest + 1, longest_new)
            self._shift(n, slice(self.end - longest, self.end), slice(end - 1 - longest, end - 1))
        self.end = end

    def _shift(self, n: int, source: slice, target: slice) -> None:
        for buffer in self._buffers():
            buffer[:n, :, target] = buffer[:n, :, source].clone()  # the two may overlap
        moved = self.mask[:n, source].clone()
        self.mask[:n] = False
        self.mask[:n, target] = moved

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copies slots over others."""
        used = slice(0, self.end)
        for buffer in self._buffers():
            buffer[targets, :, used] = buffer[sources, :, used]
        self.mask[targets] = self.mask[sources]

    def _buffers(self) -> list[Tensor]:
        return [buffer for layer in self.layers if isinstance(layer, SlotLayer) for buffer in layer.buffers]

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
