"""Adapters inside a model's layers: LoRA (Hu 2021, arXiv 2106.09685) and related methods, through peft.

An adapted model is an ordinary transformers model: the same code samples from it, scores it and saves it. This module
holds the special parts: only the adapters are trained, and with the adapters off it is the original model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from textgym.lm.files.adapters import (
    BASE,
    PREFIX,
    active_adapter,
    adapter_tensors,
    inject,
    lead_to_base,
    peft_configs,
    write_adapters,
    written_config,
)
from textgym.lm.files.bars import without_bars
from textgym.lm.files.loading import accepted, embedding_rows, frozen_dropout
from textgym.lm.parts.freezing import layers_of
from textgym.lm.trunk import Trunk
from textgym.numbers import count, plain

Model = TypeVar("Model", bound=nn.Module)


def add_lora(model: PreTrainedModel, lora: Any, first_layer: int, seed: int) -> PreTrainedModel:
    """Add adapters to a model; only they are trained from then on.

    Args:
        model: changed in place.
        lora: a rank, for every linear map except the output head, or a peft configuration.
        first_layer: with a rank, the first layer that gets adapters.
        seed: seed of the adapters' initial values; global random state is neither read nor changed.

    Raises:
        ImportError: peft is not installed.
        ValueError: the configuration matches none of the model's modules, or does not fit; or this kind of adapter
            cannot be restored from a checkpoint.
    """
    try:
        from peft import LoraConfig, PeftConfig
    except ImportError as error:
        raise ImportError("lora needs peft: install textgym[lora]") from error
    if is_adapted(model):
        raise ValueError("lora was given for a model that has adapters already; leave one of them out")
    if plain(lora) is not None:
        lora = LoraConfig(**_every_linear_map(model, lora, first_layer))
    if not isinstance(lora, PeftConfig):
        raise ValueError(f"lora={lora!r}; expected a rank, or a configuration of peft's such as LoraConfig")
    _check_kind(lora)
    maps = sorted({name.rpartition(".")[2] for name, _ in _linear_maps(model)})
    try:
        inject(model, lora, seed=seed)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"lora does not fit {type(model).__name__}: {error} Its linear maps are called {', '.join(maps)}"
        ) from error
    return train_adapters(model)


def _every_linear_map(model: PreTrainedModel, rank: int, first_layer: int) -> dict[str, Any]:
    layers = layers_of(model)
    rank = count("lora", rank)
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
    """Return True if the model has adapters."""
    return bool(peft_configs(model))


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside peft's wrapper, with its adapters; any other model unchanged.

    Raises:
        ValueError: the wrapper does more than put adapters into layers.
    """
    if not hasattr(model, "get_base_model"):
        return cast(PreTrainedModel, model)
    for config in peft_configs(model).values():
        _check_kind(config)
    if not _computes_in_layers(model):
        raise ValueError(
            f"{_kinds(model)}: peft's wrapper does more than put adapters into layers; expected adapters that work "
            "without it, such as LoRA"
        )
    inner: PreTrainedModel = model.get_base_model()  # type: ignore[operator]
    inner._hf_peft_config_loaded = is_adapted(inner)  # as transformers' add_adapter would have left it
    return inner


