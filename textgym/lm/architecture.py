"""Which kind of language model it is: what reads whole sequences, and what decodes with a cache."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedModel

from textgym.lm.backbones import Backbone, CausalBackbone
from textgym.lm.decoding import PrefixDecoder
from textgym.lm.loading import is_encoder_decoder, shared_copy
from textgym.lm.seq2seq import Seq2SeqBackbone, Seq2SeqDecoder


def make_backbone(model: PreTrainedModel, n_frozen: int = 0) -> Backbone:
    """The model without its output head, as a function of whole sequences.

    Args:
        model: with or without that head.
        n_frozen: so many of its lower layers are frozen.
    """
    if is_encoder_decoder(model):
        return Seq2SeqBackbone(model, n_frozen)
    return CausalBackbone(model.base_model, n_frozen)


def make_decoder(model: PreTrainedModel, n_rows: int, width: int, prompt_length: int) -> PrefixDecoder:
    """What gives next-token logits to ``n_rows`` observations of ``P + T`` columns.

    Args:
        model: causal or encoder–decoder.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``, which tells an encoder–decoder what its encoder reads.
    """
    if is_encoder_decoder(model):
        return Seq2SeqDecoder(model, n_rows, width, prompt_length)
    return PrefixDecoder(model, n_rows, width)


def trunk_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its output head, as a transformers model of its own that shares its memory."""
    if model.base_model is not model:
        return cast(PreTrainedModel, model.base_model)
    from transformers import AutoModel  # takes seconds to import

    # T5's encoder and decoder stand beside its head, not below it.
    return shared_copy(AutoModel.from_config, model, lambda name: name)
