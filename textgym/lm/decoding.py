"""Cached decoding: a key-value cache with a slot for each row, and the decoder that fills it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from textgym.lm.files.loading import accepted, cache_argument
from textgym.lm.parts.backbones import position_ids
from textgym.types import IntArray

SPARE_COLUMNS = 16
"""Number of tokens that fit before the columns are packed again. Packing copies the whole cache, so it should be rare;
but memory that lies close together is read up to twice as fast, so spare columns should be few."""


# --- the cache -------------------------------------------------------------------------------------------------


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
    masks, sliding windows and relative positions. Most steps copy nothing. Rows that gain more tokens than others move
    to the left by the difference, so that all rows still end in one column and none has a gap.

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

    def align(self, spans: IntArray, growth: IntArray, longest: int) -> None:
        """Choose the column where the next tokens end, and make room for them.

        Args:
            spans: ``[n]`` columns of the first n slots, the new ones included; all other slots are forgotten.
            growth: ``[n]`` number of new columns of each; slots that gain only one come first.
            longest: columns of the longest row, in these slots or beginning in a different one.
        """
        # Usually the next columns are free and everything stays in place. Otherwise (no column left, a row that is
        # longer than all before it, or nothing to keep) the cached columns move to the left end of new buffers.
        n, least = len(growth), int(growth.min(initial=longest))
        end = self.end + least
        if n == 0 or not longest <= end <= self.window.columns:
            end, cached = longest, _longest(spans - growth)
            source, target = slice(self.end - cached, self.end), slice(end - least - cached, end - least)
            self._pack(n, end - 1 + SPARE_COLUMNS, source, target)
        self.end = end
        further = np.flatnonzero(growth > least)
        if len(further):
            slots = slice(int(further[0]), n)
            columns = np.arange(end - _longest(spans[slots]), end - int(growth.max()))
            self._shift(slots, columns, growth[slots] - least)

    def _pack(self, n: int, columns: int, source: slice, target: slice) -> None:
        self.window.columns = columns
        for layer in self._slot_layers():
            layer.pack(n, source, target)
        packed = self.mask.new_zeros(len(self.mask), columns)
        packed[:n, target] = self.mask[:n, source]
        self.mask = packed

    def _shift(self, slots: slice, columns: IntArray, by: IntArray) -> None:
        """Fill columns ``[c]`` of the slots with what is ``by [k]`` columns to the right of them."""
        # Columns beyond these are read again with the new tokens.
        target = slice(int(columns[0]), int(columns[-1]) + 1)
        source = torch.from_numpy(columns + by[:, None]).to(self.mask.device)
        for layer in self._slot_layers():
            for buffer in layer.buffers:
                heads, d = buffer.shape[1], buffer.shape[3]
                index = source[:, None, :, None].expand(-1, heads, -1, d)
                buffer[slots, :, target] = buffer[slots].gather(2, index)
        self.mask[slots, target] = self.mask[slots].gather(1, source)

    def _slot_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots to other slots."""
        for layer in self._slot_layers():
            for buffer in layer.buffers:
                # The sources are copied first, as some may be targets, too.
                buffer.index_copy_(0, targets, buffer.index_select(0, sources))
        self.mask[targets] = self.mask[sources]

    def append(self, start: int, longest: int, mask: Tensor) -> Tensor:
        """Prepare the slots from ``start`` on for the tokens of their last columns.

        Args:
            start: the first slot.
            longest: columns of the longest of them, the new ones included.
            mask: ``[k, w]`` True for tokens.

        Returns:
            ``[k, longest]`` the mask of all their columns.
        """
        count, width = mask.shape
        slots = slice(start, start + count)
        self._set_window(slots, self.end - longest, self.end - width)
        # The model reads the mask of this step with the new tokens included.
        self.mask[slots, self.end - width : self.end] = mask
        return self.mask[slots, self.end - longest : self.end]

    def fill(self, start: int, mask: Tensor) -> Tensor:
        """Prepare the slots from ``start`` on for new rows under ``mask``, ``[k, w]``, and return it."""
        # Old keys beyond the new tokens stay in the buffers, but are masked.
        self.mask[start : start + len(mask)] = False
        return self.append(start, mask.shape[1], mask)

    def _set_window(self, slots: slice, first: int, start: int) -> None:
        window = self.window
        window.slots, window.first, window.start, window.end = slots, first, start, self.end


# --- changes of the weights ------------------------------------------------------------------------------------

_optimizer_steps = 0


def _count_step(*_: object) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


# Fused optimisers write to memory without raising torch's version counters, so steps are counted too.
register_optimizer_step_post_hook(_count_step)


