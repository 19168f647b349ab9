"""Adapters in a directory, as peft writes and reads them, with the model that they belong to.

Layout::

    adapter_config.json, adapter_model.safetensors     the adapters
    base/config.json, base/model.safetensors           the model without them
    config.json, model.safetensors.index.json          lead transformers' from_pretrained to the base's weights

peft's own functions do the work. Those of transformers (``add_adapter``, ``set_adapter``, ``save_pretrained``) restore
fewer kinds of adapter, and may require a version of peft that is not released yet, as those of 5.24 do.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.files import write_json
from textgym.lm.files.weights import ADAPTER_CONFIG, ADAPTERS, check_weight_files

BASE = "base"
NAME = "default"
"""Name of the one adapter that a directory holds."""
PREFIX = "base_model.model."
"""Prefix that peft's wrapper puts before the names of tensors in a file."""


def base_of(source: str | Path) -> str | None:
    """Find the model that the adapters in a directory belong to.

    Args:
        source: a directory, or a hub id.

    Returns:
        A directory or a hub id; None if there are no adapters, or if transformers itself reads them together with their
        model.

    Raises:
        ValueError: the directory names no model, or one that does not exist.
    """
    directory = Path(source)
    if not (directory / ADAPTER_CONFIG).is_file():
        return None
    if (directory / BASE / "config.json").is_file():
        return str(directory / BASE)
    if (directory / "config.json").is_file():
        return None
    named = _read_config(directory).base_model_name_or_path
    if not named:
        raise ValueError(
            f"{str(source)!r} holds adapters but does not say of which model; write its directory or hub id into "
            f"base_model_name_or_path of {ADAPTER_CONFIG}"
        )
    # peft writes the path as it was at training time; relative paths are tried from the adapters' directory too.
    found = next((path for path in (Path(named), directory / named, directory.parent / named) if path.is_dir()), None)
    if found is None and (Path(named).is_absolute() or len(Path(named).parts) != 2):
        raise ValueError(
            f"{str(source)!r} holds adapters of the model {named!r}, and there is no such directory; put the model "
            f"there, or write where it is into base_model_name_or_path of {ADAPTER_CONFIG}"
        )
    return str(found or named)


def _read_config(directory: Path) -> Any:
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise ImportError(f"{str(directory)!r} holds adapters, which need peft: install textgym[lora]") from error
    try:
        return PeftConfig.from_pretrained(str(directory))
    except Exception as error:  # a config may hold anything
        raise ValueError(
            f"{directory / ADAPTER_CONFIG} cannot be read by the installed peft: {type(error).__name__}: {error}"
        ) from error


def read_adapters(model: PreTrainedModel, directory: str | Path) -> PreTrainedModel:
    """Put the adapters of a directory into the model that they belong to.

    Args:
        model: changed in place.
        directory: written by peft or by :func:`write_adapters`.

    Raises:
        ValueError: the adapters do not fit the model, or do not work inside layers.
    """
    config, tensors = _read_config(Path(directory)), read_tensors(directory)
    try:
        inject(model, config, tensors)
    except ValueError as error:
        raise ValueError(f"the adapters in {str(directory)!r} do not fit {type(model).__name__}: {error}") from error
    return model


def read_tensors(directory: str | Path) -> dict[str, Tensor]:
    """Read the weights of the adapters in a directory, by their names in the file.

    Raises:
        ValueError: there are none, they lie in a pickle, or the file is damaged.
    """
    check_weight_files(directory)
    try:
        return load_file(Path(directory) / ADAPTERS)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"the adapters in {str(directory)!r} cannot be read: {type(error).__name__}: {error}"
        ) from error


