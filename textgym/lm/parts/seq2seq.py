"""Encoder–decoder models (T5, BART …): the encoder reads the prompt, the decoder writes the response."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from textgym.lm.decoding import Observed, PrefixDecoder
from textgym.lm.files.loading import accepted, is_encoder_decoder
from textgym.lm.parts.backbones import tokens_first
from textgym.types import IntArray


def start_token(model: PreTrainedModel) -> int:
    """Return the token that the decoder reads before the first token of a response.

    Raises:
        ValueError: the model is not an encoder–decoder, or its configs define no such token.
    """
    if not is_encoder_decoder(model):
        raise ValueError(f"{type(model).__name__} is not an encoder–decoder; expected a model such as T5 or BART")
    for config in (getattr(model, "generation_config", None), model.config):
        token = getattr(config, "decoder_start_token_id", None)
        if token is not None:
            return int(token)
    raise ValueError(f"{type(model).__name__} names no decoder_start_token_id in its config, which its decoder needs")


class Seq2SeqBackbone:
    """Encoder and decoder without the output head; one pass of each for a batch of sequences.

    The prompts' tokens are moved to the left, where models with learned positions expect them. If the encoder is
    frozen, its output can be kept.

    Args:
        model: with or without its output head.
        n_frozen: number of the encoder's layers that are frozen.
    """

    def __init__(self, model: PreTrainedModel, n_frozen: int = 0) -> None:
        self.module: nn.Module = model
        self.start = start_token(model)
        self.encoder: nn.Module = model.get_encoder()
        self.decoder: nn.Module = model.get_decoder()
        self.stacks: Sequence[nn.Module] = (self.encoder, self.decoder)
        self.keeps = n_frozen > 0 and not any(p.requires_grad for p in self.encoder.parameters())

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        """Compute states; see :meth:`textgym.lm.parts.backbones.Backbone.states`."""
        prompt, mask = _prompts(input_ids, attention_mask, prompt_length)
        kept = None if prefix is None or not self.keeps else prefix[:, : prompt.shape[1]]
        encoded = self._encode(prompt, mask) if kept is None else kept
        response = input_ids[:, prompt_length:]
        return self._decode(torch.cat([response.new_full((len(response), 1), self.start), response], 1), encoded, mask)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        """Return ``[n, L, d]``, the encoder's output for prompts of up to L tokens; None if the encoder is trained."""
        return self._encode(*_prompts(input_ids, attention_mask, prompt_length)) if self.keeps else None

    def inputs(self, input_ids: Tensor) -> dict[str, Any]:
        masks = dict.fromkeys(("attention_mask", "decoder_attention_mask"), torch.ones_like(input_ids))
        return {"input_ids": input_ids, "decoder_input_ids": input_ids, "use_cache": False, **masks}

    def last_states(self, inputs: dict[str, Any]) -> Tensor:
        mask = inputs["attention_mask"]
        return self._decode(inputs["decoder_input_ids"], self._encode(inputs["input_ids"], mask), mask)

    def _encode(self, prompt: Tensor, mask: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(input_ids=prompt, attention_mask=mask).last_hidden_state
        return encoded

    def _decode(self, ids: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.decoder(
            input_ids=ids,
            # Padding is on the right, where causal attention does not reach. Without a mask, T5Gemma would make one
            # from its PAD id, which a policy may have sampled.
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        return states


def _prompts(input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> tuple[Tensor, Tensor]:
    """Return ``[n, L]`` the prompts' tokens, moved to the left, and their mask."""
    mask = attention_mask[:, :prompt_length]
    prompt = tokens_first(input_ids[:, :prompt_length], mask)
    return prompt, (torch.arange(prompt.shape[1], device=mask.device) < mask.sum(1)[:, None]).long()


class PromptLayer(CacheLayerMixin):
    """Cache layer with the keys and values of the prompts, ``[N, heads, P, d]`` each, allocated at the first use."""

    def __init__(self, memory: PromptMemory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = memory
        self.buffers: tuple[Tensor, ...] = ()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        n, width = self.memory.mask.shape
        self.buffers = tuple(x.new_zeros(n, x.shape[1], width, x.shape[3]) for x in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[self.memory.slots, :, : new.shape[2]] = new
        return key_states, value_states

    def select(self) -> None:
        """Expose the slots that are decoded in the attributes ``keys`` and ``values``, which the model reads."""
        self.keys, self.values = (buffer[self.memory.slots, :, : self.memory.width] for buffer in self.buffers)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.memory.width, 0

    def get_seq_length(self) -> int:
        return self.memory.width

    def get_max_length(self) -> int:
        return self.memory.mask.shape[1]


class PromptMemory(Cache):
    """Cross-attention cache of the prompts: the encoder runs once per slot, when its episode begins.

    Args:
        n_slots: ``N``.
        prompt_length: ``P``.
        device: the model's device.
    """

    def __init__(self, n_slots: int, prompt_length: int, device: torch.device) -> None:
        super().__init__(layer_class_to_replicate=lambda: PromptLayer(self))  # type: ignore[arg-type]
        self.mask = torch.zeros(n_slots, prompt_length, dtype=torch.long, device=device)
        self.states: Tensor | None = None  # encoder states, [N, P, d]
        self.slots = slice(0)
        self.width = 0

    def write(self, start: int, states: Tensor, mask: Tensor) -> None:
        """Store prompts ``[k, w, d]`` in the slots from ``start`` on; the next pass adds their keys and values."""
        if self.states is None:
            self.states = states.new_zeros(*self.mask.shape, states.shape[-1])
        # The next forward pass writes keys and values of these slots, so the selection stays until then.
        self.slots, self.width = slice(start, start + len(mask)), mask.shape[1]
        self.states[self.slots, : self.width] = states
        self.mask[self.slots] = 0
        self.mask[self.slots, : self.width] = mask

    def select(self, slots: slice) -> None:
        """Select slots for the next forward pass."""
        self.slots = slots
        self.width = int(self.mask[slots].sum(1).max())
        for layer in self._prompt_layers():
            layer.select()

    @property
    def selected(self) -> tuple[Tensor, Tensor]:
        """``[n, w, d]`` encoder states of the selected slots, and their mask."""
        assert self.states is not None
        return self.states[self.slots, : self.width], self.mask[self.slots, : self.width]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots to other slots."""
        assert self.states is not None
        buffers = [buffer for layer in self._prompt_layers() for buffer in layer.buffers]
        for tensor in (self.states, self.mask, *buffers):
            tensor[targets] = tensor[sources]

    def _prompt_layers(self) -> list[PromptLayer]:
        return [layer for layer in self.layers if isinstance(layer, PromptLayer)]


class Seq2SeqDecoder(PrefixDecoder):
    """Decoder for encoder–decoders: each prompt is encoded once, each response token decoded once.

    For the decoder's cache, a row is its response, preceded by the decoder's start token. All else is inherited from
    :class:`textgym.lm.decoding.PrefixDecoder`.

    Args:
        model: an encoder–decoder.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``.
    """

    memory: PromptMemory

    def __init__(self, model: PreTrainedModel, n_rows: int, width: int, prompt_length: int) -> None:
        super().__init__(model, n_rows, width)
        self.prompt_length = prompt_length
        self.start = start_token(model)
        self.encoder = model.get_encoder()
        self._optional = accepted(model, decoder_position_ids=True)
        self._positions = None if self._optional else _positional_embedding(model)
        self._encoded: Callable[..., Any] = BaseModelOutput  # the class of the encoder's output

    def _observe(self, input_ids: IntArray, attention_mask: NDArray[np.int8]) -> Observed:
        last = self.prompt_length - 1
        observed = super()._observe(input_ids, attention_mask)
        if not (observed.tokens[:, : last + 1] >= 0).any(1).all():
            raise ValueError("an observation has no prompt; expected at least one token for the encoder")
        # To the decoder the last prompt column holds the start token, and all columns before it are empty. ``tokens``
        # keeps the prompt, so that a change of it is noticed and the row prefilled.
        read = observed.tokens.copy()
        read[:, :last], read[:, last] = -1, self.start
        end = np.maximum(observed.end, last + 1)
        return Observed(observed.tokens, end, end - last, read)

    def _forget(self) -> None:
        super()._forget()
        self.memory = PromptMemory(self.n_rows, self.prompt_length, self.model.device)

    def _move(self, sources: Tensor, targets: Tensor) -> None:
        super()._move(sources, targets)
        self.memory.move(sources, targets)

    def _decode(self, observed: Observed, kept: IntArray, slot: int, width: int) -> Tensor:
        self.memory.select(slice(slot, slot + len(kept)))
        return super()._decode(observed, kept, slot, width)

    def _prefill(self, observed: Observed, fresh: IntArray, slot: int) -> Tensor:
        tokens = self._on_device(observed.tokens[fresh, : self.prompt_length])
        prompt, mask = _prompts(tokens.clamp(min=0), (tokens >= 0).long(), self.prompt_length)
        encoded = self.encoder(input_ids=prompt, attention_mask=mask)
        self._encoded = type(encoded)
        self.memory.write(slot, encoded.last_hidden_state, mask)
        return super()._prefill(observed, fresh, slot)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        cache = EncoderDecoderCache(self.cache, self.memory)
        # ``is_updated`` tells the model to reuse cached cross-attention keys. A prefill, which writes from the first
        # column that it reads, brings new prompts without keys.
        prefilled = self.cache.window.start == self.cache.window.first
        cache.is_updated = {} if prefilled else dict.fromkeys(range(len(self.memory.layers)), True)
        states, prompt_mask = self.memory.selected
        with _row_positions(self._positions, positions):
            logits: Tensor = self.model(
                encoder_outputs=self._encoded(last_hidden_state=states),
                attention_mask=prompt_mask,
                decoder_input_ids=ids,
                decoder_attention_mask=mask.long(),
                use_cache=True,
                **{self._cache_name: cache},
                **dict.fromkeys(self._optional, positions),
            ).logits
        return logits[:, -1]


def _positional_embedding(model: PreTrainedModel) -> nn.Module | None:
    """Return the decoder's positional embedding; None if it has none, as with relative positions.

    Raises:
        ValueError: the embedding accepts no position ids.
    """
    embedding = getattr(model.get_decoder(), "embed_positions", None)
    if embedding is not None and "position_ids" not in inspect.signature(embedding.forward).parameters:
        raise ValueError(
            f"the positional embedding of {type(model).__name__} accepts no position_ids, which rows that begin at "
            "different times need; expected one as BART's"
        )
    return embedding


@contextmanager
def _row_positions(embedding: nn.Module | None, positions: Tensor) -> Iterator[None]:
    """Make the decoder embed these positions, ``[n, w]``, while the block runs.

    By itself it gives all rows the same.
    """
    if embedding is None:
        yield
        return

    def of_rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Tensor) -> Tensor:
        # One call embeds all positions that occur; each row then takes its own. Calling ``forward`` skips this hook.
        every = torch.arange(int(positions.max()) + 1, device=positions.device)
        table: Tensor = module.forward(*args, **{**kwargs, "position_ids": every})
        return table.reshape(len(every), -1)[positions]

    hook = embedding.register_forward_hook(of_rows, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