def _check_kind(config: Any) -> None:
    """Check that a kind of adapter is supported, independently of the model.

    Raises:
        ValueError: it cannot be trained or restored here.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    bias = getattr(config, "bias", "none")
    if config.is_prompt_learning or getattr(config, "is_adaption_prompt", False):
        raise ValueError(f"{_kind(config)} learns a prompt; expected adapters inside the layers, such as LoRA")
    if getattr(config, "layer_replication", None):
        raise ValueError(
            "layer_replication makes a model of shared layers, which transformers cannot save; leave it out"
        )
    if getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "uses_shared_state", False):
        raise ValueError(
            f"{_kind(config)} keeps weights that its layers share outside of them, where transformers' from_pretrained "
            "does not restore them; expected adapters inside the layers alone, such as LoRA"
        )
    if bias not in ("none", False):
        raise ValueError(
            f"bias={bias!r} trains the model's own biases, which switching the adapters off does not undo; "
            "expected bias='none'"
        )


@torch.no_grad()
def _computes_in_layers(wrapper: Any) -> bool:
    """Return True if the model inside peft's wrapper gives the same logits without the wrapper.

    Fresh adapters often change nothing, so they are perturbed first.
    """
    twin: Any = shared_twin(wrapper)
    _disturb(twin)
    try:
        return _equal(_logits(twin, twin.get_base_model()), _logits(twin.get_base_model()))
    except (TypeError, ValueError, RuntimeError, AttributeError):  # the wrapper needs more than tokens
        return False


def _disturb(model: nn.Module) -> None:
    """Add small reproducible noise to the trained parameters."""
    generator = torch.Generator().manual_seed(0)
    for parameter in _trained(model):
        noise = 0.05 * torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise.to(parameter.device, parameter.dtype))


def train_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Make the active adapter the only trained part, after a check that a checkpoint can restore it.

    Raises:
        ValueError: not exactly one adapter is active; it has no parameter to train; or a checkpoint cannot restore it.
    """
    for config in peft_configs(model).values():
        _check_kind(config)
    name, layers = active_adapter(model), _adapter_layers(model)
    if any(layer.disable_adapters for layer in layers):
        raise ValueError("the adapters are switched off; call enable_adapters(), or take them out with unload()")
    if any(getattr(layer, "merged_adapters", ()) for layer in layers):
        raise ValueError(
            "the adapters are merged into the model's weights, where they cannot be trained; call unmerge_adapter() "
            "first"
        )
    model.requires_grad_(False)
    for layer in layers:
        # Adapters other than the active one stay in the model but must not be trained.
        layer.set_adapter([name] if name in layer._get_available_adapters() else [])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{_kinds(model)}: the adapters of {type(model).__name__} hold no parameter to train")
    frozen_dropout(model)  # adapters may have dropout of their own
    check_restores(model)
    return model


@torch.no_grad()
def check_restores(model: PreTrainedModel) -> None:
    """Check that trained adapters can be restored from a checkpoint, and can be switched off.

    The adapters of a twin, which shares the model's weights, are perturbed. They are then added to the model without
    adapters as a checkpoint's would be, and both must give the same logits.

    Raises:
        ValueError: the logits differ.
    """
    twin, plain = shared_twin(model), without_adapters(model)
    _disturb(twin)
    trained = _logits(twin)
    with adapters_off(twin):
        off = _logits(twin)
    # Bit for bit, as the KL to a reference that differs by rounding would not start at 0.
    if not torch.equal(off, _logits(plain)):
        raise ValueError(
            f"{_kinds(model)}: with its adapters switched off the model differs from the original one, so they would "
            "be lost with a checkpoint; expected adapters that leave the model's own weights as they are, such as LoRA"
        )
    try:
        inject(plain, written_config(twin), {PREFIX + name: value for name, value in adapter_tensors(twin).items()})
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{_kinds(model)} would not come back from a checkpoint: {error}") from error
    restored = _logits(frozen_dropout(plain))
    if not _equal(trained, restored):
        raise ValueError(
            f"{_kinds(model)} would not come back from a checkpoint: peft does not save all that the model computes "
            f"with (logits differ by {float((trained - restored).abs().max()):.2g}); expected adapters such as LoRA"
        )


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def _kinds(model: nn.Module) -> str:
    return ", ".join(sorted({_kind(config) for config in peft_configs(model).values()}))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def _logits(model: Any, base: PreTrainedModel | None = None) -> Tensor:
    """Return ``[1, 4, V]`` logits for the first tokens of the vocabulary; ``base`` is the transformers model inside."""
    base = model if base is None else base
    ids = torch.arange(4, device=base.device)[None] % embedding_rows(base)
    given = {"decoder_input_ids": ids} if base.config.is_encoder_decoder else {}
    # PAD may be among the ids; without a mask transformers would ask the user for one.
    optional = accepted(base, use_cache=False, attention_mask=torch.ones_like(ids))
    logits: Tensor = model(input_ids=ids, **optional, **given).logits
    return logits


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return True if two tensors are equal up to rounding."""
    bound = 200 * torch.finfo(other.dtype).eps * float(other.abs().max())
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=bound)


# --- switching adapters off ------------------------------------------------------------------------------------------


def _adapter_layers(model: nn.Module) -> list[Any]:
    """Return all of peft's layers, which wrap the model's modules."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Switch the adapters off while the block runs; the model is then the original one, bit for bit."""
    layers, trained = _adapter_layers(model), _trained(model)
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
    """The original model without its adapters: a KL reference that needs no second copy.

    Args:
        model: an adapted model, whose adapters are switched off for each pass.
        n_frozen: number of its lower layers that are frozen.
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


@torch.no_grad()
def change_nothing(model: PreTrainedModel) -> bool:
    """Return True if fresh adapters leave the model's logits unchanged, bit for bit."""
    with adapters_off(model):
        plain = _logits(model)
    return torch.equal(_logits(model), plain)


