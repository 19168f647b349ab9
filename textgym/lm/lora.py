"""Adapters inside a model's layers: LoRA (Hu 2021, arXiv 2106.09685) and its relatives, through peft.

An adapted model is a transformers model like any other: it acts, is scored and is saved by the same code. What is
special stands here: only the adapters are trained, and with the adapters switched off it is the model it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from textgym.lm.bars import without_bars
from textgym.lm.freezing import layers_of
from textgym.lm.loading import frozen_dropout, shared_copy
from textgym.lm.scoring import Trunk

WRAPPED = (".base_layer.", ".original_module.")
"""How peft names what stood in a wrapped module's place."""


def add_lora(model: PreTrainedModel, lora: Any, first_layer: int, seed: int) -> PreTrainedModel:
    """Puts adapters into a model, which are all that is trained from then on.

    Args:
        model: changed in place.
        lora: a rank, for every linear map but the output head, or a configuration of peft's.
        first_layer: a rank's adapters leave the layers before this one out.
        seed: of the adapters' initial values; global random state is neither read nor changed.

    Raises:
        ImportError: peft is not installed.
        ValueError: the configuration matches none of the model's modules, or does not fit.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("lora needs peft: install textgym[lora]") from error
    if is_adapted(model):
        raise ValueError("lora was given for a model that has adapters already; leave one of them out")
    if isinstance(lora, int):
        lora = LoraConfig(**_every_linear_map(model, lora, first_layer))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        maps = sorted({name.rpartition(".")[2] for name, _ in _linear_maps(model)})
        try:
            model.add_adapter(lora)
        except ValueError as error:
            raise ValueError(
                f"lora does not fit {type(model).__name__}: {error} Its linear maps are called {', '.join(maps)}"
            ) from error
    return train_adapters(model)


def _every_linear_map(model: PreTrainedModel, rank: int, first_layer: int) -> dict[str, Any]:
    layers = layers_of(model)
    if rank < 1:
        raise ValueError(f"lora={rank}; expected a rank of at least 1")
    frozen = {module for layer in layers[:first_layer] for module in layer.modules()}
    targets = [name for name, module in _linear_maps(model) if module not in frozen]
    if not targets:
        raise ValueError(f"freeze_layers={first_layer} leaves none of the {len(layers)} layers for lora={rank}")
    return {
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),
    }


def _linear_maps(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    head = model.get_output_embeddings()
    named = (pair for pair in model.named_modules() if pair[1] is not head)
    return [(name, module) for name, module in named if isinstance(module, nn.Linear | Conv1D)]


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has adapters."""
    return bool(getattr(model, "peft_config", None))


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside peft's wrapper, with its adapters; any other model as it is.

    Raises:
        ValueError: the wrapper does more than put adapters into layers.
    """
    inner: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,assignment]
    for config in getattr(model, "peft_config", {}).values():
        if config.is_prompt_learning:
            raise ValueError(f"{config.peft_type} learns a prompt; expected adapters inside the layers, such as LoRA")
        if getattr(config, "bias", "none") != "none":
            raise ValueError(
                f"bias={config.bias!r} trains the model's own biases, which switching the adapters off does not undo; "
                "expected bias='none'"
            )
    if is_adapted(inner):
        inner._hf_peft_config_loaded = True  # as add_adapter would have left it
    return inner


def train_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Makes the active adapters all that is trained.

    Raises:
        ValueError: none is active.
    """
    unwrapped(model).requires_grad_(False)
    model.set_adapter(model.active_adapters())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"the adapters of {type(model).__name__} hold no parameter to train")
    return frozen_dropout(model)  # adapters may bring their own


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model is what it was without its adapters, bit for bit."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        model.requires_grad_(False)  # peft makes every adapter trainable, also those that were frozen
        for parameter in trained:
            parameter.requires_grad_(True)


class AdaptersOff(Trunk):
    """The model as it was before its adapters: a KL reference that needs no second copy.

    Args:
        model: whose adapters are switched off for each pass.
        n_frozen: so many of its lower layers are frozen.
    """

    def __init__(self, model: PreTrainedModel, n_frozen: int = 0) -> None:
        super().__init__(model, n_frozen)
        head = self.head

        def plain_head(states: Tensor) -> Tensor:
            with adapters_off(model):
                logits: Tensor = head(states)
            return logits

        self.head = plain_head

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int, prefix: Tensor | None = None
    ) -> Tensor:
        with adapters_off(self.model):
            return super().hidden_states(input_ids, attention_mask, prompt_length, prefix)

    def prefix(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor | None:
        with adapters_off(self.model):
            return super().prefix(input_ids, attention_mask, prompt_length)


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it was before its adapters, as a module of its own that shares their memory."""
    if not is_adapted(model):
        return model

    def plain(name: str) -> str:
        for wrapped in WRAPPED:
            name = name.replace(wrapped, ".")
        return name

    return shared_copy(type(model), model, plain)


def save_pretrained(model: PreTrainedModel, directory: Path) -> None:
    """Writes what ``from_pretrained`` opens: an adapted model as the model it was, with the adapters beside it."""
    with without_bars():
        without_adapters(model).save_pretrained(directory)
        if is_adapted(model):
            model.save_pretrained(directory)
