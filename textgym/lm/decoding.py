"""Next-token logits for observations, at the cost of one token per row and step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from textgym.lm.cache import DecodeWindow, PrefillWindow, SlotCache
from textgym.lm.loading import accepted, position_ids
from textgym.types import BoolArray, IntArray


class PrefixDecoder:
    """Follows the rows of a vector environment with a key-value cache.

    Each call compares every row's observation with what is cached for it: a row that grew by one token decodes that
    token; any other row (reset, edited by a wrapper, grown by a whole turn) is prefilled. So it needs no word from
    the environment, and nothing breaks when a wrapper interferes. A change of the model's parameters empties the
    cache.

    Rows that are not asked for leave the batch: the asked rows that decode occupy the cache's first slots, so that
    the model reads a view of it.

    Args:
        model: any causal transformers model that takes a ``Cache``.
        n_rows: ``N``.
        width: ``P + T``.
    """

    def __init__(self, model: PreTrainedModel, n_rows: int, width: int) -> None:
        self.model = model
        self.cache = SlotCache(n_rows, width)
        self.fresh: BoolArray = np.zeros(n_rows, bool)
        """``[N]``: which rows the last call found to begin anew."""
        self._tokens: IntArray = np.full((n_rows, width), -1, np.int64)  # what is cached; -1 where no token stands
        self._end: IntArray = np.zeros(n_rows, np.int64)  # columns cached; 0 for none
        self._slot: IntArray = np.arange(n_rows)
        self._columns = np.arange(width)
        self._weights_version = -1

    @torch.inference_mode()
    def logits(self, input_ids: IntArray, attention_mask: NDArray[np.int8], rows: IntArray) -> Tensor:
        """Logits of the next token.

        Args:
            input_ids: ``[N, P+T]``.
            attention_mask: ``[N, P+T]``.
            rows: ``[n]`` the rows that are asked for.

        Returns:
            ``[n, V]`` in the order of ``rows``.

        Raises:
            ValueError: a row's attention mask is empty.
        """
        self._forget_if_trained()
        seen = attention_mask.astype(bool)
        tokens = np.where(seen, input_ids, -1)
        end = np.where(seen.any(1), self.cache.width - seen[:, ::-1].argmax(1), 0)
        if not end[rows].all():
            raise ValueError("an observation's attention_mask is all 0; expected at least one prompt token")
        before = self._columns < self._end[:, None]
        extends = (self._end > 0) & (end == self._end + 1) & ((tokens == self._tokens) | ~before).all(1)
        decoding, anew = rows[extends[rows]], rows[~extends[rows]]
        self._settle(decoding, anew)
        out: Tensor | None = None
        position = np.empty(self.cache.n_slots, np.int64)
        position[rows] = np.arange(len(rows))
        for group, run in [(decoding, self._decode), *((g, self._prefill) for g in _by_value(anew, end))]:
            if len(group) == 0:
                continue
            part = run(group, tokens, seen, end)
            if len(group) == len(rows) and (group == rows).all():
                out = part
                continue
            out = part.new_empty(len(rows), part.shape[1]) if out is None else out
            out[torch.from_numpy(position[group])] = part
        assert out is not None, "rows must not be empty"
        self._tokens[rows], self._end[rows] = tokens[rows], end[rows]
        self.fresh[:] = False
        self.fresh[anew] = True
        return out

    def _forget_if_trained(self) -> None:
        # Tensors count their in-place changes, so an optimiser step or a loaded state cannot go unnoticed.
        version = sum(parameter._version for parameter in self.model.parameters())
        if version != self._weights_version:
            self._weights_version = version
            self._end[:] = 0
            # Rows back in their places: a resumed run must batch as the uninterrupted one does, to be equal in bits.
            self._slot[:] = np.arange(self.cache.n_slots)

    def _settle(self, decoding: IntArray, anew: IntArray) -> None:
        """Gives the decoding rows the first slots, moving those that stand further back, then the new rows."""
        n = len(decoding)
        ordered = decoding[np.argsort(self._slot[decoding], kind="stable")]
        taken = self._slot[ordered]
        holes = np.setdiff1d(np.arange(n), taken[taken < n])
        for row, hole in zip(ordered[taken >= n], holes, strict=True):
            self.cache.move(int(self._slot[row]), int(hole), int(self._end[row]))
            self._slot[row] = hole
        others = np.setdiff1d(np.arange(self.cache.n_slots), decoding)
        idle = np.setdiff1d(others, anew)
        self._end[idle] = 0  # their slots are given away
        self._slot[np.concatenate([anew, idle])] = np.arange(n, self.cache.n_slots)

    def _decode(self, rows: IntArray, tokens: IntArray, seen: BoolArray, end: IntArray) -> Tensor:
        order = np.argsort(self._slot[rows], kind="stable")  # slot order is batch order
        in_order = rows[order]
        columns = end[in_order] - 1
        first, last = int(seen[in_order].argmax(1).min()), int(columns.max()) + 1
        mask = torch.from_numpy(seen[in_order, first:last])
        self.cache.window = DecodeWindow(self._on_device(torch.from_numpy(columns)), first, last)
        ids = torch.from_numpy(tokens[in_order, columns])[:, None]
        positions = torch.from_numpy(seen[in_order].sum(1) - 1)[:, None]
        logits = self._forward(ids, mask, positions)
        return logits if (order[:-1] < order[1:]).all() else logits[torch.from_numpy(np.argsort(order))]

    def _prefill(self, rows: IntArray, tokens: IntArray, seen: BoolArray, end: IntArray) -> Tensor:
        first, last = int(seen[rows].argmax(1).min()), int(end[rows[0]])
        mask = torch.from_numpy(seen[rows, first:last])
        slots = self._on_device(torch.from_numpy(self._slot[rows]))
        self.cache.window = PrefillWindow(slots, first, last)
        ids = torch.from_numpy(np.maximum(tokens[rows, first:last], 0))
        return self._forward(ids, mask, position_ids(mask))

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        optional = accepted(self.model, position_ids=self._on_device(positions), logits_to_keep=1)
        logits: Tensor = self.model(
            input_ids=self._on_device(ids),
            attention_mask=self._on_device(mask),
            past_key_values=self.cache,
            use_cache=True,
            **optional,
        ).logits
        return logits[:, -1]

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.device)


def _by_value(rows: IntArray, end: IntArray) -> list[IntArray]:
    """The rows in groups that end in the same column, so that one causal mask serves each group."""
    return [rows[end[rows] == value] for value in np.unique(end[rows])]
