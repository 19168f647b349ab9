"""Decoding with a key-value cache: next-token logits of observations at the cost of one token per row and step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

from textgym.lm.backbones import position_ids
from textgym.lm.cache import SlotCache
from textgym.lm.loading import accepted, cache_argument
from textgym.types import IntArray

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


def no_column_cache(model: PreTrainedModel) -> str | None:
    """Return the reason why a model cannot decode from cached columns, or None if there is none."""
    if getattr(model, "_is_stateful", False):
        return f"{type(model).__name__} keeps a recurrent state, which is not a cache of columns"
    if cache_argument(model) is None:
        return f"{type(model).__name__} takes no cache"
    return None


class PrefixDecoder:
    """Decoder that follows the rows of a vector environment with a key-value cache.

    Each call compares the observation of every requested row with that of the last call. A row that grew by one token
    decodes that token; any other row (reset, edited by a wrapper, grown by a whole turn) is prefilled. So the decoder
    needs no signal from the environment, and wrappers cannot break it. Rows that are not requested leave the batch and
    are forgotten; a change of the model's weights discards everything.

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
        kept = self._keep_grown(rows, observed)
        fresh = np.delete(np.arange(len(rows)), kept)
        # The kept rows' cached part is their span without the new token.
        self.cache.align(len(kept), max(_longest(observed.span[kept]) - 1, 0), _longest(observed.span[fresh]))
        parts = []
        if len(kept):
            parts.append(self._decode(observed, kept))
        if len(fresh):
            parts.append(self._prefill(observed, fresh, len(kept)))
        batch = np.concatenate([kept, fresh])
        self._order, self._tokens[rows], self._end[rows] = rows[batch], observed.tokens, observed.end
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        # Kept rows come first in the batch; the logits are put back into the order of ``rows``, if it differs.
        in_order = (batch[:-1] < batch[1:]).all()
        return logits if in_order else logits[self._on_device(np.argsort(batch))]

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

    def _keep_grown(self, rows: IntArray, observed: Observed) -> IntArray:
        """Assign the first slots to the requested rows that grew by one token; all others are forgotten.

        Returns:
            Their positions among the requested rows, in the order of the slots.
        """
        known, self._order = self._order, np.arange(0)  # stays empty if the model raises, so that all is prefilled
        places = np.full(self.n_rows, -1)
        places[rows] = np.arange(len(rows))
        at = places[known]  # -1 for known rows that are not requested; their comparison below is discarded
        n_new = np.count_nonzero(observed.tokens[at] != self._tokens[known], axis=1)
        stays = (at >= 0) & (observed.end[at] == self._end[known] + 1) & (n_new == 1)
        # Kept rows must fill slots 0 to n − 1 without gaps, so that the model reads a plain slice. Only those beyond
        # move, into the slots that became free; the order of the rest does not matter.
        n = np.count_nonzero(stays)
        holes, astray = np.flatnonzero(~stays[:n]), n + np.flatnonzero(stays[n:])
        if len(holes):
            self._move(self._on_device(astray), self._on_device(holes))
            at[holes] = at[astray]
        kept: IntArray = at[:n]
        return kept

    def _decode(self, observed: Observed, kept: IntArray) -> Tensor:
        ids = observed.read[kept, observed.end[kept] - 1]
        # Attention covers as many columns as the longest kept row has, however wide the observation is.
        mask = self.cache.append(len(kept), _longest(observed.span[kept]))
        return self._forward(self._on_device(ids)[:, None], mask, mask.sum(1, keepdim=True) - 1)

    def _prefill(self, observed: Observed, fresh: IntArray, slot: int) -> Tensor:
        # Rows of different lengths are aligned at their ends, as a left-padded batch.
        columns = observed.end[fresh, None] + np.arange(-_longest(observed.span[fresh]), 0)
        ids = np.where(columns < 0, -1, np.take_along_axis(observed.read[fresh], np.maximum(columns, 0), 1))
        mask = self._on_device(ids >= 0)
        self.cache.fill(slot, mask)
        return self._forward(self._on_device(np.maximum(ids, 0)), mask, position_ids(mask))

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
