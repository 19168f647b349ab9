"""Freezing a model's lower layers, as InstructGPT's training does (Ouyang 2022, arXiv 2203.02155)."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers, from the embedding up.

    Raises:
        ValueError: they stand in no list of their own.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} does not keep its {count} layers in one list, as expected here")