# --- modules that share weights --------------------------------------------------------------------------------------


def shared_twin(model: Model) -> Model:
    """Copy an adapted model, in eval mode; the copy shares all weights that are not trained."""
    trained = {id(parameter) for parameter in _trained(model)}
    # ``deepcopy`` treats objects in its memo as already copied, so these tensors are shared.
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()] if id(tensor) not in trained}
    return copy.deepcopy(model, memo).eval()


def frozen_twin(model: PreTrainedModel) -> PreTrainedModel:
    """Copy an adapted model in its present state: the adapters are copied and frozen, and all else is shared."""
    twin = shared_twin(model)
    twin.requires_grad_(False)
    return twin


def shares_base(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Return True if two adapted models share their original weights."""
    if not (is_adapted(model) and is_adapted(other)):
        return False
    own, others = ({p.data_ptr() for p in without_adapters(one).parameters()} for one in (model, other))
    return own == others


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Return the original model as a separate module that shares its memory."""
    if not is_adapted(model):
        return model
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        # A new Parameter over the same memory: its requires_grad may then differ from the adapted model's.
        memo[id(parameter)] = nn.Parameter(parameter.detach()) if parameter.is_floating_point() else parameter
    return _stripped(copy.deepcopy(model, memo), merge=False)


@torch.no_grad()
def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a plain model with separate weights that computes the same as an adapted one.

    Args:
        model: not changed; a model without adapters is returned itself.

    Raises:
        ValueError: this kind of adapter cannot be added to the weights.
    """
    if not is_adapted(model):
        return model
    try:
        twin = _stripped(copy.deepcopy(model), merge=True)
        same = _equal(_logits(twin), _logits(model))
    except (NotImplementedError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{_kinds(model)} cannot be merged into the model's weights: {error}") from error
    if not same:
        raise ValueError(f"{_kinds(model)} cannot be merged into the model's weights without changing what it computes")
    twin.requires_grad_(True)
    return twin


def _stripped(model: PreTrainedModel, merge: bool) -> PreTrainedModel:
    """Remove peft's layers from a model, in place; ``merge`` keeps their effect on its weights."""

    def strip(module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            base = _plain_module(child, merge)
            if base is not child:
                setattr(module, name, base)
            strip(base)

    strip(model)
    del model.peft_config
    model._hf_peft_config_loaded = False
    return model


def _plain_module(module: Any, merge: bool) -> nn.Module:
    """Return the module that one of peft's layers wraps; any other module unchanged."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, AuxiliaryTrainingWrapper):
        given = module.unload_and_optionally_merge_module(merge, merge, None) if merge else module.original_module
        return _plain_module(given, merge)
    if not isinstance(module, BaseTunerLayer):
        plain: nn.Module = module
        return plain
    if merge and hasattr(module, "unload_and_optionally_merge_module"):
        return _plain_module(module.unload_and_optionally_merge_module(True, True, None), merge)
    if merge:
        module.merge(safe_merge=True)
    base: nn.Module = module.get_base_layer()
    return base


# --- saving ----------------------------------------------------------------------------------------------------------


def save_pretrained(model: PreTrainedModel, directory: Path, lies_at: Path | None = None) -> None:
    """Write a directory for ``from_pretrained``: an adapted model as adapters, with the original model in ``base``.

    Args:
        model: with or without adapters.
        directory: an existing directory.
        lies_at: the directory's final path, if it is moved afterwards; peft finds the base of adapters by its path.
    """
    with without_bars():
        if not is_adapted(model):
            model.save_pretrained(directory)
            return
        without_adapters(model).save_pretrained(directory / BASE)
        lead_to_base(directory)
        write_adapters(model, directory, (lies_at or directory) / BASE)