def set_adapters(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Load the weights in a directory into a model's active adapter; the model must have the same kind of adapter."""
    _set_tensors(model, read_tensors(directory), active_adapter(model))
    return model


def inject(
    model: PreTrainedModel, config: Any, tensors: Mapping[str, Tensor] | None = None, seed: int | None = None
) -> None:
    """Put adapters into a model's layers; global random state is neither read nor changed.

    Args:
        model: changed in place.
        config: peft's configuration, which is not changed.
        tensors: the adapters' weights, named as in a file; None for initial ones.
        seed: seed of the initial ones.

    Raises:
        ValueError: the adapters do not fit the model, or do not work inside layers.
    """
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), warnings.catch_warnings():
        if tensors is not None:  # peft has already warned when the adapters were made
            warnings.simplefilter("ignore", UserWarning)
        # peft draws initial weights from the global generator, whose state ``fork_rng`` restores.
        torch.manual_seed(seed or 0)
        inject_adapter_in_model(copy.deepcopy(config), model, NAME)
    model._hf_peft_config_loaded = True  # as transformers' add_adapter leaves it
    if tensors is not None:
        _set_tensors(model, tensors, NAME)


def _set_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor], adapter: str) -> None:
    """Load weights into an adapter.

    Raises:
        ValueError: a weight is missing, is unknown to the model, or has the wrong shape.
    """
    from peft import set_peft_model_state_dict

    named = {_in_file(name.removeprefix(PREFIX)): tensor for name, tensor in tensors.items()}
    if missing := sorted(adapter_tensors(model).keys() - named.keys()):
        raise ValueError(f"the file lacks the weights {', '.join(missing[:4])}")
    try:
        loaded: Any = set_peft_model_state_dict(model, named, adapter)
    except (RuntimeError, KeyError) as error:  # of torch about shapes, of peft about names
        raise ValueError(str(error).splitlines()[-1].strip()) from error
    if loaded.unexpected_keys:
        raise ValueError(f"the model has no place for the weights {', '.join(sorted(loaded.unexpected_keys)[:4])}")


def active_adapter(model: nn.Module) -> str:
    """Return the name of the active adapter.

    Raises:
        ValueError: none or several are active.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    names = sorted({name for layer in layers for name in layer.active_adapters})
    if len(names) != 1:
        raise ValueError(
            f"of the model's adapters {sorted(peft_configs(model))} these are switched on: {names}; expected one: "
            "choose it with set_adapter(NAME), or make one of several with peft's add_weighted_adapter"
        )
    return str(names[0])


def peft_configs(model: nn.Module) -> dict[str, Any]:
    """Return the configurations of a model's adapters by name; empty if it has none."""
    return dict(getattr(model, "peft_config", None) or {})


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the active adapter's weights, with peft's file names but without their prefix."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name=active_adapter(model), save_embedding_layers=False)
    return {_in_file(name): tensor for name, tensor in found.items()}


def _in_file(name: str) -> str:
    """Return a name under which both peft and transformers find a tensor; transformers misses DoRA's by peft's name."""
    return f"{name}.weight" if name.endswith("lora_magnitude_vector") else name


def written_config(model: Any, base: str | None = None) -> Any:
    """Return the active adapter's configuration in the form that is saved.

    Args:
        model: an adapted model.
        base: the path of the model without adapters.
    """
    from peft import TaskType

    config = copy.deepcopy(model.peft_config[active_adapter(model)])
    config.task_type = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config.base_model_name_or_path = base
    config.inference_mode = True
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True  # PiSSA and similar methods would change the base's weights a second time
    return config


def write_adapters(model: PreTrainedModel, directory: Path, base: Path) -> None:
    """Write the active adapter in peft's format.

    Args:
        model: an adapted model.
        directory: created if it does not exist.
        base: the path where the model without adapters will lie.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written_config(model, str(base.resolve())).save_pretrained(str(directory))
    named = {PREFIX + name: tensor.detach().clone().contiguous() for name, tensor in adapter_tensors(model).items()}
    save_file(named, directory / ADAPTERS, metadata={"format": "pt"})


def lead_to_base(directory: Path) -> None:
    """Write an index through which transformers' ``from_pretrained`` finds the base's weights in its subfolder."""
    for path in (directory / BASE).glob("*.json"):
        if not path.name.endswith(".index.json"):
            shutil.copy(path, directory / path.name)
    places: dict[str, str] = {}
    size = 0
    for path in sorted((directory / BASE).glob("*.safetensors")):
        size += path.stat().st_size
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), f"{BASE}/{path.name}")
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})