class WeightsWatch:
    """Detector of changes to a model's present parameters.

    It detects steps of any torch optimiser, loaded states, in-place edits and reassigned ``data``, but not in-place
    edits of ``parameter.data``, which leave no trace.

    Args:
        model: a module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = tuple(model.parameters())  # collected once: walking the modules costs as much as a layer
        self._seen: tuple[object, ...] = ()

    def changed(self) -> bool:
        """Return True if the weights may have changed since the last call; True at the first."""
        state = (_optimizer_steps, *((p._version, p.data_ptr()) for p in self._parameters))
        changed, self._seen = state != self._seen, state
        return changed


# --- the decoder -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
    """Contents of observations.

    Attributes:
        tokens: ``[n, P+T]`` token ids; -1 for empty columns.
        end: ``[n]`` one past the last token's column.
        span: ``[n]`` number of columns from the first token to the last that the cached layers process.
        read: ``[n, P+T]`` ids that the cached layers process; -1 for empty columns.
    """

    tokens: IntArray
    end: IntArray
    span: IntArray
    read: IntArray

    def last(self, rows: IntArray, width: int) -> IntArray:
        """Return ``[k, width]`` the ids that the last columns of these rows hold; -1 for empty columns."""
        columns = self.end[rows, None] + np.arange(-width, 0)
        ids: IntArray = np.where(columns < 0, -1, self.read[rows[:, None], np.maximum(columns, 0)])
        return ids


def _longest(spans: IntArray) -> int:
    return int(spans.max(initial=0))


class Decoder(Protocol):
    """Source of next-token logits for the rows of a vector environment.

    Attributes:
        n_rows: ``N``.
    """

    n_rows: int

    def logits(self, input_ids: IntArray, attention_mask: NDArray[np.int8], rows: IntArray) -> Tensor:
        """Return ``[n, V]`` logits for the requested rows, in their order. See :meth:`PrefixDecoder.logits`."""

    def branch(self, rows: IntArray, sources: IntArray) -> None:
        """Let rows go on from where others stand. See :meth:`PrefixDecoder.branch`."""


def no_column_cache(model: PreTrainedModel) -> str | None:
    """Return the reason why a model cannot decode from cached columns, or None if there is none."""
    if getattr(model, "_is_stateful", False):
        return f"{type(model).__name__} keeps a recurrent state, which is not a cache of columns"
    if cache_argument(model) is None:
        return f"{type(model).__name__} takes no cache"
    return None


class PrefixDecoder:
    """Decoder that follows the rows of a vector environment with a key-value cache.

    Each call compares the observation of every requested row with that of the last call. A row that grew decodes its
    new tokens: rows that grew by one token in one pass, rows that grew by several (a reply of the other side) in a
    second. Any other row (reset, or edited by a wrapper) is prefilled. So the decoder needs no signal from the
    environment, and wrappers cannot break it. Rows that are not requested leave the batch and are forgotten; a change
    of the model's weights discards everything.

    Args:
        model: any causal transformers model that accepts a ``Cache``.
        n_rows: ``N``.
        width: ``P + T``.

    Raises:
        ValueError: the model has no cache of columns; see :func:`no_column_cache`.
    """

    def __init__(self, model: PreTrainedModel, n_rows: int, width: int) -> None:
        if (reason := no_column_cache(model)) is not None:
            raise ValueError(f"{reason}; expected a model whose layers all take a key-value cache")
        self.model = model
        self._cache_name = str(cache_argument(model))
        self.n_rows = n_rows
        self.width = width
        self.cache: SlotCache
        self._weights = WeightsWatch(model)
        self._optional = accepted(model, position_ids=True, logits_to_keep=True)
        self._order: IntArray = np.arange(0)  # rows of the last call, in the order of their cache slots
        self._tokens: IntArray = np.full((n_rows, width), -1, np.int64)  # their observations; -1 for empty columns
        self._end: IntArray = np.zeros(n_rows, np.int64)  # one past the last token's column, for each row

    @torch.inference_mode()
    def logits(self, input_ids: IntArray, attention_mask: NDArray[np.int8], rows: IntArray) -> Tensor:
        """Compute logits of the next token.

        Args:
            input_ids: ``[N, P+T]``.
            attention_mask: ``[N, P+T]``.
            rows: ``[n]`` the requested rows, each once.

        Returns:
            ``[n, V]`` in the order of ``rows``.

        Raises:
            ValueError: a row's attention mask is empty.
        """
        observed = self._observe(input_ids[rows], attention_mask[rows])
        if self._weights.changed():
            self._forget()
        kept, growth = self._keep_grown(rows, observed)
        fresh = np.delete(np.arange(len(rows)), kept)
        self.cache.align(observed.span[kept], growth, _longest(observed.span))
        n_single = int(np.count_nonzero(growth == 1))
        parts = []
        if n_single:
            parts.append(self._decode(observed, kept[:n_single], 0, 1))
        if n_single < len(kept):
            parts.append(self._decode(observed, kept[n_single:], n_single, int(growth.max())))
        if len(fresh):
            parts.append(self._prefill(observed, fresh, len(kept)))
        batch = np.concatenate([kept, fresh])
        self._order, self._tokens[rows], self._end[rows] = rows[batch], observed.tokens, observed.end
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        # Kept rows come first in the batch; the logits are put back into the order of ``rows``, if it differs.
        in_order = (batch[:-1] < batch[1:]).all()
        return logits if in_order else logits[self._on_device(np.argsort(batch))]

    @torch.inference_mode()
    def branch(self, rows: IntArray, sources: IntArray) -> None:
        """Let rows go on from where others stand, as if each had shown what its source showed in the last call.

        It saves work and decides nothing: whatever a row shows in the next call, its logits are right.

        Args:
            rows: ``[n]`` different rows.
            sources: ``[n]`` rows of the last call, one for each; other rows than those are passed over.
        """
        order, self._order = self._order, np.arange(0)  # stays empty if copying fails, so that all is prefilled
        slots = np.full(self.n_rows, -1)
        slots[order] = np.arange(len(order))
        known = slots[sources] >= 0
        rows, sources = rows[known], sources[known]
        new = rows[slots[rows] < 0]
        slots[new] = len(order) + np.arange(len(new))
        differ = rows != sources
        if differ.any():
            self._move(*(self._on_device(slots[each[differ]]) for each in (sources, rows)))
            self._tokens[rows], self._end[rows] = self._tokens[sources], self._end[sources]
        self._order = np.concatenate([order, new])

    def _observe(self, input_ids: IntArray, attention_mask: NDArray[np.int8]) -> Observed:
        seen = attention_mask.astype(bool)
        if not seen.any(1).all():
            raise ValueError("an observation's attention_mask is all 0; expected at least one prompt token")
        # ``argmax`` of the reversed mask finds the last token; the mask may have holes, which are no tokens either.
        end = seen.shape[1] - seen[:, ::-1].argmax(1)
        tokens = np.where(seen, input_ids, -1)
        return Observed(tokens, end, end - seen.argmax(1), tokens)

    def _forget(self) -> None:
        self._order = np.arange(0)
        self.cache = SlotCache(self.n_rows, self.model.device)

    def _move(self, sources: Tensor, targets: Tensor) -> None:
        self.cache.move(sources, targets)

    def _keep_grown(self, rows: IntArray, observed: Observed) -> tuple[IntArray, IntArray]:
        """Assign the first slots to the requested rows that grew; all others are forgotten.

        Returns:
            Their positions among the requested rows, in the order of the slots, and by how many columns each grew.
            Those that grew by one come first.
        """
        known, self._order = self._order, np.arange(0)  # stays empty if the model raises, so that all is prefilled
        places = np.full(self.n_rows, -1)
        places[rows] = np.arange(len(rows))
        at = places[known]  # -1 for known rows that are not requested; their comparison below is discarded
        growth = np.where(at >= 0, self._growth(known, observed, at), 0)
        n = np.count_nonzero(growth)
        # Those that grew by one (1), those that grew by several (2) and the forgotten (3) must each fill their slots
        # without gaps, so that the model reads a plain slice. Only rows that are among another kind's slots move; the
        # order within a kind does not matter.
        kind = np.where(growth > 0, np.minimum(growth, 2), 3)
        wanted = np.sort(kind)
        astray = np.flatnonzero(kind != wanted)
        if len(astray):
            n_moved = np.count_nonzero(growth[astray])
            sources, targets = (astray[np.argsort(k[astray], kind="stable")][:n_moved] for k in (kind, wanted))
            self._move(self._on_device(sources), self._on_device(targets))
            at[targets], growth[targets] = at[sources], growth[sources]
        return at[:n], growth[:n]

    def _growth(self, known: IntArray, observed: Observed, at: IntArray) -> IntArray:
        """Return ``[n]`` by how many columns known rows grew; 0 for a row whose former columns changed.

        Args:
            known: ``[n]`` rows of the last call.
            observed: observations of this call.
            at: ``[n]`` their positions in it.
        """
        changed = observed.tokens[at] != self._tokens[known]
        end = self._end[known]
        growth: IntArray = np.where(changed.argmax(1) < end, 0, observed.end[at] - end)
        return growth

    def _decode(self, observed: Observed, kept: IntArray, slot: int, width: int) -> Tensor:
        # Where others of the pass grew by more, a row reads former tokens again: a gap would shift relative positions.
        ids = self._on_device(observed.last(kept, width))
        mask = self.cache.append(slot, _longest(observed.span[kept]), ids >= 0)
        return self._forward(ids.clamp(min=0), mask, position_ids(mask)[:, -width:])

    def _prefill(self, observed: Observed, fresh: IntArray, slot: int) -> Tensor:
        # Rows of different lengths are aligned at their ends, as a left-padded batch.
        ids = self._on_device(observed.last(fresh, _longest(observed.span[fresh])))
        mask = self.cache.fill(slot, ids >= 0)
        return self._forward(ids.clamp(min=0), mask, position_ids(mask))

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        optional = {"position_ids": positions, "logits_to_keep": 1}
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            use_cache=True,
            **{self._cache_name: self.cache},
            **{name: optional[name] for name in self._optional},
        ).logits
        return logits[:, -1]

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.cache.mask.device)
